"""The two recursions in time as ``jax.lax.scan``: the filter forwards, the walk back.

Arrays are time-major with the batch last, ``(T, K, B)``: a step over ``(K, K, B)`` then runs along contiguous memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Chain, Problem
from colnorm.crf.reductions import (
    Array,
    best_move,
    finite_max,
    one_where_zero,
    safe_log,
    softmax,
    sum_less_shift,
    zero_where_dead,
)


class Filtered(NamedTuple):
    """What the forward recursion leaves; ``arrivals[t, i, j] = alphas[t, i] + transitions[i, j]``."""

    alphas: Array  # (T, K, B): log of the sum over paths that end in a tag, but for a shift; held past the length
    shifts: Array  # (T, B), 0 past the length
    peaks: Array  # (T - 1, K, B): max over i of the arrivals, 0 where all are -inf
    totals: Array  # (T - 1, K, B): sum over i of exp(arrivals - peaks), 0 where all are -inf


def forward_filter(problem: Problem) -> Filtered:
    """The forward recursion in the log domain, each step's alphas shifted by the best path's score.

    The shifts stay outside of the recursion, so that rounding does not grow with the total.
    """
    chain, emissions, mask = problem
    start = chain.start[:, None]
    first_shift = jnp.where(mask[:1], finite_max(start + emissions[0], 0), 0)
    first = sum_less_shift(start, emissions[0], first_shift)

    def step(alpha: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, ...]]:
        emission, inside = inputs
        best = best_move(alpha, chain.transitions)
        peaks = zero_where_dead(best)
        totals = jnp.sum(jnp.exp(_arrivals(alpha, chain.transitions) - peaks[None]), 0)
        shift = finite_max(best + emission, 0)
        # Large numbers cancel before the log is added, which is small and keeps its digits.
        alpha = jnp.where(inside[None], sum_less_shift(peaks, emission, shift) + safe_log(totals), alpha)
        return alpha, (alpha, jnp.where(inside, shift[0], 0), peaks, totals)

    _, (alphas, shifts, peaks, totals) = jax.lax.scan(step, first, (emissions[1:], mask[1:]))
    alphas = jnp.concatenate([first[None], alphas])
    return Filtered(alphas, jnp.concatenate([first_shift, shifts]), peaks, totals)


def last_scores(problem: Problem, alphas: Array) -> tuple[Array, Array]:
    """Log of the sum over the paths that end the sequence with a tag ``(K, B)``, but for a shift ``(1, B)``, and that."""
    end = problem.chain.end[:, None]
    shift = finite_max(alphas[-1] + end, 0)
    return sum_less_shift(alphas[-1], end, shift), shift


def last_marginal(problem: Problem, alphas: Array) -> Array:
    """Posterior ``(K, B)`` of each sequence's last tag; 0 for length 0 and where no path is legal."""
    return jnp.where(problem.mask[0][None], softmax(last_scores(problem, alphas)[0], 0), 0)


def walk_back(
    problem: Problem, filtered: Filtered, collect: Callable[..., Any], also: tuple[Array, ...] = ()
) -> tuple[Array, Any]:
    """Marginals ``(T, K, B)`` and, stacked, what ``collect`` makes of each move; 0 past the length.

    From the last tag backwards by p(y_t | y_t+1), which are normalized whatever the scores: exp(alpha + beta - log Z)
    subtracts large numbers. ``collect`` is given the posterior of both tags and log p(y_t | y_t+1), each ``(K, K, B)``; the
    latter is -inf where the move or the tag before is impossible; and after them its part of what ``also`` stacks by move.
    """
    chain, _, mask = problem

    def step(after: Array, inputs: tuple[Array, ...]) -> tuple[Array, tuple[Array, Any]]:
        alpha, peaks, totals, inside, *others = inputs
        excess = _arrivals(alpha, chain.transitions) - peaks[None]
        weight = jnp.where(inside[None], after / one_where_zero(totals), 0)
        pairs = jnp.exp(excess) * weight[None]
        before = jnp.where(inside[None], jnp.sum(pairs, 1), after)
        return before, (before, collect(pairs, excess - jnp.log(one_where_zero(totals))[None], *others))

    last = last_marginal(problem, filtered.alphas)
    moves = (filtered.alphas[:-1], filtered.peaks, filtered.totals, mask[1:], *also)
    _, (rest, collected) = jax.lax.scan(step, last, moves, reverse=True)
    return jnp.where(mask[:, None], jnp.concatenate([rest, last[None]]), 0), collected


def log_conditional(chain: Chain, alpha: Array, peaks: Array, totals: Array) -> Array:
    """Log p(y_t | y_t+1) of a move ``(K, K, B)``, from what the filter left of it; -inf where the move is impossible."""
    return _arrivals(alpha, chain.transitions) - peaks[None] - jnp.log(one_where_zero(totals))[None]


def expectations(problem: Problem, filtered: Filtered, weights: Array) -> tuple[Array, Array]:
    """Marginals ``(T, K, B)``, and the expected counts of moves ``(K, K)`` over all sequences by their weights ``(B,)``."""
    marginals, counts = walk_back(problem, filtered, lambda pairs, _: jnp.sum(pairs * weights[None, None], 2))
    return marginals, jnp.sum(counts, 0)


def _arrivals(alpha: Array, transitions: Array) -> Array:
    """``(K, K, B)``: the score of coming from tag i, with all that leads to it, to tag j."""
    return alpha[:, None, :] + transitions[:, :, None]
