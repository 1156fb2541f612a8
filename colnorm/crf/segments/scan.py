"""The recursion over segments as one ``jax.lax.scan`` from the last token to the first, and the walk from there.

It runs backwards so that a segment stands at its first token, where its duration and its spans are read. Carried along are
the last L messages: for each label what follows a segment that has d tokens from here on. Arrays are time-major with the
batch last: ``(T, Y, B)`` and ``(T, L, Y, B)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from colnorm.crf.reductions import (
    NEG_INF,
    Array,
    best_move,
    finite_max,
    one_where_zero,
    safe_log,
    softmax,
    sum_less_shift,
    zero_where_dead,
)
from colnorm.crf.segments.chain import Problem, SegmentChain


class Filtered(NamedTuple):
    """What the recursion leaves: the conditional distributions that the walk follows, each with the total to divide it by.

    A segment that begins at t with label y has d tokens with probability ``shares[t, d - 1, y] / totals[t, y]``. One with label
    i that ends at t is followed by label j with the exponential of :func:`log_moves`, over ``move_totals[t, i]``.
    """

    first: Array  # (Y, B): log of the sum over all segmentations that begin with a label, but for the shifts and the start
    after: Array  # (T, Y, B): the same of what begins at t + 1
    move_peaks: Array  # (T, Y, B), 0 where all are -inf, as below
    move_totals: Array  # (T, Y, B)
    shares: Array  # (T, L, Y, B)
    totals: Array  # (T, Y, B)
    shifts: Array  # (T, B), 0 past the length


def backward_filter(problem: Problem) -> Filtered:
    """The recursion in the log domain, each step's messages shifted by the highest of them.

    The shifts stay outside of the recursion, so that rounding does not grow with the total.
    """
    chain, emissions, spans, mask = problem
    durations, end = chain.durations[:, :, None], chain.end[:, None]

    def step(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        runs, after = carry
        emission, of_spans, inside, goes_on = inputs
        move_peaks = zero_where_dead(best_move(after, chain.transitions.T))
        move_totals = jnp.sum(jnp.exp(log_moves(chain.transitions, after, move_peaks)), 1)
        rest = jnp.where(goes_on[None], move_peaks + safe_log(move_totals), end)
        runs = jnp.concatenate([rest[None], runs[:-1]])
        whole = runs + durations + of_spans
        best = jnp.max(jax.lax.stop_gradient(whole), 0)
        peaks = zero_where_dead(best)
        shares = jnp.exp(whole - peaks[None])
        totals = jnp.sum(shares, 0)
        shift = finite_max(jnp.maximum(best, jnp.max(runs, 0)) + emission, 0)
        # Large numbers cancel before the log is added, which is small and keeps its digits.
        of_first = sum_less_shift(peaks, emission, shift) + safe_log(totals)
        runs = jnp.where(inside[None, None], sum_less_shift(emission[None], runs, shift[None]), NEG_INF)
        return (runs, of_first), (after, move_peaks, move_totals, shares, totals, jnp.where(inside, shift[0], 0))

    (_, first), rest = jax.lax.scan(step, nothing(problem), (emissions, spans, mask, next_inside(mask)), reverse=True)
    return Filtered(first, *rest)


def walk(problem: Problem, filtered: Filtered, collect: Callable[..., Any]) -> tuple[Array, Any]:
    """Posteriors ``(T, Y, B)`` of each token's label and, stacked, what ``collect`` makes of each token; 0 past the length.

    From the first token on by the conditional probabilities, which are normalized whatever the scores. ``collect`` is given a
    :class:`Step`.
    """
    chain, _, _, mask = problem

    def step(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, Any]]:
        begins, left = carry
        after, move_peaks, move_totals, shares, totals, goes_on = inputs
        segments = shares * (begins / one_where_zero(totals))[None]
        # left[d - 1, y]: the token is in a segment that has d tokens from here on.
        left = jnp.concatenate([left[1:], jnp.zeros_like(left[:1])]) + segments
        log_next = log_moves(chain.transitions, after, move_peaks)
        weight = jnp.where(goes_on[None], left[0] / one_where_zero(move_totals), 0)
        pairs = jnp.exp(log_next) * weight[:, None]
        log_segments = safe_log(shares) - jnp.log(one_where_zero(totals))[None]
        log_pairs = log_next - jnp.log(one_where_zero(move_totals))[:, None]
        found = collect(Step(begins, segments, left[0], pairs, log_segments, log_pairs))
        return (jnp.sum(pairs, 0), left), (jnp.sum(left, 0), found)

    begins = first_label(problem, filtered)
    carry = (begins, jnp.zeros_like(filtered.shares[0]))
    _, (tokens, found) = jax.lax.scan(step, carry, (*filtered[1:-1], next_inside(mask)))
    return tokens, found


class Step(NamedTuple):
    """Posteriors at one token, and the logs of the conditional ones; -inf where something is impossible."""

    begins: Array  # (Y, B): a segment with the label begins here
    segments: Array  # (L, Y, B): and has d tokens
    ends: Array  # (Y, B): one ends here
    pairs: Array  # (Y, Y, B): and another follows
    log_segments: Array  # (L, Y, B): log p(duration | it begins here)
    log_pairs: Array  # (Y, Y, B): log p(next label | it ends here, and the sequence does not)


def first_scores(problem: Problem, filtered: Filtered) -> tuple[Array, Array]:
    """Log of the sum over all segmentations by first label ``(Y, B)``, but for the shifts, and the last of these."""
    start = problem.chain.start[:, None]
    shift = finite_max(filtered.first + start, 0)
    return sum_less_shift(filtered.first, start, shift), shift


def first_label(problem: Problem, filtered: Filtered) -> Array:
    """Posterior ``(Y, B)`` of the first segment's label; 0 for length 0 and where nothing is legal."""
    return jnp.where(problem.mask[0][None], softmax(first_scores(problem, filtered)[0], 0), 0)


