r"""Batch, instance, batch-instance, layer and group normalization, as Flax Linen modules.

Every layer takes channels-last arrays ``(N, *spatial, C)`` with any number of spatial axes and computes

.. math::  y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \cdot \text{scale} + \text{bias}

with one ``scale`` and one ``bias`` per channel; the layers differ only in the axes over which the mean :math:`\mu` and the
biased variance :math:`\sigma^2` are taken:

=================  =======================================  =======================
layer              statistics over                          state
=================  =======================================  =======================
BatchNorm          batch and spatial axes, per channel      ``batch_stats`` mean, var
InstanceNorm       spatial axes, per example and channel    none
BatchInstanceNorm  both of the above, mixed by a gate       ``batch_stats`` mean, var
LayerNorm          all but the batch axis, per example      none
GroupNorm          spatial axes and a group of channels     none
=================  =======================================  =======================

Conventions, the same for every layer:

- Statistics are float32 for bfloat16 and float16 input, float64 for float64 input, and two-pass: they stay exact where the
  mean is thousands of standard deviations.
- ``mask (N, *spatial)`` is boolean, True counts. What stands behind False, NaN included, changes neither the result nor any
  gradient, and comes out as 0. Where nothing counts, everything stays finite and running statistics stay as they are.
- ``use_running_average`` is accepted by every layer, so that they are interchangeable, and read by the two that keep
  running statistics.
- Wrong shapes, dtypes or arguments are a ``ValueError`` when the layer is traced.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

Array = jax.Array
Dtype = Any


class _Layer(nn.Module):
    """The fields of every layer."""

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    scale_init: Callable[..., Any] = nn.initializers.ones


class _Running(nn.Module):
    """The fields of layers with running statistics, which come before those of every layer."""

    use_running_average: bool | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | tuple[str, ...] | None = None


class _Grouped(nn.Module):
    """The field of :class:`GroupNorm` that comes before those of every layer."""

    num_groups: int = 16


# Of several bases a dataclass takes the fields of the last one first, and each field at its first place.
class BatchNorm(_Layer, _Running):
    """Batch normalization (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167).

    In training the statistics are those of the batch, per channel over all other axes, and the running statistics become
    ``momentum * running + (1 - momentum) * batch``; in evaluation the running ones are used. Both variances are biased
    (divided by n, where PyTorch's running variance divides by n - 1).

    Attributes:
      use_running_average: True in evaluation, False in training; here or in the call, and an error in neither, so that it
        can't be forgotten.
      momentum: fraction of the running statistic that is kept; 0.9 is PyTorch's 0.1.
      epsilon: added to the variance, in its unit.
      axis_name: a ``pmap``, ``vmap`` or ``shard_map`` axis over which the batch is split; the statistics are then those of
        the whole batch, weighted by the number of elements that count on each device.
      use_scale, use_bias: whether to learn ``scale`` and ``bias`` (starts at 0), each ``(C,)``.
      dtype: of the result; None promotes input and parameters.
      param_dtype: of the parameters; the running statistics have at least float32.
      scale_init: of ``scale``; by default it starts at 1.

    Collections: ``params`` scale, bias; ``batch_stats`` mean (starts at 0), var (starts at 1), each ``(C,)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import BatchNorm
      >>> x = jnp.array([[1.0], [3.0]])  # (N, C)
      >>> layer = BatchNorm()
      >>> variables = layer.init(jax.random.key(0), x, use_running_average=False)
      >>> y, updated = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
      >>> [round(value, 3) for value in y[:, 0].tolist()]
      [-1.0, 1.0]
      >>> round(float(updated["batch_stats"]["mean"][0]), 3)  # 0.9 * 0 + 0.1 * 2
      0.2
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None, mask: Array | None = None) -> Array:
        """Normalizes ``x (N, *spatial, C)``, batch statistics or running ones; ``mask (N, *spatial)``. Returns x's shape."""
        where = _check(self, x, mask)
        scale, bias, dtype = _scale_and_bias(self, x)
        average = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        x = _zero_masked(x.astype(_wide(x, dtype)), where)
        return _zero_masked(_normalize_batch(self, x, scale, bias, where, average), where).astype(dtype)


