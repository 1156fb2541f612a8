"""Maxima, sums and log-sums that hold where everything is -inf, and at large scores.

Shifts by a maximum cancel in what is computed from them, so no gradient flows through a maximum here.
"""

from functools import reduce

import jax
import jax.numpy as jnp

Array = jax.Array
NEG_INF = -jnp.inf

UNROLLED = 32
MOST_UNROLLED = 64


def zero_where_dead(highest: Array) -> Array:
    """A maximum as a shift that can be subtracted: 0 where it is -inf."""
    return jnp.where(highest == NEG_INF, 0, highest)


def finite_max(x: Array, axis: int | tuple[int, ...]) -> Array:
    """The maximum over axes (kept as size 1), and 0 where all are -inf."""
    return zero_where_dead(jnp.max(jax.lax.stop_gradient(x), axis, keepdims=True))


def best_move(alpha: Array, transitions: Array) -> Array:
    """``max_i alpha[i, b] + transitions[i, j]`` as ``(K, B)``, unrolled over i.

    XLA's CPU backend turns the unrolled form into one vectorized loop, about twice as fast as its reduction over an axis. It
    fuses so many terms and no more: at 256 tags a loop over groups of 32 takes a quarter of the time of one expression.
    """
    alpha, transitions = jax.lax.stop_gradient((alpha, transitions))
    K, B = alpha.shape
    if K <= MOST_UNROLLED:
        return _unrolled_best_move(alpha, transitions)
    padding = (0, -K % UNROLLED), (0, 0)
    alphas = jnp.pad(alpha, padding, constant_values=NEG_INF).reshape(-1, UNROLLED, B)
    moves = jnp.pad(transitions, padding).reshape(-1, UNROLLED, K)

    def better(group: Array, best: Array) -> Array:
        return jnp.maximum(best, _unrolled_best_move(alphas[group], moves[group]))

    return jax.lax.fori_loop(1, len(alphas), better, _unrolled_best_move(alphas[0], moves[0]))


def _unrolled_best_move(alpha: Array, transitions: Array) -> Array:
    """In groups, so that one maximum need not wait for the one before."""
    moves = [alpha[i][None, :] + transitions[i][:, None] for i in range(alpha.shape[0])]
    return reduce(jnp.maximum, [reduce(jnp.maximum, moves[first : first + 8]) for first in range(0, len(moves), 8)])


def sum_less_shift(a: Array, b: Array, shift: Array) -> Array:
    """``a + b - shift``, for a shift near a + b: it is taken from the larger one first.

    The difference is then as small as the smaller one, and so is its rounding error, however large both others are.
    """
    first = jnp.abs(a) > jnp.abs(b)
    return jnp.where(first, a, b) - shift + jnp.where(first, b, a)


def safe_log(x: Array) -> Array:
    """Log, and -inf without a gradient at 0."""
    return jnp.where(x > 0, jnp.log(one_where_zero(x)), NEG_INF)


def one_where_zero(x: Array) -> Array:
    """x, and 1 where it is 0: a denominator."""
    return jnp.where(x > 0, x, 1)


def log_sum_exp(x: Array, axis: int) -> Array:
    """``log(sum(exp(x)))`` over an axis, and -inf without a gradient where all are -inf."""
    shift = finite_max(x, axis)
    return safe_log(jnp.sum(jnp.exp(x - shift), axis)) + jnp.squeeze(shift, axis)


def softmax(x: Array, axis: int) -> Array:
    """``exp(x) / sum(exp(x))`` over an axis, and 0 without a gradient where all are -inf."""
    weights = jnp.exp(x - finite_max(x, axis))
    return weights / one_where_zero(jnp.sum(weights, axis, keepdims=True))


def log_softmax(x: Array, axis: int) -> Array:
    """``x - log_sum_exp(x)`` over an axis, and -inf where all are -inf."""
    x = x - finite_max(x, axis)
    return x - jnp.log(one_where_zero(jnp.sum(jnp.exp(x), axis, keepdims=True)))
