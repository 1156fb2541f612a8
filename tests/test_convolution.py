"""The convolution against Flax's ``nn.Conv`` and XLA's own: values, gradients, second derivatives, in every form it takes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm import convolution
from colnorm.convolution import Conv3x3, convolve

# (images, height, width, channels, features): every form, odd sizes, sides of 1 and 2, and batches that slices don't divide
SHAPES = [
    (2, 6, 8, 3, 16),
    (11, 5, 4, 16, 16),
    (1, 7, 5, 16, 16),
    (3, 4, 6, 16, 32),
    (9, 5, 7, 32, 64),
    (2, 1, 2, 5, 1),
    (1, 2, 1, 64, 64),
    (8, 3, 4, 40, 7),
]


def draw(shape, dtype, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def plain(x, kernel, stride):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def close(ours, theirs, relative):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


def case(shape, stride, dtype):
    images, height, width, channels, features = shape
    x = draw((images, height, width, channels), dtype)
    kernel = draw((3, 3, channels, features), dtype, seed=1)
    cotangent = draw((images, -(-height // stride), -(-width // stride), features), dtype, seed=2)
    return x, kernel, cotangent


def value_and_gradients(convolution, x, kernel, cotangent):
    y, pull = jax.vjp(convolution, x, kernel)
    return y, *pull(cotangent)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_plain_convolution(shape, stride, x64):
    for dtype, relative in ((jnp.float32, 1e-5), (jnp.float64, 1e-10)):
        arrays = case(shape, stride, dtype)
        ours = value_and_gradients(lambda x, kernel: convolve(x, kernel, stride), *arrays)
        theirs = value_and_gradients(lambda x, kernel: plain(x, kernel, stride), *arrays)
        for our, their in zip(ours, theirs, strict=True):
            close(our, their, relative)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[4:6])
def test_second_derivatives(shape, stride, x64):
    arrays = case(shape, stride, jnp.float64)

    def gradient_norm(convolution):
        def loss(x, kernel):
            return jnp.sum(jnp.tanh(convolution(x, kernel, stride)) * arrays[2])

        def norm(x, kernel):
            return sum(jnp.sum(gradient**2) for gradient in jax.grad(loss, argnums=(0, 1))(x, kernel))

        return jax.grad(norm, argnums=(0, 1))(*arrays[:2])

    for our, their in zip(gradient_norm(convolve), gradient_norm(plain), strict=True):
        close(our, their, 1e-10)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_module_is_flaxs_with_the_same_parameters(stride, use_bias):
    x = draw((3, 5, 6, 3), jnp.float32)
    ours = Conv3x3(16, stride, use_bias)
    theirs = nn.Conv(16, (3, 3), stride, padding=1, use_bias=use_bias)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.init(jax.random.key(0), x), variables))
    variables = jax.tree.map(lambda leaf: leaf + 0.5, variables)  # a bias that is not 0

    def loss(variables, module):
        return jnp.sum(jnp.sin(module.apply(variables, x)))

    close(ours.apply(variables, x), theirs.apply(variables, x), 1e-5)
    jax.tree.map(lambda a, b: close(a, b, 1e-5), *(jax.grad(loss)(variables, module) for module in (ours, theirs)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16])
def test_narrow_types_are_flaxs_bit_for_bit(dtype):
    x = draw((2, 4, 6, 3), jnp.bfloat16 if dtype is None else jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = Conv3x3(16, dtype=dtype), nn.Conv(16, (3, 3), padding=1, dtype=dtype)
        variables = theirs.init(jax.random.key(0), x)
        y, expected = ours.apply(variables, x), theirs.apply(variables, x)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@pytest.mark.slow
def test_vmap_is_a_loop():
    x, kernel = draw((3, 2, 4, 6, 16), jnp.float32), draw((3, 3, 3, 16, 16), jnp.float32, seed=1)
    cotangent = draw(x.shape, jnp.float32, seed=2)

    def all_of(*arrays):
        return value_and_gradients(convolve, *arrays)

    loop = [all_of(*arrays) for arrays in zip(x, kernel, cotangent, strict=True)]
    for our, their in zip(jax.vmap(all_of)(x, kernel, cotangent), zip(*loop, strict=True), strict=True):
        close(our, jnp.stack(their), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
def test_devices_share_a_batch(stride):
    x, kernel, cotangent = case((8, 4, 6, 16, 16), stride, jnp.float32)

    def part(x, kernel, cotangent):
        return value_and_gradients(lambda x, kernel: convolve(x, kernel, stride), x, kernel, cotangent)

    split = [array.reshape(4, 2, *array.shape[1:]) for array in (x, cotangent)]
    y, dx, dkernel = jax.pmap(part, "devices", in_axes=(0, None, 0))(split[0], kernel, split[1])
    expected = value_and_gradients(lambda x, kernel: plain(x, kernel, stride), x, kernel, cotangent)
    for our, their in zip((y.reshape(expected[0].shape), dx.reshape(x.shape), dkernel.sum(0)), expected, strict=True):
        close(our, their, 1e-5)

    mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, whole = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()
    # What is whole in the mesh gets a gradient that is added up over it, as that of XLA's own convolution is.
    mapped = jax.shard_map(part, mesh=mesh, in_specs=(batch, whole, batch), out_specs=(batch, batch, whole))
    for our, their in zip(jax.jit(mapped)(x, kernel, cotangent), expected, strict=True):
        close(our, their, 1e-5)


def test_off_the_cpu_it_is_the_plain_convolution(monkeypatch):
    x, kernel, _ = case(SHAPES[0], 1, jnp.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(convolution, "_convolve", None)
    np.testing.assert_array_equal(convolve(x, kernel), plain(x, kernel, 1))
    jax.jvp(convolve, (x, kernel), (x, kernel))  # forward mode too
