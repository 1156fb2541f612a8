"""The CIFAR residual network of He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2) under any normalization."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args, overload

import flax.linen as nn
import jax
import jax.numpy as jnp

from colnorm.convolution import Conv3x3
from colnorm.normalization import BatchInstanceNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm

Array = jax.Array
Normalization = Literal["nn", "bn", "in", "bin", "ln", "gn", "flax_bn"]
NormPlacement = Literal["before_addition", "after_addition"]

HE = nn.initializers.he_normal()


def make_normalization(
    name: Normalization, train: bool, axis_name: str | None = None, dtype: Any = None, num_groups: int = 16
) -> Callable[..., Callable[[Array], Array]] | None:
    """The constructor of a layer that maps ``x -> y``; None for ``nn``, no normalization.

    ``flax_bn`` is ``flax.linen.BatchNorm`` with the momentum and the two-pass variance of ours, so that both are the same
    function.
    """
    match name:
        case "nn":
            return None
        case "bn":
            return partial(BatchNorm, use_running_average=not train, axis_name=axis_name, dtype=dtype)
        case "bin":
            return partial(BatchInstanceNorm, use_running_average=not train, axis_name=axis_name, dtype=dtype)
        case "in":
            return partial(InstanceNorm, dtype=dtype)
        case "ln":
            return partial(LayerNorm, dtype=dtype)
        case "gn":
            return partial(GroupNorm, num_groups, dtype=dtype)
        case "flax_bn":
            return partial(
                nn.BatchNorm,
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                use_fast_variance=False,
                axis_name=axis_name,
                dtype=dtype,
            )
    raise ValueError(f"normalization must be one of {', '.join(get_args(Normalization))}, got {name!r}")


class ResidualBlock(nn.Module):
    """conv - norm - relu - conv, the shortcut added, a norm before or after the sum; the relu that follows is the caller's.

    Where the block halves the image it doubles the channels; its shortcut then takes every second pixel and appends zero
    channels (option A of the paper), so that shortcuts have no parameters.
    """

    features: int
    stride: int
    normalization: Callable[..., Callable[[Array], Array]] | None
    norm_placement: NormPlacement = "before_addition"
    dtype: Any = None
    zero_residual: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:  # (N, H, W, C) -> (N, H / stride, W / stride, features), before the relu
        shortcut = x[:, :: self.stride, :: self.stride, :]
        missing = self.features - x.shape[-1]
        if missing:
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, missing)))
        y = conv(x, self.features, self.stride, self.normalization, self.dtype, "1")
        y = norm(y, self.normalization, "1")
        second = self.normalization
        # A channel without a shortcut would be 0 everywhere, at which a relu has no gradient: it would never learn.
        zero = self.zero_residual and not missing
        if zero and second is not None:
            second = partial(second, scale_init=nn.initializers.zeros)
        kernel_init = nn.initializers.zeros if zero and second is None else HE
        y = conv(nn.relu(y), self.features, 1, second, self.dtype, "2", kernel_init)
        if self.norm_placement == "after_addition":
            return norm(y + shortcut, second, "2")
        return norm(y, second, "2") + shortcut


class ResNet(nn.Module):
    """ResNet of depth ``6n + 2``: a stem, three stages of n blocks with 16, 32 and 64 channels, mean, linear classifier.

    Attributes:
      n: blocks in a stage; 2 gives ResNet-14, 3 ResNet-20.
      num_classes: r outputs.
      normalization: ``nn`` none (convolutions then have biases), ``bn`` batch, ``in`` instance, ``bin`` batch-instance,
        ``ln`` layer, ``gn`` group, ``flax_bn`` Flax's own batch normalization.
      axis_name: a mapped axis over which ``bn``, ``bin`` and ``flax_bn`` take their statistics.
      dtype: of convolutions and features (bfloat16, say); None for the input's. Logits have at least float32.
      norm_placement: where a block's second normalization stands. ``before_addition`` (He et al. 2016) is
        ``relu(norm(conv(y)) + shortcut)``: the shortcut passes unchanged. ``after_addition`` is
        ``relu(norm(conv(y) + shortcut))``: every activation has a normalization just before it ("BN after addition" in He et
        al. 2016, Identity mappings, https://arxiv.org/abs/1603.05027, which finds it worse at a rate of 0.1). Parameters
        have the same names and shapes under both. Without a normalization both are the same function.
      num_groups: of ``gn``; must divide 16.
      zero_residual: each block that keeps its channels begins as its shortcut: the scale of its second norm (Goyal et al.,
        2017, https://arxiv.org/abs/1706.02677) or, without a normalization, its second kernel (Zhang et al., 2019,
        https://arxiv.org/abs/1901.09321) is 0 at first. Only with the norm before the addition.

    Convolutions are 3x3 with padding 1 on both sides (Flax's SAME pads one side only at stride 2, another function);
    kernels have the variance 2 / fan-in of He et al. 2015, from a truncated normal distribution. Parameters at ``bn`` and
    ten classes: 75,290 for n = 1, 172,506 for 2, 269,722 for 3, 853,018 for 9.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import ResNet
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> model = ResNet(n=1, num_classes=10, normalization="gn")
      >>> variables = model.init(jax.random.key(0), images)
      >>> logits, features = model.apply(variables, images, return_features=True)
      >>> logits.shape, features["stage3_block1"].shape
      ((2, 10), (2, 8, 8, 64))
    """

    n: int = 2
    num_classes: int = 10
    normalization: Normalization = "bn"
    axis_name: str | None = None
    dtype: Any = None
    norm_placement: NormPlacement = "before_addition"
    num_groups: int = 16
    zero_residual: bool = False

    @overload
    def __call__(self, images: Array, train: bool = False) -> Array: ...
    @overload
    def __call__(
        self, images: Array, train: bool = False, *, return_features: Literal[True]
    ) -> tuple[Array, dict[str, Array]]: ...
    @nn.compact
    def __call__(self, images: Array, train: bool = False, *, return_features: bool = False) -> Any:
        """Classifies images.

        Args:
          images: ``(N, H, W, channels)``, floating point, H and W at least 4.
          train: True takes batch statistics and updates ``batch_stats``, False reads them.
          return_features: also return features by name.

        Returns:
          logits ``(N, num_classes)``; with ``return_features`` the pair (logits, features), where features holds, in
          order: ``stem``, ``stage{1,2,3}_block{1..n}`` (each after its relu), ``last_preactivation`` (what enters the
          last relu, in the shape of the last block) and ``pooled`` ``(N, 64)``.

        Raises:
          ValueError: n or num_classes below 1, an unknown normalization or placement, groups that don't divide 16 channels,
            zero_residual with the norm after the addition, or images of another rank or integer kind.
        """
        if self.n < 1 or self.num_classes < 1:
            raise ValueError(f"ResNet: n and num_classes must be at least 1, got n={self.n}, num_classes={self.num_classes}")
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"ResNet: expected floating-point images (N, H, W, channels), got {images.dtype} {images.shape}")
        if self.norm_placement not in get_args(NormPlacement):
            raise ValueError(
                f"ResNet: norm_placement must be one of {', '.join(get_args(NormPlacement))}, got {self.norm_placement!r}"
            )
        if self.zero_residual and self.norm_placement != "before_addition":
            raise ValueError("ResNet: zero_residual needs norm_placement='before_addition': after it all of a block would be 0")
        normalization = make_normalization(self.normalization, train, self.axis_name, self.dtype, self.num_groups)

        features: dict[str, Array] = {}
        x = nn.relu(norm(conv(images, 16, 1, normalization, self.dtype), normalization))
        features["stem"] = x
        for stage in range(3):
            for block in range(self.n):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                channels = 16 * 2**stage
                block_module = ResidualBlock(
                    channels, stride, normalization, self.norm_placement, self.dtype, self.zero_residual, name=name
                )
                before = block_module(x)
                x = features[name] = nn.relu(before)
        features["last_preactivation"] = before
        wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
        x = features["pooled"] = jnp.mean(x.astype(wide), axis=(1, 2))
        logits = nn.Dense(self.num_classes, dtype=wide, name="classifier")(x)
        return (logits, features) if return_features else logits


def conv(
    x: Array, features: int, stride: int, normalization: Any, dtype: Any, suffix: str = "", kernel_init: Any = HE
) -> Array:
    """A 3x3 convolution, submodule ``conv{suffix}`` of the calling module; it has a bias where no normalization follows."""
    return Conv3x3(features, stride, normalization is None, kernel_init, dtype, name=f"conv{suffix}")(x)


def norm(x: Array, normalization: Any, suffix: str = "") -> Array:
    """The normalization as submodule ``norm{suffix}`` of the calling module; ``x`` itself where there is none."""
    return x if normalization is None else normalization(name=f"norm{suffix}")(x)