class BatchInstanceNorm(_Layer, _Running):
    """Batch-instance normalization (Nam and Kim, 2018, https://arxiv.org/abs/1805.07925).

    ``y = (gate * batch_normalized + (1 - gate) * instance_normalized) * scale + bias`` with one gate per channel in [0, 1],
    a parameter that starts at 1 (batch normalization). The forward pass clips the gate. Its gradient is that of the
    unclipped gate, dropped only where a gradient-descent step would carry the gate further outside: a gate at 1 can come
    back, and one that an optimizer threw past an end is pulled in again.

    The authors train the gate at ten times the learning rate of the rest and without weight decay:
    ``colnorm.optimizers.sgd(..., gate_multiplier=10)`` does that.

    Attributes and collections: those of :class:`BatchNorm`, and ``params`` gate ``(C,)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import BatchInstanceNorm
      >>> x = jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]])  # (N, T, C)
      >>> layer = BatchInstanceNorm(use_running_average=False)
      >>> variables = layer.init(jax.random.key(0), x)
      >>> variables["params"]["gate"].tolist()
      [1.0]
      >>> y, _ = layer.apply(variables, x, mutable=["batch_stats"])  # batch normalization
      >>> [round(value, 2) for value in y[..., 0].ravel().tolist()]
      [-1.34, -0.45, 0.45, 1.34]
      >>> gate = {**variables["params"], "gate": jnp.zeros(1)}  # instance normalization
      >>> y, _ = layer.apply({**variables, "params": gate}, x, mutable=["batch_stats"])
      >>> [round(value, 2) for value in y[..., 0].ravel().tolist()]
      [-1.0, 1.0, -1.0, 1.0]
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None, mask: Array | None = None) -> Array:
        """Normalizes ``x (N, *spatial, C)`` with at least one spatial axis; ``mask (N, *spatial)``. Returns x's shape."""
        where = _check(self, x, mask, spatial=True)
        scale, bias, _ = _scale_and_bias(self, x)
        gate = self.param("gate", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        dtype = canonicalize_dtype(x, scale, bias, gate, dtype=self.dtype)
        average = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        x = _zero_masked(x.astype(_wide(x, dtype)), where)
        # Each part takes its share of the scale: the gate's gradient comes out of the scales'.
        weight = clip_gate(gate.astype(x.dtype))
        whole = 1 if scale is None else scale.astype(x.dtype)
        shares = whole * weight, whole * (1 - weight)
        y = _normalize_batch(self, x, shares[0], bias, where, average)
        y = y + _normalize(x, shares[1], None, where, _Over(self.epsilon, batch=False, groups=x.shape[-1]))[0]
        return _zero_masked(y, where).astype(dtype)


class InstanceNorm(_Layer):
    """Instance normalization (Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022).

    Statistics over the spatial axes, per example and channel, in training and evaluation alike. Attributes ``epsilon``,
    ``use_scale``, ``use_bias``, ``dtype``, ``param_dtype`` and ``scale_init`` as in :class:`BatchNorm`; ``params`` scale,
    bias.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import InstanceNorm
      >>> x = jnp.array([[[1.0], [3.0]], [[50.0], [70.0]]])  # (N, T, C)
      >>> y, _ = InstanceNorm().init_with_output(jax.random.key(0), x)
      >>> [round(value, 2) for value in y[..., 0].ravel().tolist()]
      [-1.0, 1.0, -1.0, 1.0]
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None, mask: Array | None = None) -> Array:
        """Normalizes ``x (N, *spatial, C)`` with at least one spatial axis; ``mask (N, *spatial)``. Returns x's shape."""
        where = _check(self, x, mask, spatial=True)
        return _normalize_example(self, x, where, groups=x.shape[-1])


class LayerNorm(_Layer):
    """Layer normalization (Ba et al., 2016, https://arxiv.org/abs/1607.06450), as images use it.

    Statistics over all axes but the first, per example; scale and bias per channel. In a ``(B, T, C)`` array of sequences
    this mixes time steps: for a normalization of each step alone, fold time into the batch. Attributes as in
    :class:`InstanceNorm`; ``params`` scale, bias.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import LayerNorm
      >>> x = jnp.array([[1.0, 3.0], [50.0, 70.0]])  # (N, C)
      >>> y, _ = LayerNorm().init_with_output(jax.random.key(0), x)
      >>> [round(value, 2) for value in y.ravel().tolist()]
      [-1.0, 1.0, -1.0, 1.0]
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None, mask: Array | None = None) -> Array:
        """Normalizes ``x (N, *spatial, C)``; ``mask (N, *spatial)``. Returns x's shape."""
        where = _check(self, x, mask)
        return _normalize_example(self, x, where, groups=1)


class GroupNorm(_Layer, _Grouped):
    """Group normalization (Wu and He, 2018, https://arxiv.org/abs/1803.08494).

    The channels are cut into ``num_groups`` runs of equal length; statistics over the spatial axes and one run, per
    example. One group is :class:`LayerNorm`, as many groups as channels :class:`InstanceNorm`. A ``num_groups`` that
    doesn't divide the channels is an error. Other attributes as in :class:`InstanceNorm`; ``params`` scale, bias.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import GroupNorm
      >>> x = jnp.array([[1.0, 3.0, 50.0, 70.0]])  # (N, C)
      >>> y, _ = GroupNorm(2).init_with_output(jax.random.key(0), x)
      >>> [round(value, 2) for value in y.ravel().tolist()]
      [-1.0, 1.0, -1.0, 1.0]
    """

    @nn.compact
    def __call__(self, x: Array, use_running_average: bool | None = None, mask: Array | None = None) -> Array:
        """Normalizes ``x (N, *spatial, C)``; ``mask (N, *spatial)``. Returns x's shape."""
        where = _check(self, x, mask)
        channels = x.shape[-1]
        if self.num_groups < 1 or channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: num_groups must divide the channels, got {self.num_groups} groups for {channels} channels"
            )
        return _normalize_example(self, x, where, self.num_groups)


