r"""The scan behind the recurrent layers: LSTM cells, plain and layer-normalized, in one direction or in two at once.

Arrays are time-major, and reversed for a reverse direction: :mod:`colnorm.recurrent.layers` does both. It also brings the
parameters into the form that makes a step cheap:

- The sigmoid gates come as :math:`\sigma(a) = \frac12 \tanh(\frac12 a) + \frac12`, so that one tanh serves all four gates;
  weights and biases that lead to them are halved beforehand, exactly.
- A layer norm over all gates of ``x W`` needs no mean at run time: the kernel has none (each row of ``W`` is centred over its
  columns), so that neither has the product, and only the mean square is left to divide by.

The derivative is written by hand. Each forward step saves its derivative's factors. The backward scan then carries the
gradients of h and c alone: a few products a step and one matrix product. The parameters' gradients come after that scan,
each as one product or sum over all T * B rows. The rule itself is differentiable, so reverse mode can be applied again; there
is no forward mode.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Weights = dict[str, Array]

EPSILON = 1e-5


class Direction(NamedTuple):
    """What one direction reads. Weights and c have the wide dtype (float32 at least), x and h that of the products."""

    x: Array  # (T, B, D), finite in the padding too
    weights: Weights  # the parameters of layers.py by name, kernels prepared as described above
    h: Array  # (B, H) before the first step
    c: Array  # (B, H)


class Result(NamedTuple):
    """What one direction returns."""

    states: Array  # (T, B, H): h after each step
    h: Array  # (B, H) after the last one
    c: Array  # (B, H)


class _Saved(NamedTuple):
    """The factors with which a step goes back; a hat is what a layer norm made, rstd its 1 / sqrt(variance + epsilon)."""

    from_c: tuple[Array, Array, Array]  # (B, H) each: d(gate's pre-activation) / d(c) of i, f, g
    from_h: Array  # (B, H): the same of o, out of sigmoid(o) tanh(.)
    forget: Array  # (B, H): sigmoid(f)
    open: Array  # (B, H): d(sigmoid(o) tanh(.)) / d(inside of the tanh)
    recurrent: Any  # "gates": hat (B, 4H) and rstd (B, 1) of h W; else None
    inner: Any  # "gates": hat (B, H) and rstd (B, 1) of c; "output": of sigmoid(o) tanh(c); else None


class _Gradients(NamedTuple):
    """What a step back leaves for the parameters."""

    gates: Array  # (B, 4H): of the pre-activations
    inner: Any  # (B, H): of the inner layer norm with scale and bias; "plain": None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(kind: str, directions: Sequence[Direction], masks: Sequence[Array] | None) -> list[Result]:
    """Runs one scan for all directions. ``kind`` is plain, gates or output; where a mask (T, B, 1) is False, h and c stay."""
    return _forward(kind, directions, masks, save=False)[0]


def _forward(kind: str, directions: Sequence[Direction], masks: Sequence[Array] | None, save: bool) -> Any:
    """The results and, to ``save``, each direction's normalized inputs and factors."""
    inputs = [_project(kind, direction) for direction in directions]

    def step(carries: Any, now: Any) -> Any:
        inputs, masks = now
        after, kept = [], []
        for index, (transposed, c) in enumerate(carries):
            h = transposed.T
            new_h, new_c, saved = _advance(kind, directions[index].weights, inputs[index], h, c)
            if masks is not None:
                new_h, new_c = jnp.where(masks[index], new_h, h), jnp.where(masks[index], new_c, c)
            after.append((new_h.T, new_c))
            kept.append((new_h, saved if save else None))
        return after, kept

    # h is carried as (H, B): at H = 128 XLA's CPU backend spreads the product of that over all cores, of (B, H) it doesn't.
    carries, kept = jax.lax.scan(step, [(direction.h.T, direction.c) for direction in directions], (inputs, masks))
    results = [Result(states, h.T, c) for (states, _), (h, c) in zip(kept, carries, strict=True)]
    return results, (inputs, [saved for _, saved in kept])


