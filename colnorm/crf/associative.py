"""The two recursions in time as products of matrices by ``jax.lax.associative_scan``: log-depth in T, K times the work."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Problem
from colnorm.crf.reductions import NEG_INF, Array, finite_max, one_where_zero, safe_log, softmax, zero_where_dead
from colnorm.crf.scan import last_marginal


class Filtered(NamedTuple):
    """What the forward recursion leaves, as in :class:`colnorm.crf.scan.Filtered`."""

    alphas: Array  # (T, K, B)
    shifts: Array  # (1, B), their sum


Scaled = tuple[Array, Array]  # log-matrices (..., K, K), and the logs of the scales taken out of them (..., 1, 1)


def forward_filter(problem: Problem) -> Filtered:
    """The forward recursion; the alphas are the products of the first t matrices ``transitions[i, j] + emissions[t, j]``.

    The first matrix has ``start`` in each row instead; past the length they are the identity, 0 on the diagonal and -inf
    elsewhere.
    """
    chain, emissions, mask = problem
    K = chain.start.shape[0]
    arriving = jnp.swapaxes(emissions, 1, 2)[:, :, None, :]  # (T, B, 1, K)
    first = jnp.broadcast_to(chain.start[None, None, None] + arriving[:1], (1, emissions.shape[2], K, K))
    identity = jnp.where(jnp.eye(K, dtype=bool), jnp.zeros((), emissions.dtype), NEG_INF)
    moves = jnp.where(mask[1:, :, None, None], chain.transitions[None, None] + arriving[1:], identity[None, None])
    matrices = jnp.concatenate([first, moves])
    shifts = finite_max(matrices, (-2, -1))
    products, scales = jax.lax.associative_scan(_log_product, (matrices - shifts, shifts))
    # All rows of these products are the same.
    return Filtered(jnp.swapaxes(products[:, :, 0], 1, 2), jnp.where(mask[:1], scales[-1:, :, 0, 0], 0))


def expectations(problem: Problem, filtered: Filtered, weights: Array) -> tuple[Array, Array]:
    """As :func:`colnorm.crf.scan.expectations`.

    By the products, from the end, of the matrices of p(y_t | y_t+1), whose columns sum to one: nothing can overflow.
    """
    chain, _, mask = problem
    K = chain.start.shape[0]
    last = last_marginal(problem, filtered.alphas).T  # (B, K)
    inside = mask[1:, :, None, None]
    arrivals = jnp.swapaxes(filtered.alphas, 1, 2)[:-1, :, :, None] + chain.transitions[None, None]
    conditionals = jnp.where(inside, softmax(arrivals, 2), jnp.eye(K, dtype=last.dtype)[None, None])
    products = jax.lax.associative_scan(_product_of_later_and_earlier, conditionals, reverse=True)
    marginals = jnp.concatenate([jnp.sum(products * last[None, :, None, :], 3), last[None]])  # (T, B, K)
    marginals = jnp.where(mask[..., None], marginals, 0)
    pairs = conditionals * marginals[1:, :, None, :]
    return jnp.swapaxes(marginals, 1, 2), jnp.sum(pairs * weights[None, :, None, None], (0, 1))


def _log_product(left: Scaled, right: Scaled) -> Scaled:
    terms = left[0][..., :, :, None] + right[0][..., None, :, :]
    best = jnp.max(jax.lax.stop_gradient(terms), -2)
    peaks, shift = zero_where_dead(best), finite_max(best, (-2, -1))
    totals = jnp.sum(jnp.exp(terms - peaks[..., None, :]), -2)
    return peaks - shift + safe_log(totals), left[1] + right[1] + shift


def _product_of_later_and_earlier(later: Array, earlier: Array) -> Array:
    # Without a repair, thousands of factors whose columns miss one by a rounding error drift away from it together.
    product = jnp.matmul(earlier, later, precision=jax.lax.Precision.HIGHEST)
    return product / one_where_zero(jnp.sum(product, -2, keepdims=True))