@jax.custom_vjp
def clip_gate(gate: Array) -> Array:
    """Clips to [0, 1]; the gradient passes unchanged, but for steps that would carry the gate further outside.

    Beyond 1 a negative gradient (a descent step upwards) is dropped, below 0 a positive one; inside and on the interval's
    ends the gradient is whole. ``jnp.clip`` has none outside, and half of it at the ends,
    where a gate starts: gates that leave never return. Reverse mode only, to any order.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm.normalization import clip_gate
      >>> float(clip_gate(jnp.asarray(1.5)))
      1.0
      >>> float(jax.grad(clip_gate)(jnp.asarray(1.5)))  # descent comes back
      1.0
      >>> float(jax.grad(lambda gate: -clip_gate(gate))(jnp.asarray(1.5)))  # descent would go further out
      0.0
    """
    return jnp.clip(gate, 0, 1)


def _clip_gate_forward(gate: Array) -> tuple[Array, Array]:
    return clip_gate(gate), gate


def _clip_gate_backward(gate: Array, gradient: Array) -> tuple[Array]:
    leaves = ((gate > 1) & (gradient < 0)) | ((gate < 0) & (gradient > 0))
    return (jnp.where(leaves, 0, gradient),)


clip_gate.defvjp(_clip_gate_forward, _clip_gate_backward)


class _Over(NamedTuple):
    """What statistics are over: the spatial axes and, where it says so, the batch, runs of channels and device axes."""

    epsilon: float
    batch: bool
    groups: int
    axis_name: str | tuple[str, ...] | None = None

    def channel_sums(self, values: Array) -> Array:
        """Of ``values (N, *spatial, C or 1)`` per channel, on this device: ``(N or 1, 1..., C or 1)``."""
        return jnp.sum(values, range(0 if self.batch else 1, values.ndim - 1), keepdims=True)

    def pool(self, *sums: Array) -> tuple[Array, ...]:
        """Channels' sums added up over their group, which each of its channels then holds, and over devices, all at once."""

        def over_group(sums: Array) -> Array:
            split = sums.reshape(*sums.shape[:-1], self.groups, -1)
            return jnp.broadcast_to(jnp.sum(split, -1, keepdims=True), split.shape).reshape(sums.shape)

        if self.groups < sums[0].shape[-1]:
            sums = tuple(map(over_group, sums))
        return sums if self.axis_name is None else jax.lax.psum(sums, self.axis_name)


class _Moments(NamedTuple):
    mean: Array
    var: Array
    counted: Array | int  # how many elements each statistic is of


