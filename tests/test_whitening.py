"""Whitening filters against a loop over patches and NumPy's singular values."""

import jax
import numpy as np
import pytest
from resnet_cases import random_images

from experiments.whitening import EPSILON, whitening_kernel


def correlated(count=60, height=7, width=6, channels=3):
    """Images whose neighbours and channels go together, as those of photographs do."""
    white = random_images((count, height + 2, width + 2, channels)).astype(np.float64)
    smooth = sum(white[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
    return (smooth @ np.array([[1, 0.5, 0.2], [0, 1, 0.5], [0, 0, 1]]) + 0.3).astype(np.float32)


def patches_of(images, size):
    count, height, width, _ = images.shape
    return np.array(
        [
            images[n, i : i + size, j : j + size].ravel()
            for n in range(count)
            for i in range(height - size + 1)
            for j in range(width - size + 1)
        ],
        np.float64,
    )


@pytest.mark.parametrize(("features", "size"), [(2, 3), (16, 3), (54, 3), (24, 2)])
def test_outputs_are_uncorrelated_and_of_size_one(features, size):
    images = correlated()
    kernel = whitening_kernel(images, features, size)
    assert kernel.shape == (size, size, 3, features) and kernel.dtype == np.float32
    y = jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = np.asarray(y, np.float64).reshape(-1, features)
    half = features // 2
    np.testing.assert_allclose(y[:, half:], -y[:, :half], rtol=1e-5, atol=1e-5)
    patches = patches_of(images, size)
    values = np.linalg.svd(patches, compute_uv=False)[:half] ** 2 / len(patches)
    np.testing.assert_allclose(y[:, :half].T @ y[:, :half] / len(y), np.diag(values / (values + EPSILON)), atol=2e-4)


def test_the_order_of_images_does_not_matter_and_no_sign_is_left_open():
    images = correlated(1200)
    kernel = whitening_kernel(images, 16)
    np.testing.assert_allclose(whitening_kernel(images[::-1], 16), kernel, rtol=1e-4, atol=1e-4)
    rows = kernel.reshape(27, 16)[:, :8]
    assert (rows[np.abs(rows).argmax(0), np.arange(8)] > 0).all()


def test_a_direction_that_never_varies_stays_finite():
    images = np.zeros((2, 5, 5, 3), np.float32)
    images[:, :, :, 0] = random_images((2, 5, 5))
    assert np.isfinite(whitening_kernel(images, 54)).all()


@pytest.mark.parametrize("features", [0, 3, 56])
def test_other_numbers_of_filters_are_refused(features):
    with pytest.raises(ValueError, match=f"even and from 2 to 54, got {features}"):
        whitening_kernel(correlated(2), features)
