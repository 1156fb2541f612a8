"""The best path, and the k best paths."""

from functools import partial

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Chain, Problem, in_order, path_score, prepare
from colnorm.crf.posterior import posterior
from colnorm.crf.reductions import NEG_INF, Array, best_move, finite_max
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def viterbi(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> tuple[Array, Array]:
    """The path of the highest score (Viterbi, 1967).

    Of equal scores the lowest tag wins, at the last position first, then backwards. The gradient of the score is the
    path's counts of tags and moves.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      Tags ``(B, T)`` int32, 0 past the length, and their score ``(B,)``. Length 0: score 0. Where no path is legal: tags 0,
      score -inf with a gradient of 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.array([[[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]]])  # (B, T, K)
      >>> tags, score = crf.viterbi(crf.Chain.zeros(2), emissions, jnp.array([2]))
      >>> tags.tolist(), score.tolist()
      ([[0, 1, 0]], [4.0])
    """
    problem, gaps = prepare("viterbi", chain, emissions, lengths, mask, allowed)
    tags, possible = best_path(jax.lax.stop_gradient(problem))
    return in_order(tags.T, gaps), jnp.where(possible, path_score(problem, tags), NEG_INF)


def best_path(problem: Problem) -> tuple[Array, Array]:
    """Time-major tags ``(T, B)``, and whether any path is legal ``(B,)``.

    The tag that a maximum came from is found on the way back, for the one tag chosen: K comparisons a step and not K^2.
    """
    chain, _, mask = problem

    def back(after: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        best, inside = inputs
        tag = jnp.where(inside, _argmax(best + chain.transitions[:, after]), after)
        return tag, tag

    bests = _maxima(problem)
    final = bests[-1] + chain.end[:, None]
    last = _argmax(final)
    _, tags = jax.lax.scan(back, last, (bests[:-1], mask[1:]), reverse=True)
    possible = (jnp.max(final, 0) > NEG_INF) | ~mask[0]
    return jnp.where(mask & possible[None], jnp.concatenate([tags, last[None]]), 0), possible


def _maxima(problem: Problem) -> Array:
    """Score of the best path that ends in each tag ``(T, K, B)``, but for a shift of each position; held past the length."""
    chain, emissions, mask = problem

    def forward(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        best, highest = carry
        emission, inside = inputs
        # The highest score is taken out a step late: at once, XLA would compute the maxima twice, for it and for the rest.
        new = best_move(best, chain.transitions) + (emission - highest)
        best = jnp.where(inside[None], new, best)
        return (best, finite_max(best, 0)), best

    first = chain.start[:, None] + emissions[0]
    _, rest = jax.lax.scan(forward, (first, finite_max(first, 0)), (emissions[1:], mask[1:]))
    return jnp.concatenate([first[None], rest])


def _argmax(scores: Array) -> Array:
    return jnp.argmax(scores, 0).astype(jnp.int32)


@partial(jax.jit, static_argnames=("k",))
@over_batch
def k_best(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    k: int = 1,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> tuple[Array, Array]:
    """The k paths of the highest scores, all different, best first; the first is :func:`viterbi`'s.

    The gradient of each score is its path's counts of tags and moves.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.
      k: how many, at least 1; may exceed the number of paths.

    Returns:
      Tags ``(B, k, T)`` int32, 0 past the length, and scores ``(B, k)``. Where fewer than k paths are legal, the rest have
      tags 0 and score -inf with a gradient of 0. Length 0 has one path, with score 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.array([[[1.0, 0.0], [0.0, 3.0]]])  # (B, T, K)
      >>> tags, scores = crf.k_best(crf.Chain.zeros(2), emissions, k=3)
      >>> tags.tolist(), scores.tolist()
      ([[[0, 1], [1, 1], [0, 0]]], [[4.0, 3.0, 1.0]])
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k_best: expected an integer k of at least 1, got {k!r}")
    problem, gaps = prepare("k_best", chain, emissions, lengths, mask, allowed)
    tags, lost = _best_paths(jax.lax.stop_gradient(problem), k)
    scores = jax.vmap(path_score, (None, 2), 1)(problem, tags)
    # In order even where rounding is not; the gradient is that of each path's own score.
    ordered = jax.lax.stop_gradient(scores[:, :1] + lost) + (scores - jax.lax.stop_gradient(scores))
    of_sequence = in_order(jnp.transpose(tags, (1, 0, 2)), gaps)
    return jnp.swapaxes(of_sequence, 1, 2), jnp.where(lost > NEG_INF, ordered, NEG_INF)


def _best_paths(problem: Problem, k: int) -> tuple[Array, Array]:
    """Tags ``(T, B, k)`` of the k best paths, and what each scores less than the best one ``(B, k)``, -inf where there is none.

    The maxima of the way forward say what the best beginning is worth that an end of a path can have. So on the way back the
    k ends with the best complete paths are enough: each stands for a path of its own, none worse than any of an end left out.
    """
    chain, _, mask = problem
    bests = jnp.swapaxes(_maxima(problem), 1, 2)  # (T, B, K)
    K, places = bests.shape[2], jnp.arange(k, dtype=jnp.int32)[None]
    into = chain.transitions.T  # (to, from)

    def back(ends: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        lost, tags = ends  # (B, k): of the best path with each end, and the end's first tag
        best, inside = inputs
        arrivals = best[:, None, :] + into[tags]  # (B, k, K)
        candidates = lost[:, :, None] + (arrivals - finite_max(arrivals, 2))
        least, chosen = jax.lax.top_k(candidates.reshape(-1, k * K), k)
        ends = jnp.where(inside[:, None], least, lost), jnp.where(inside[:, None], chosen % K, tags)
        return ends, (ends[1], jnp.where(inside[:, None], chosen // K, places))

    def ahead(slot: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        tags, origins = inputs
        return jnp.take_along_axis(origins, slot, 1), jnp.take_along_axis(tags, slot, 1)

    final = bests[-1] + chain.end[None]
    final = jnp.pad(final - finite_max(final, 1), ((0, 0), (0, max(k - K, 0))), constant_values=NEG_INF)
    lost, last = jax.lax.top_k(final, k)
    last = jnp.minimum(last, K - 1)
    (lost, _), (rest, origins) = jax.lax.scan(back, (lost, last), (bests[:-1], mask[1:]), reverse=True)
    slots = places + jnp.zeros_like(last)  # a device's own, as the rest is, inside of shard_map
    slots, tags = jax.lax.scan(ahead, slots, (rest, origins))
    tags = jnp.concatenate([tags, jnp.take_along_axis(last, slots, 1)[None]])
    # Of no words there is one path, with nothing to lose.
    lost = jnp.where(mask[0][:, None], lost, jnp.where(places == 0, jnp.zeros((), lost.dtype), NEG_INF))
    return jnp.where(mask[:, :, None] & (lost > NEG_INF)[None], tags, 0), lost


@jax.jit
@over_batch
def posterior_decode(
    chain: Chain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> tuple[Array, Array]:
    """The legal path of the most expected correct tags: it maximizes the sum of the posteriors of its tags.

    :func:`viterbi` has the least chance of any error in the path, this the fewest errors on average. No move of it is
    forbidden, though the path as a whole may be improbable.

    Args:
      chain: log-potentials; -inf forbids a move.
      emissions: ``(B, T, K)``; -inf forbids a tag.
      lengths: ``(B,)`` integers, all T by default.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      Tags ``(B, T)`` int32, 0 past the length, and how many of them are expected to be correct ``(B,)``. Length 0 and where no
      path is legal: tags 0, expectation 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf
      >>> emissions = jnp.log(jnp.array([[[1.0, 3.0], [4.0, 1.0]]]))  # (B, T, K)
      >>> tags, correct = crf.posterior_decode(crf.Chain.zeros(2), emissions)
      >>> tags.tolist(), [round(value, 2) for value in correct.tolist()]  # 3 / 4 and 4 / 5
      ([[1, 0]], [1.55])
    """
    problem, gaps = prepare("posterior_decode", chain, emissions, lengths, mask, allowed)
    found = posterior(problem)
    legal = Chain(*(jnp.where(part == NEG_INF, part, 0) for part in problem.chain))
    legal_tags = jnp.where(problem.emissions == NEG_INF, problem.emissions, found)
    tags, _ = best_path(jax.lax.stop_gradient(Problem(legal, legal_tags, problem.mask)))
    chosen = jnp.take_along_axis(found, tags[:, None], 1)[:, 0]
    return in_order(tags.T, gaps), jnp.sum(chosen, 0)
