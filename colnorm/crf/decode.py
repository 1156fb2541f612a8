"""The best path, and the k best paths."""

from functools import partial

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Chain, Problem, path_score, prepare
from colnorm.crf.reductions import NEG_INF, Array, best_move, finite_max


@jax.jit
def viterbi(chain: Chain, emissions: Array, lengths: Array | None = None) -> tuple[Array, Array]:
    """The path of the highest score (Viterbi, 1967).

    Of equal scores the lowest tag wins, at the last position first, then backwards. The gradient of the score is the
    path's counts of tags and moves.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.

    Returns:
      Tags ``(B, T)`` int32, 0 past the length, and their score ``(B,)``. Length 0: score 0. Where no path is legal: tags 0,
      score -inf with a gradient of 0.
    """
    problem = prepare("viterbi", chain, emissions, lengths)
    tags, possible = _best_path(jax.lax.stop_gradient(problem))
    return tags.T, jnp.where(possible, path_score(problem, tags), NEG_INF)


def _best_path(problem: Problem) -> tuple[Array, Array]:
    """Time-major tags ``(T, B)``, and whether any path is legal ``(B,)``.

    Only maxima are kept on the way forward. The tag that a maximum came from is found on the way back, for the one tag
    chosen: K comparisons a step and not K^2.
    """
    chain, emissions, mask = problem

    def forward(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        emission, inside = inputs
        new = best_move(best, chain.transitions) + emission
        best = jnp.where(inside[None], new - finite_max(new, 0), best)
        return best, best

    def back(after: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        best, inside = inputs
        tag = jnp.where(inside, _argmax(best + chain.transitions[:, after]), after)
        return tag, tag

    first = chain.start[:, None] + emissions[0]
    first = first - finite_max(first, 0)
    _, rest = jax.lax.scan(forward, first, (emissions[1:], mask[1:]))
    bests = jnp.concatenate([first[None], rest])
    final = bests[-1] + chain.end[:, None]
    last = _argmax(final)
    _, tags = jax.lax.scan(back, last, (bests[:-1], mask[1:]), reverse=True)
    possible = (jnp.max(final, 0) > NEG_INF) | ~mask[0]
    return jnp.where(mask & possible[None], jnp.concatenate([tags, last[None]]), 0), possible


def _argmax(scores: Array) -> Array:
    return jnp.argmax(scores, 0).astype(jnp.int32)


@partial(jax.jit, static_argnames=("k",))
def k_best(chain: Chain, emissions: Array, lengths: Array | None = None, k: int = 1) -> tuple[Array, Array]:
    """The k paths of the highest scores, all different, best first; the first is :func:`viterbi`'s.

    The gradient of each score is its path's counts of tags and moves.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      k: how many, at least 1; may exceed the number of paths.

    Returns:
      Tags ``(B, k, T)`` int32, 0 past the length, and scores ``(B, k)``. Where fewer than k paths are legal, the rest have
      tags 0 and score -inf with a gradient of 0. Length 0 has one path, with score 0.
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k_best: expected an integer k of at least 1, got {k!r}")
    chain, emissions, mask = prepare("k_best", chain, emissions, lengths)
    emissions = jnp.swapaxes(emissions, 1, 2)
    _, B, K = emissions.shape
    into = chain.transitions.T[None, :, :, None]  # (1, to, from, 1)

    # (B, K, k): the scores of the k best paths that end in a tag. At first there is one path each.
    first = jnp.full((B, K, k), NEG_INF, emissions.dtype).at[:, :, 0].set(chain.start[None] + emissions[0])

    def forward(best: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        emission, inside = inputs
        new, origins = jax.lax.top_k((best[:, None] + into).reshape(B, K, K * k), k)
        new = new + emission[:, :, None]
        shift = finite_max(new, (1, 2))
        best = jnp.where(inside[:, None, None], new - shift, best)
        return best, (origins, jnp.where(inside, shift[:, 0, 0], 0))

    def back(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        origins, inside = inputs
        before = jnp.take_along_axis(origins.reshape(B, K * k), state, axis=1)
        state = jnp.where(inside[:, None], before, state)
        return state, state

    final, (origins, shifts) = jax.lax.scan(forward, first, (emissions[1:], mask[1:]))
    # A state is tag * k + rank: lower tags come first among equal scores, as in viterbi.
    scores, last = jax.lax.top_k((final + chain.end[None, :, None]).reshape(B, K * k), k)
    _, states = jax.lax.scan(back, last, (origins, mask[1:]), reverse=True)
    tags = jnp.concatenate([states, last[None]]) // k  # (T, B, k)

    some = mask[0][:, None]
    exists = (scores > NEG_INF) & some
    empty = ~some & (jnp.arange(k) == 0)[None]
    scores = jnp.where(exists, scores + jnp.sum(shifts, 0)[:, None], jnp.where(empty, jnp.zeros((), scores.dtype), NEG_INF))
    tags = jnp.where(mask[:, :, None] & exists[None], tags, 0)
    return jnp.transpose(tags, (1, 2, 0)).astype(jnp.int32), scores
