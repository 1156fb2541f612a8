"""The best segmentation, and exact samples: both walk from the first token on and choose as they go."""

from typing import Any

import jax
import jax.numpy as jnp

from colnorm.crf.chain import Gaps, in_order
from colnorm.crf.reductions import NEG_INF, Array, best_move, finite_max, safe_log
from colnorm.crf.segments.chain import Problem, Segmentation, SegmentChain, path_score, prepare
from colnorm.crf.segments.scan import backward_filter, next_inside, nothing
from colnorm.sharding import over_batch


@jax.jit
@over_batch
def viterbi(
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> tuple[Segmentation, Array]:
    """The segmentation of the highest score.

    Of equal scores the lowest label wins, then the shortest duration, of the first segment first. The gradient of the score is
    the segmentation's counts.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      A :class:`Segmentation` of int32, 0 past the length, and its score ``(B,)``. Length 0: score 0. Where none is legal:
      labels and durations 0, score -inf with a gradient of 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> chain = segments.SegmentChain.zeros(2, longest=2)._replace(durations=jnp.array([[0.0, 0.0], [0.0, 5.0]]))
      >>> emissions = jnp.array([[[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]])  # (B, T, Y)
      >>> best, score = segments.viterbi(chain, emissions)
      >>> best.labels.tolist(), best.durations.tolist(), score.tolist()
      ([[0, 1, 1]], [[1, 2, 0]], [11.0])
    """
    problem, gaps = prepare("segments.viterbi", chain, emissions, lengths, spans, mask, allowed)
    path, possible = _follow(problem, *_maxima(jax.lax.stop_gradient(problem)))
    return _in_order(path, gaps), jnp.where(possible, path_score(problem, path), NEG_INF)


@jax.jit
@over_batch
def sample(
    key: Array,
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Segmentation:
    """A segmentation of each sequence, drawn exactly from the distribution: each segment given the one before it.

    Args:
      key: a ``jax.random.key``.
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      A :class:`Segmentation` of int32; 0 past the length and where none is legal. To draw n of each sequence, ``jax.vmap`` over
      ``jax.random.split(key, n)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> chain, keys = segments.SegmentChain.zeros(1, longest=2), jax.random.split(jax.random.key(0), 500)
      >>> draws = jax.vmap(lambda key: segments.sample(key, chain, jnp.zeros((1, 4, 1))))(keys)
      >>> draws.durations.shape, draws.durations.sum(-1).tolist() == [[4]] * 500
      ((500, 1, 4), True)
    """
    problem, gaps = prepare("segments.sample", chain, emissions, lengths, spans, mask, allowed)
    filtered = backward_filter(problem)
    T, Y, B = problem.emissions.shape
    shapes = (T, Y, B), (T, chain.durations.shape[0], B)
    # The argmax of scores + noise is a draw.
    of_labels, of_durations = (
        jax.random.gumbel(own, shape, problem.emissions.dtype) for own, shape in zip(jax.random.split(key), shapes, strict=True)
    )
    path, _ = _follow(problem, filtered.first, filtered.after, safe_log(filtered.shares), (of_labels, of_durations))
    return _in_order(path, gaps)


def _maxima(problem: Problem) -> tuple[Array, Array, Array]:
    """Scores of the best ends of a sequence, but for a shift of each token: ``first``, ``after`` and, by duration, ``whole``.

    As :class:`colnorm.crf.segments.scan.Filtered` has the sums, without the logs and the normalization.
    """
    chain, emissions, spans, mask = problem

    def step(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        runs, after = carry
        emission, of_spans, inside, goes_on = inputs
        rest = jnp.where(goes_on[None], best_move(after, chain.transitions.T), chain.end[:, None])
        runs = jnp.concatenate([rest[None], runs[:-1]])
        whole = runs + chain.durations[:, :, None] + of_spans
        best = jnp.max(whole, 0)
        change = emission - finite_max(jnp.maximum(best, jnp.max(runs, 0)) + emission, 0)
        return (jnp.where(inside[None, None], runs + change[None], NEG_INF), best + change), (after, whole)

    (_, first), rest = jax.lax.scan(step, nothing(problem), (emissions, spans, mask, next_inside(mask)), reverse=True)
    return first, *rest


def _follow(
    problem: Problem, first: Array, after: Array, whole: Array, noise: tuple[Array, Array] | None = None
) -> tuple[Segmentation, Array]:
    """The time-major segmentation that takes, segment by segment, the label and then the duration of the highest score.

    Args:
      first, after: ``(Y, B)`` and ``(T, Y, B)``, scores of all that begins at the first token and at the next one, by label.
      whole: ``(T, L, Y, B)``, those of what begins at a token, by duration and label.
      noise: ``(T, Y, B)`` and ``(T, L, B)`` to add to the scores of labels and of durations.

    Returns:
      the segmentation, and whether any is legal ``(B,)``.
    """
    chain, _, _, mask = problem

    def choose(scores: Array, noise: Array | None) -> Array:
        # The shift keeps the noise's digits at large scores.
        scores = scores if noise is None else scores - finite_max(scores, 0) + noise
        return jnp.argmax(scores, 0).astype(jnp.int32)

    def step(carry: tuple[Array, Array, Array], inputs: Any) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        into, label, left = carry
        here, whole, inside, noise = inputs
        begins = inside & (left == 0)
        label = jnp.where(begins, choose(into + here, noise and noise[0]), label)
        durations = jnp.take_along_axis(whole, label[None, None], 1)[:, 0]
        left = jnp.where(begins, choose(durations, noise and noise[1]) + 1, left)
        return (chain.transitions[label].T, label, jnp.maximum(left - 1, 0)), (label, jnp.where(begins, left, 0))

    here = jnp.concatenate([first[None], after[:-1]])
    none = jnp.zeros_like(mask[0], jnp.int32)
    start = chain.start[:, None] + jnp.zeros_like(first)
    _, (labels, durations) = jax.lax.scan(step, (start, none, none), (here, whole, mask, noise))
    possible = (jnp.max(first + start, 0) > NEG_INF) | ~mask[0]
    found = mask & possible[None]
    return Segmentation(jnp.where(found, labels, 0), jnp.where(found, durations, 0)), possible


def _in_order(path: Segmentation, gaps: Gaps | None) -> Segmentation:
    return Segmentation(*(in_order(part.T, gaps) for part in path))