def _project(kind: str, direction: Direction) -> tuple[Array, Any]:
    """x W for all steps (T, B, 4H), and the rstd of its layer norm (T, B, 1)."""
    projected = _product(direction.x, direction.weights["input_kernel"])
    return projected, _rstd(projected) if kind == "gates" else None


def _advance(kind: str, weights: Weights, inputs: tuple[Array, Any], h: Array, c: Array) -> tuple[Array, Array, _Saved]:
    projected, rstd = inputs
    product = _product(h, weights["recurrent_kernel"])
    recurrent = inner = None
    if kind == "gates":
        product_rstd = _rstd(product)
        recurrent = (product * product_rstd, product_rstd)
        projected = projected * rstd * weights["input_scale"][None]
        product = recurrent[0] * weights["recurrent_scale"][None]
    half_i, half_f, g, half_o = jnp.split(jnp.tanh(projected + product + weights["bias"][None]), 4, axis=-1)
    i, f, o = (0.5 * half + 0.5 for half in (half_i, half_f, half_o))
    new_c = f * c + i * g
    inside = new_c
    if kind == "gates":
        inner = _layer_norm(new_c)
        inside = inner[0] * weights["cell_scale"][None] + weights["cell_bias"][None]
    squashed = jnp.tanh(inside)
    new_h = o * squashed
    if kind == "output":
        inner = _layer_norm(new_h)
        new_h = inner[0] * weights["output_scale"][None] + weights["output_bias"][None]
    saved = _Saved(
        from_c=(_slope(half_i) * g, _slope(half_f) * c, i * (1 - g * g)),
        from_h=_slope(half_o) * squashed,
        forget=f,
        open=o * (1 - squashed * squashed),
        recurrent=recurrent,
        inner=inner,
    )
    return new_h.astype(h.dtype), new_c, saved


def _recur_forward(kind: str, directions: Sequence[Direction], masks: Sequence[Array] | None) -> Any:
    results, kept = _forward(kind, directions, masks, save=True)
    return results, (directions, masks, [result.states for result in results], kept)


def _recur_backward(kind: str, residuals: Any, gradients: list[Result]) -> Any:
    directions, masks, states, (inputs, saved) = residuals

    def step(carries: Any, now: Any) -> Any:
        of_states, saved, masks = now
        before, left = [], []
        for index, (dh, dc) in enumerate(carries):
            dh = dh + of_states[index].astype(dh.dtype)
            if masks is None:
                dh, dc, gradient = _go_back(kind, directions[index], saved[index], dh, dc)
            else:  # a padded step hands on what it gets, and leaves nothing
                nothing, mask = jnp.zeros_like(dh), masks[index]
                live = (jnp.where(mask, dh, nothing), jnp.where(mask, dc, nothing))
                live_dh, live_dc, gradient = _go_back(kind, directions[index], saved[index], *live)
                dh, dc = live_dh + jnp.where(mask, nothing, dh), live_dc + jnp.where(mask, nothing, dc)
            before.append((dh, dc))
            left.append(gradient)
        return before, left

    last = [(gradient.h.astype(gradient.c.dtype), gradient.c) for gradient in gradients]
    first, left = jax.lax.scan(step, last, ([gradient.states for gradient in gradients], saved, masks), reverse=True)
    of_directions = [_gather(kind, *parts) for parts in zip(directions, states, inputs, saved, left, first, strict=True)]
    return of_directions, None


def _go_back(kind: str, direction: Direction, saved: _Saved, dh: Array, dc: Array) -> tuple[Array, Array, _Gradients]:
    """The gradients of h and c before a step from those after it, and what the step leaves for the parameters."""
    weights = direction.weights
    inner = None
    if kind == "output":
        inner = dh
        dh = _layer_norm_backward(dh * weights["output_scale"][None], saved.inner)
    opened = dh * saved.open
    if kind == "gates":
        inner = opened
        opened = _layer_norm_backward(opened * weights["cell_scale"][None], saved.inner)
    dc = dc + opened
    gates = jnp.concatenate([*(dc * factor for factor in saved.from_c), dh * saved.from_h], -1)
    product = gates
    if kind == "gates":
        product = _centred_norm_backward(gates * weights["recurrent_scale"][None], saved.recurrent)
    dh = _product(product.astype(direction.h.dtype), weights["recurrent_kernel"].T)
    return dh, dc * saved.forget, _Gradients(gates, inner)