def expectations(problem: Problem, filtered: Filtered, weights: Array) -> tuple[SegmentChain, Array, Array]:
    """Expected counts by sequence weights ``(B,)``: as a chain, of tokens ``(T, Y, B)``, and of spans in their shape."""
    broadcast = problem.spans.shape[1] == 1

    def collect(step: Step) -> tuple[Array, ...]:
        segments = step.segments * weights[None, None]
        moves = jnp.sum(step.pairs * weights[None, None], 2)
        spans = (step.begins * weights[None])[None] if broadcast else segments
        return jnp.sum(segments, 2), moves, spans, step.ends

    tokens, (durations, moves, spans, ends) = walk(problem, filtered, collect)
    last = problem.mask & ~next_inside(problem.mask)
    end = jnp.sum(ends * jnp.where(last, weights[None], 0)[:, None], (0, 2))
    start = jnp.sum(first_label(problem, filtered) * weights[None], 1)
    counts = SegmentChain(jnp.sum(moves, 0), start, end, jnp.sum(durations, 0))
    return counts, tokens * weights[None, None], spans


def nothing(problem: Problem) -> tuple[Array, Array]:
    """What is carried along at first: no messages ``(L, Y, B)``, and zeros ``(Y, B)`` that are not read."""
    # Like the data, so that they vary over devices as it does.
    zeros = jnp.zeros_like(problem.emissions[0])
    return jnp.full_like(jnp.broadcast_to(zeros, (problem.chain.durations.shape[0], *zeros.shape)), NEG_INF), zeros


def next_inside(mask: Array) -> Array:
    """True where another token follows, (T, B)."""
    return jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])


def log_moves(transitions: Array, after: Array, peaks: Array) -> Array:
    """``(Y, Y, B)``: the score of going from label i to label j and of all after it, less the highest ``peaks (Y, B)``."""
    return transitions[:, :, None] + after[None] - peaks[:, None]
