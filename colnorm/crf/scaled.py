r"""The two recursions in time as products of positive matrices, in a fraction of the log domain's time.

With :math:`E = \exp(transitions - \max)` and :math:`p_t = \exp(emissions_t - \max)` both recursions are products, each step
divided by the sum :math:`S` of what it reads, so that no number exceeds 1:

.. math::  \alpha_t = p_t \odot E^T \alpha_{t-1} / S(\alpha_{t-1}), \qquad
           \beta_t = E (p_{t+1} \odot \beta_{t+1}) / S(p_{t+1} \odot \beta_{t+1})

The posterior of a tag is :math:`\alpha_t \beta_t / N_t` with :math:`N_t = \sum_j \alpha_t \beta_t`. Forbidden moves are exact
zeros. A possible one that underflows is lost, and with it a posterior of at most :math:`tiny / N_t`, tiny being the smallest
normal number: wherever a product underflows, the other factors of its posterior are at most :math:`1 / N_t`. So the passes
hold where every N is large enough for that to be below rounding, and else :mod:`colnorm.crf.scan` computes all again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colnorm.crf.chain import Problem
from colnorm.crf.reductions import Array, finite_max, one_where_zero, sum_less_shift

# Tags up to which one product a position beats one over all: 0.7 to 2.1 ms at 64, 1.1 to 1.3 at 128, but 19 to 2.7 at 192
# (32 sequences on two cores).
MOST_TAGS_A_POSITION = 128


class Passes(NamedTuple):
    """What the forward and the backward pass leave; (T, K, B), with garbage but no NaN past the length."""

    alphas: Array
    betas: Array
    arriving: Array  # p * beta, divided by its sum over the tags
    norms: Array  # (T, B): N
    moves: Array  # (K, K): E
    holds: Array  # (): no possible path was lost


def run(problem: Problem) -> Passes:
    """Both passes, and whether they hold. No gradient flows through them: :func:`or_else` has the derivatives."""
    chain, emissions, mask = problem = jax.lax.stop_gradient(problem)
    _, K, B = emissions.shape
    p = jnp.exp(emissions - finite_max(emissions, 1))
    start, end = (jnp.exp(part - finite_max(part, 0))[:, None] for part in (chain.start, chain.end))
    moves = jnp.exp(chain.transitions - finite_max(chain.transitions, (0, 1)))
    # The sum S comes out of the same product, as a row of ones.
    ones = jnp.ones((1, K), moves.dtype)
    forward, backward = jnp.concatenate([moves.T, ones]), jnp.concatenate([moves, ones])

    def ahead(alpha: Array, p: Array) -> tuple[Array, Array]:
        alpha = p * _divided_product(forward, alpha)
        return alpha, alpha

    def back(arriving: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        p, inside = inputs
        beta = jnp.where(inside[None], _divided_product(backward, arriving), end)
        return p * beta, (p * beta, beta)

    first, last = start * p[0], end * p[-1]
    _, rest = jax.lax.scan(ahead, first, p[1:])
    alphas = jnp.concatenate([first[None], rest])
    _, (arriving, betas) = jax.lax.scan(back, last, (p[:-1], mask[1:]), reverse=True)
    arriving = jnp.concatenate([arriving, last[None]])
    arriving = arriving / one_where_zero(jnp.sum(arriving, 1, keepdims=True))
    betas = jnp.concatenate([betas, jnp.broadcast_to(end, (1, K, B))])
    norms = jnp.sum(alphas * betas, 1)
    limits = jnp.finfo(norms.dtype)
    holds = jnp.all(~mask | (norms >= limits.tiny / limits.eps**2))
    return Passes(alphas, betas, arriving, norms, moves, holds)


def log_partition(problem: Problem, passes: Passes) -> tuple[Array, Array]:
    """The log-partition as :func:`colnorm.crf.partition` has it: a remainder ``(B,)``, and shifts ``(T + 1, B)``."""
    chain, emissions, mask = problem
    inner = _inner(mask)
    # The factors that were divided out: S of all positions but the last, and N there, which takes in the end.
    factors = jnp.where(inner, jnp.sum(passes.alphas, 1), jnp.where(mask, passes.norms, 1))
    of_emissions = finite_max(emissions, 1)[:, 0]
    of_start, of_moves, of_end = (finite_max(part.ravel(), 0) for part in (chain.start, chain.transitions, chain.end))
    of_arrival = jnp.broadcast_to(jnp.concatenate([of_start, jnp.full(mask.shape[0] - 1, of_moves[0])])[:, None], mask.shape)
    shifts = of_emissions + of_arrival
    lost = sum_less_shift(of_emissions, of_arrival, shifts)  # in rounding the shift
    remainder = jnp.sum(jnp.where(mask, jnp.log(factors) + lost, 0), 0)
    return remainder, jnp.where(jnp.concatenate([mask, mask[:1]]), jnp.concatenate([shifts, _row(of_end, mask)]), 0)


def marginals(problem: Problem, passes: Passes) -> Array:
    """Posteriors ``(T, K, B)`` of the tags; zero past the length."""
    return passes.alphas * passes.betas * _weights(problem, passes)[:, None]


def expectations(problem: Problem, passes: Passes, weights: Array) -> tuple[Array, Array, Array]:
    """Expected counts by sequence weights ``(B,)``: of tags ``(T, K, B)``, moves ``(K, K)`` and last tags ``(K,)``."""
    mask, weights = problem.mask, _weights(problem, passes) * weights[None]
    tags = passes.alphas * passes.betas * weights[:, None]
    arriving = passes.arriving[1:] * jnp.where(mask[1:], weights[:-1], 0)[:, None]
    pairs = _pairs(passes.alphas[:-1], arriving)
    last = jnp.sum(jnp.where((mask & ~_inner(mask))[:, None], tags, 0), (0, 2))
    return tags, passes.moves * pairs, last


def or_else(fast: Callable[..., Any], exact: Callable[..., Any]) -> Callable[..., Any]:
    """``(problem, passes, *rest) -> fast(problem, passes, *rest)`` where the passes hold, else ``exact(problem, *rest)``.

    The two must be the same function: the derivative, in either mode and of any order, is that of ``exact``. Under ``vmap``
    both are computed.
    """

    @jax.custom_jvp
    def either(problem: Problem, passes: Passes, *rest: Any) -> Any:
        return jax.lax.cond(
            passes.holds, lambda passes, rest: fast(problem, passes, *rest), lambda _, rest: exact(problem, *rest), passes, rest
        )

    @either.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        problem, _, *rest = primals
        problem_dot, _, *rest_dot = tangents
        _, result_dot = jax.jvp(exact, (problem, *rest), (problem_dot, *rest_dot))
        return either(*primals), result_dot

    return either


def _divided_product(matrix: Array, x: Array) -> Array:
    """``E x`` divided by the sum of x; 0 where that is 0. The matrix is E over a row of ones."""
    product = jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)
    return product[:-1] / one_where_zero(product[-1:])


def _pairs(before: Array, after: Array) -> Array:
    """``(K, K)`` sums over positions and sequences of the products of two ``(T, K, B)``."""
    highest = jax.lax.Precision.HIGHEST
    if before.shape[1] > MOST_TAGS_A_POSITION:
        return jnp.einsum("tib,tjb->ij", before, after, precision=highest)
    # One product for each position, then their sum: a single one over all would first have to turn both around.
    return _sum_of_many(jnp.einsum("tib,tjb->tij", before, after, precision=highest))


def _sum_of_many(x: Array) -> Array:
    """The sum over the first axis in groups of 64: one after the other, rounding errors of one sign would add up."""
    groups = (64,) + (1,) * (x.ndim - 1)
    padding = ((0, -x.shape[0] % 64),) + ((0, 0),) * (x.ndim - 1)
    return jnp.sum(jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, groups, groups, padding), 0)


def _weights(problem: Problem, passes: Passes) -> Array:
    return jnp.where(problem.mask, 1 / one_where_zero(passes.norms), 0)


def _inner(mask: Array) -> Array:
    """True where another position follows, (T, B)."""
    return jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])


def _row(value: Array, mask: Array) -> Array:
    return jnp.broadcast_to(value[None], (1, mask.shape[1]))