def _gather(
    kind: str,
    direction: Direction,
    states: Array,
    inputs: tuple[Array, Any],
    saved: _Saved,
    left: _Gradients,
    first: tuple[Array, Array],
) -> Direction:
    """The gradients of all that a direction reads, over all steps at once."""
    x, weights, h, _ = direction
    projected = recurrent = left.gates  # (T, B, 4H), the gradients of x W and h W
    gradients = {"bias": jnp.sum(left.gates, (0, 1))}
    if kind == "gates":
        input_hat = inputs[0] * inputs[1]
        projected = _centred_norm_backward(left.gates * weights["input_scale"][None, None], (input_hat, inputs[1]))
        # Computed again, over all steps at once: the scan would have to store it.
        recurrent = _centred_norm_backward(left.gates * weights["recurrent_scale"][None, None], saved.recurrent)
        gradients["input_scale"] = jnp.sum(left.gates * input_hat, (0, 1))
        gradients["recurrent_scale"] = jnp.sum(left.gates * saved.recurrent[0], (0, 1))
    if kind != "plain":
        name = "cell" if kind == "gates" else "output"
        gradients[f"{name}_scale"] = jnp.sum(left.inner * saved.inner[0], (0, 1))
        gradients[f"{name}_bias"] = jnp.sum(left.inner, (0, 1))
    before = jnp.concatenate([h[None], states])[: x.shape[0]]  # h that each step read
    gradients["input_kernel"] = _outer(x, projected)
    gradients["recurrent_kernel"] = _outer(before, recurrent)
    of_x = _product(projected.astype(x.dtype), weights["input_kernel"].T).astype(x.dtype)
    return Direction(of_x, gradients, first[0].astype(h.dtype), first[1])


recur.defvjp(_recur_forward, _recur_backward)


def _product(x: Array, kernel: Array) -> Array:
    """x @ kernel, multiplied in x's dtype and summed in the kernel's."""
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=kernel.dtype)


def _outer(x: Array, gradient: Array) -> Array:
    """The kernel's gradient ``(D, K)`` of ``x (T, B, D)`` times a kernel, as one product over T * B rows.

    The barrier keeps x's transpose, a copy of little, from being folded into the product, which the CPU then computes at
    half the speed. Over an axis of a mesh that is explicit there is no such reshape, and the sum's place has to be said.
    """
    if any(axis is not None for axis in jax.typeof(x).sharding.spec):
        whole = jax.sharding.PartitionSpec(None, None)
        return jnp.einsum("tbd,tbk->dk", x, gradient.astype(x.dtype), preferred_element_type=gradient.dtype, out_sharding=whole)
    transposed = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    rows = gradient.reshape(-1, gradient.shape[-1]).astype(x.dtype)
    return jnp.matmul(transposed, rows, preferred_element_type=gradient.dtype)


def _slope(half: Array) -> Array:
    """The derivative of 0.5 tanh(a) + 0.5 by a, from tanh(a)."""
    return 0.5 - 0.5 * half * half


def _rstd(centred: Array) -> Array:
    """1 / sqrt(variance + epsilon) over the last axis, kept, of what has mean 0."""
    return jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + EPSILON)


def _layer_norm(x: Array) -> tuple[Array, Array]:
    """x normalized over the last axis, and its rstd."""
    centred = x - jnp.mean(x, -1, keepdims=True)
    rstd = _rstd(centred)
    return centred * rstd, rstd


def _centred_norm_backward(gradient: Array, saved: Any) -> Array:
    hat, rstd = saved
    return rstd * (gradient - hat * jnp.mean(gradient * hat, -1, keepdims=True))


def _layer_norm_backward(gradient: Array, saved: Any) -> Array:
    return _centred_norm_backward(gradient - jnp.mean(gradient, -1, keepdims=True), saved)
