"""A 3x3 convolution with padding 1 whose gradients XLA's CPU backend computes fast; the function and parameters of ``nn.Conv``.

On an accelerator, in other types than float32 and float64, and in forward mode it is ``jax.lax.conv_general_dilated`` as it
stands. On a CPU the same sums are written in the forms below. Milliseconds are of one core of a processor with AVX2, 64 images:

===================  ====================================  ================================================================
what                 form                                  why
===================  ====================================  ================================================================
input, output and    an optimization barrier each          else XLA computes norm and relu again inside the weight
cotangent                                                  gradient's transposes, once for each use
up to 16 outputs,    pairs of output pixels as channels,   the kernels are fast from 32 output channels on, which pays for
stride 1             a 3x4 window that moves by two        a third more operations: 3 -> 16 channels 5.7 to 1.2, 16 -> 16
                                                           10.4 to 8.2
kernel's gradient    a sum over slices of the batch        a slice's transposes stay in the cache: 16 channels 15.4 to 9.2,
                                                           32 channels 12.6 to 6.5, 64 channels 8.6 to 5.0
===================  ====================================  ================================================================

XLA keeps the barriers only with ``--xla_disable_hlo_passes=cse_barrier_expander`` in ``XLA_FLAGS``; without it the result is
the same. Steps of ResNet-14 with 128 images were timed in pairs, with and without one barrier: medians of 9 to 20 rounds on
two cores that were not idle. The input's barrier saves 4 to 8 % of processor time, the cotangent's 3 %. The output's saves
4 % of wall time on two virtual devices and 14 % on one, but no processor time.

Tried without gain: barriers on the paired kernel and on the input's gradient (0.4 % together, quartiles -3 and 5 %), products
over patches (im2col), pairs of pixels in the kernel's gradient, the input gradient at stride 2 in sub-pixel form (1.2 ms
better at 16 -> 32 channels, 2 worse at 32 -> 64).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from colnorm.sharding import over_batch

Array = jax.Array

SLICE = 8  # images of a slice
PAIRED = 16  # output channels up to which pairs of pixels pay

_IMAGES = ("NHWC", "HWIO", "NHWC")
_GRADIENT = ("CHWN", "IHWO", "HWNC")  # the batch as the axis that is summed over, the cotangent as the kernel


class Conv3x3(nn.Module):
    """``nn.Conv(features, (3, 3), strides=stride, padding=1)``: ``(N, H, W, C) -> (N, ceil(H / s), ceil(W / s), features)``.

    Attributes:
      features: output channels.
      stride: of both axes.
      use_bias: whether there is a ``bias (features,)``, zero at first.
      kernel_init: of ``kernel (3, 3, C, features)``.
      dtype: of the result; None promotes input and parameters.
      param_dtype: of the parameters.
    """

    features: int
    stride: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(x, kernel, self.stride)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """``x (N, H, W, C)`` with ``kernel (3, 3, C, O)``, padding 1. On a CPU differentiable in reverse mode only."""
    if jax.default_backend() == "cpu" and x.dtype in (jnp.float32, jnp.float64):
        # A zero that varies over the axes of a shard_map as x does: the kernel's gradient is then added up over them.
        return over_batch(_convolve)(x, kernel + jnp.sum(x[:0]), stride)
    return _plain(x, kernel, stride)


def _plain(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=_IMAGES)


def _apply(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution in the form that suits its shape."""
    features = kernel.shape[-1]
    if stride > 1 or features > PAIRED or x.shape[2] % 2:
        return _plain(x, kernel, stride)
    # Output pixel 2i + j of a row sees the columns j, j + 1, j + 2 of the window of four that begins at pixel 2i - 1.
    windows = [jnp.pad(kernel, ((0, 0), (j, 1 - j), (0, 0), (0, 0))) for j in (0, 1)]
    pair = jnp.stack(windows, axis=3).reshape(3, 4, -1, 2 * features)
    y = jax.lax.conv_general_dilated(x, pair, (1, 2), ((1, 1), (1, 1)), dimension_numbers=_IMAGES)
    return y.reshape(*x.shape[:3], features)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.optimization_barrier(_apply(jax.lax.optimization_barrier(x), kernel, stride))


def _convolve_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    x = jax.lax.optimization_barrier(x)
    return jax.lax.optimization_barrier(_apply(x, kernel, stride)), (x, kernel)


def _convolve_backward(stride: int, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    cotangent = jax.lax.optimization_barrier(cotangent)
    if stride == 1:
        # The transpose of a convolution with padding 1 is one with the kernel flipped and its channels exchanged.
        dx = _apply(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1)
    else:
        (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)(cotangent)
    return dx, _kernel_gradient(x, cotangent, stride)


def _kernel_gradient(x: Array, cotangent: Array, stride: int) -> Array:
    """``sum over images and pixels of x[pixel * stride + offset] cotangent[pixel]``, ``(3, 3, C, O)``."""
    # What the last window reads past the image: 1 at stride 1; at stride 2 none of it where the size is even.
    pads = [(1, (out - 1) * stride + 2 - size) for size, out in zip(x.shape[1:3], cotangent.shape[1:3], strict=True)]

    def of_slice(first: int) -> Array:
        return jax.lax.conv_general_dilated(
            x[first : first + SLICE],
            cotangent[first : first + SLICE],
            (1, 1),
            pads,
            rhs_dilation=(stride, stride),
            dimension_numbers=_GRADIENT,
        )

    return sum((of_slice(first) for first in range(SLICE, len(x), SLICE)), start=of_slice(0))


_convolve.defvjp(_convolve_forward, _convolve_backward)