def _normalize(x: Array, scale: Array | None, bias: Array | None, where: Array | None, over: _Over) -> tuple[Array, _Moments]:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` and the moments, which carry no gradient; masked x must be 0."""
    # A zero that varies over the axes of a shard_map as x does: the parameters' gradients are then added up over them.
    zero = jnp.sum(x[:0], range(x.ndim - 1))
    scale = zero + (jnp.ones_like(zero) if scale is None else scale.astype(x.dtype))
    bias = zero if bias is None else zero + bias.astype(x.dtype)
    y, moments = _standardize(over, x, _per_channel(scale, x.ndim), _per_channel(bias, x.ndim), where)
    return y, jax.tree.map(jax.lax.stop_gradient, moments)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _standardize(over: _Over, x: Array, scale: Array, bias: Array, where: Array | None) -> tuple[Array, _Moments]:
    """Scale and bias ``(1..., C)``. The gradient is written by hand: two passes over the input, where autodiff takes more.

    The statistics take two passes: a first mean as a shift, then the sums of ``d = x - shift`` and ``d * d`` (Chan, Golub
    and LeVeque, 1983). The second sum of ``d`` repairs the first mean's rounding, which in float32 over 10^5 elements can
    reach 10^-5 of the mean itself. They do not depend on the shift, so no gradient flows through it.
    """
    return _standardize_forward(over, x, scale, bias, where)[0]


def _standardize_forward(over: _Over, x: Array, scale: Array, bias: Array, where: Array | None) -> Any:
    if where is None:
        size = math.prod(x.shape[0 if over.batch else 1 : -1]) * (x.shape[-1] // over.groups)
        counted: Array | int = size if over.axis_name is None else size * jax.lax.axis_size(over.axis_name)
        divisor: Array | int = max(counted, 1)
    else:
        # The mask has one channel: each of its elements stands for as many as a group has.
        counted = over.channel_sums(where.astype(x.dtype)) * (x.shape[-1] // over.groups)
        counted = counted if over.axis_name is None else jax.lax.psum(counted, over.axis_name)
        divisor = jnp.maximum(counted, 1)

    def means(*values: Array) -> list[Array]:
        return [total / divisor for total in over.pool(*map(over.channel_sums, values))]

    (shift,) = jax.lax.stop_gradient(means(jax.lax.stop_gradient(x)))
    # XLA would store a difference that several sums share, which takes longer than the sums themselves. A barrier before
    # each sum makes it compute its own. Where XLA drops the barriers (see colnorm/convolution.py) the result is the same.
    (again,) = jax.lax.optimization_barrier((shift,))
    rest, square = means(_zero_masked(x - shift, where), jnp.square(_zero_masked(x - again, where)))
    (shift,) = jax.lax.optimization_barrier((again,))
    d = _zero_masked(x - shift, where)
    var = square - rest * rest
    var = jnp.where(var < 0, jnp.zeros_like(var), var)  # rounding; jnp.maximum would halve the curvature of constant input
    rstd = jax.lax.rsqrt(var + over.epsilon)
    y = (d - rest) * (rstd * scale) + bias
    return (y, _Moments(shift + rest, var, counted)), (x, scale, where, shift, rest, rstd, divisor)


def _standardize_backward(over: _Over, saved: Any, cotangents: tuple[Array, _Moments]) -> tuple[Array, Array, Array, None]:
    r"""With ``n`` the normalized input, ``g`` the cotangent times scale, and means as the statistics are taken:
    ``dx = (g - mean(g) - n mean(g n)) / sqrt(var + epsilon)``.
    """
    x, scale, where, shift, rest, rstd, divisor = saved
    gradient = _zero_masked(cotangents[0], where)
    # The parameters' gradients are the same sums, over the batch.
    by_bias = over.channel_sums(gradient)
    (again,) = jax.lax.optimization_barrier((shift,))
    by_scale = (over.channel_sums(gradient * (x - again)) - by_bias * rest) * rstd
    centred = x - shift - rest
    mean, mean_normalized = (total / divisor for total in over.pool(by_bias * scale, by_scale * scale))
    dx = gradient * (rstd * scale) - centred * (rstd * rstd * mean_normalized) - rstd * mean
    return _zero_masked(dx, where), jnp.sum(by_scale, 0, keepdims=True), jnp.sum(by_bias, 0, keepdims=True), None


_standardize.defvjp(_standardize_forward, _standardize_backward)


def _normalize_batch(
    module: Any, x: Array, scale: Array | None, bias: Array | None, where: Array | None, use_running_average: bool
) -> Array:
    """By the statistics of the batch or, in evaluation, of ``batch_stats``; updates the latter in training."""
    features = (x.shape[-1],)
    stats_dtype = jnp.float64 if jnp.dtype(module.param_dtype) == jnp.float64 else jnp.float32
    running_mean = module.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
    running_var = module.variable("batch_stats", "var", jnp.ones, features, stats_dtype)
    if use_running_average:
        factor = jax.lax.rsqrt(running_var.value.astype(x.dtype) + module.epsilon)
        factor = factor if scale is None else factor * scale.astype(x.dtype)
        y = (x - _per_channel(running_mean.value.astype(x.dtype), x.ndim)) * _per_channel(factor, x.ndim)
        return y if bias is None else y + _per_channel(bias.astype(x.dtype), x.ndim)
    # Flax initializes outside of pmap, where the axis has no name; nothing is synchronized or updated then.
    axis_name = None if module.is_initializing() else module.axis_name
    y, moments = _normalize(x, scale, bias, where, _Over(module.epsilon, True, x.shape[-1], axis_name))
    if not module.is_initializing():
        keep = jnp.where(jnp.asarray(moments.counted) > 0, module.momentum, 1.0).reshape(())
        for running, batch in ((running_mean, moments.mean), (running_var, moments.var)):
            kept = keep.astype(running.value.dtype)  # the state keeps its dtype, so that a step does not compile twice
            running.value = kept * running.value + (1 - kept) * batch.reshape(features).astype(kept.dtype)
    return y


def _normalize_example(module: _Layer, x: Array, where: Array | None, groups: int) -> Array:
    """The layers without running statistics: each example's own, over ``groups`` runs of channels."""
    scale, bias, dtype = _scale_and_bias(module, x)
    x = _zero_masked(x.astype(_wide(x, dtype)), where)
    y, _ = _normalize(x, scale, bias, where, _Over(module.epsilon, False, groups))
    return _zero_masked(y, where).astype(dtype)


def _scale_and_bias(module: _Layer, x: Array) -> tuple[Array | None, Array | None, Dtype]:
    """The parameters, None where unused, and the dtype of the result."""

    def parameter(used: bool, name: str, initializer: Callable) -> Array | None:
        return module.param(name, initializer, (x.shape[-1],), module.param_dtype) if used else None

    scale = parameter(module.use_scale, "scale", module.scale_init)
    bias = parameter(module.use_bias, "bias", nn.initializers.zeros)
    return scale, bias, canonicalize_dtype(x, scale, bias, dtype=module.dtype)


def _check(module: nn.Module, x: Array, mask: Array | None, spatial: bool = False) -> Array | None:
    """Refuses what can't be normalized; returns the mask with a channel axis of size 1."""
    name = type(module).__name__
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: expected a floating-point input, got {x.dtype}")
    if x.ndim < 2:
        raise ValueError(f"{name}: expected an input of shape (N, *spatial, C), got {x.shape}")
    if spatial and x.ndim < 3:
        raise ValueError(f"{name}: instance statistics need at least one spatial axis, (N, *spatial, C), got {x.shape}")
    if mask is None:
        return None
    if mask.shape != x.shape[:-1]:
        raise ValueError(f"{name}: expected a mask of shape {x.shape[:-1]} for an input of shape {x.shape}, got {mask.shape}")
    if mask.dtype != jnp.bool_:
        raise ValueError(f"{name}: expected a boolean mask (True counts), got {mask.dtype}")
    return mask[..., None]


def _wide(x: Array, dtype: Dtype) -> Dtype:
    """The dtype to compute in: at least float32, and float64 for float64 input or result."""
    return jnp.float64 if jnp.float64 in (x.dtype, jnp.dtype(dtype)) else jnp.float32


def _zero_masked(x: Array, where: Array | None) -> Array:
    return x if where is None else jnp.where(where, x, jnp.zeros_like(x))


def _per_channel(parameter: Array, ndim: int) -> Array:
    return parameter.reshape((1,) * (ndim - 1) + parameter.shape)
