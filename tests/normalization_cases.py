"""What the tests of the normalization layers share: the layers by name, and what they compute as float64 NumPy loops.

The oracle cuts the valid elements out, subtracts their mean and divides by their deviation.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import BatchInstanceNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm

LAYERS = {"bn": BatchNorm, "in": InstanceNorm, "bin": BatchInstanceNorm, "ln": LayerNorm, "gn": partial(GroupNorm, 2)}
RUNNING = ("bn", "bin")  # the layers with running statistics
SHAPES = {0: (7, 4), 1: (5, 6, 4), 2: (4, 3, 5, 4), 3: (3, 2, 3, 4, 4)}  # by the number of spatial axes
KIND_AND_RANK = [(kind, rank) for kind in LAYERS for rank in SHAPES if rank or kind not in ("in", "bin")]
EPSILON = 1e-5
MOMENTUM = 0.9
# The older emitter that conftest.py may choose adds the same numbers up twice, in two orders: of large ones, two means.
EMITTER = {"xla_cpu_use_fusion_emitters": True} if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"] else None


def standardized(block, valid):
    """Normalizes what ``valid`` selects of ``block`` by its own statistics; zeros elsewhere."""
    y = np.zeros_like(block)
    if valid.any():
        values = block[valid]
        y[valid] = (values - values.mean()) / np.sqrt(values.var() + EPSILON)
    return y


def channel_blocks(x, mask):
    """float64 x and its mask, in x's full shape."""
    x = np.asarray(x, np.float64)
    mask = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask)
    return np.where(mask[..., None], x, 0), np.broadcast_to(mask[..., None], x.shape)


def batch_statistics(x, mask=None):
    """(mean, biased variance, count) per channel, of the elements that count; None where there are none."""
    x, valid = channel_blocks(x, mask)
    if not valid.any():
        return None
    columns = [x[..., c][valid[..., c]] for c in range(x.shape[-1])]
    return np.array([v.mean() for v in columns]), np.array([v.var() for v in columns]), columns[0].size


def group_norm(x, groups, mask=None):
    x, valid = channel_blocks(x, mask)
    y = np.zeros_like(x)
    width = x.shape[-1] // groups
    for n in range(x.shape[0]):
        for g in range(groups):
            part = (n, ..., slice(g * width, (g + 1) * width))
            y[part] = standardized(x[part], valid[part])
    return y


def batch_norm(x, mask=None, running=None):
    x, valid = channel_blocks(x, mask)
    y = np.zeros_like(x)
    for c in range(x.shape[-1]):
        if running is None:
            y[..., c] = standardized(x[..., c], valid[..., c])
        else:
            y[..., c] = (x[..., c] - running[0][c]) / np.sqrt(running[1][c] + EPSILON)
    return y


def forward(kind, x, params=None, mask=None, running=None, groups=2):
    """The layer ``kind`` (bn in bin ln gn) on ``(N, *spatial, C)``; ``running`` (mean, var) is evaluation mode."""
    params = params or {}
    channels = x.shape[-1]
    if kind == "bn":
        y = batch_norm(x, mask, running)
    elif kind == "bin":
        gate = np.clip(np.asarray(params.get("gate", np.ones(channels)), np.float64), 0, 1)
        y = gate * batch_norm(x, mask, running) + (1 - gate) * group_norm(x, channels, mask)
    else:
        y = group_norm(x, {"in": channels, "ln": 1, "gn": groups}[kind], mask)
    y = y * np.asarray(params.get("scale", 1.0), np.float64) + np.asarray(params.get("bias", 0.0), np.float64)
    return y if mask is None else np.where(np.asarray(mask)[..., None], y, 0)


def updated(running, x, mask=None, momentum=MOMENTUM):
    """Running (mean, var) after one batch; as they were where nothing counts."""
    batch = batch_statistics(x, mask)
    if batch is None:
        return running
    return tuple(momentum * r + (1 - momentum) * b for r, b in zip(running, batch[:2], strict=True))


def numerical_gradient(f, x, step=1e-5):
    """Central differences of the scalar f at x, entry by entry."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        saved = x[i]
        x[i] = saved + step
        above = f(x)
        x[i] = saved - step
        gradient[i] = (above - f(x)) / (2 * step)
        x[i] = saved
    return gradient


def random_input(shape, dtype=np.float32, seed=0, mean=0.5, std=2.0):
    return (mean + std * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def random_mask(shape, seed=0):
    """A mask for an input of this shape, with holes; each example keeps something."""
    mask = np.random.default_rng(seed + 1).random(shape[:-1]) < 0.6
    mask.reshape(shape[0], -1)[:, 0] = True
    return mask


def random_variables(layer, shape, seed=0, dtype=np.float32):
    """Parameters and running statistics as a trained layer might have them: gates inside [0, 1], variances positive."""
    rng = np.random.default_rng(seed + 2)
    template = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros(shape, dtype), True))
    ranges = {"gate": (0.0, 1.0), "var": (0.5, 2.0)}

    def draw(path, leaf):
        return jnp.asarray(rng.uniform(*ranges.get(path[-1].key, (-1.0, 2.0)), leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, template)


@partial(jax.jit, static_argnums=0, static_argnames="evaluate", compiler_options=EMITTER)
def apply(layer, variables, x, mask=None, evaluate=False):
    """(output, updated collections) of the layer, compiled."""
    return layer.apply(variables, x, evaluate, mask, mutable=["batch_stats"])


@partial(jax.jit, static_argnums=0, static_argnames="evaluate")
def apply_and_differentiate(layer, variables, x, cotangent, mask=None, evaluate=False):
    """What apply returns, and the gradients of ``sum(output * cotangent)`` with respect to (params, x)."""

    def loss(params, x):
        y, state = layer.apply({**variables, "params": params}, x, evaluate, mask, mutable=["batch_stats"])
        return jnp.sum(y * cotangent), (y, state)

    by_params_and_x, results = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return results, by_params_and_x


def gradients(*args, **kwargs):
    return apply_and_differentiate(*args, **kwargs)[1]
