"""Filters for the first convolution that whiten the patches it sees: where a training begins, not a constraint on it.

The idea is Page's (2018, "How to train your ResNet") and Jordan's (2024, https://arxiv.org/abs/2404.00498), whose networks
begin with such filters and leave them as they are.
"""

import numpy as np

EPSILON = 1e-2
"""Added to the variance of each direction: those that hardly vary are not blown up."""


def whitening_kernel(images: np.ndarray, features: int, size: int = 3) -> np.ndarray:
    """The kernel of a convolution whose outputs are uncorrelated over the patches of images.

    With ``C`` the second moments of patches x, ``C v_k = lambda_k v_k`` and lambda_1 the largest, filter k is
    ``v_k / sqrt(lambda_k + 0.01)``: its output has a mean square of about 1. The first half of the filters are those of the
    largest eigenvalues, the other half their negatives, so that a relu loses nothing.

    Args:
      images: ``(N, H, W, C)``, standardized.
      features: filters, an even number of at most ``2 size size C``.
      size: of a patch.

    Returns:
      ``(size, size, C, features)`` float32, of unit output for the largest eigenvalues. The sign of each vector is that which
      makes its largest element positive.

    Raises:
      ValueError: features is odd or too many.
    """
    channels = images.shape[-1]
    if features % 2 or not 0 < features <= 2 * size * size * channels:
        raise ValueError(f"features must be even and from 2 to {2 * size * size * channels}, got {features}")
    moments = np.zeros((size * size * channels,) * 2)
    patches = 0
    for part in np.array_split(images, len(images) // 500 + 1):
        # (n, h, w, C, size, size) -> (n h w, size size C), in the order of a kernel's axes
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(1, 2))
        rows = np.moveaxis(windows, 3, -1).reshape(-1, size * size * channels).astype(np.float64)
        moments += rows.T @ rows
        patches += len(rows)
    values, vectors = np.linalg.eigh(moments / patches)  # ascending
    chosen = np.argsort(values)[::-1][: features // 2]
    vectors = vectors[:, chosen]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(chosen))])
    half = vectors / np.sqrt(values[chosen] + EPSILON)
    return np.concatenate([half, -half], 1).reshape(size, size, channels, features).astype(np.float32)
