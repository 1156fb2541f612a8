"""The parameters over segments, the checks of every function's arguments, and the score of a given segmentation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from colnorm.crf import chain as linear
from colnorm.crf.chain import Gaps
from colnorm.crf.reductions import NEG_INF, Array
from colnorm.sharding import over_batch


class SegmentChain(NamedTuple):
    """Log-potentials of segments with Y labels and up to L tokens; a pytree.

    Attributes:
      transitions: ``(Y, Y)``; ``transitions[i, j]`` is added where a segment with label j follows one with label i.
      start: ``(Y,)``; added for the first segment.
      end: ``(Y,)``; added for the last segment.
      durations: ``(L, Y)``; ``durations[d - 1, y]`` is added for a segment of d tokens with label y.

    Example:
      >>> from colnorm.crf import segments
      >>> chain = segments.SegmentChain.zeros(3, longest=8)
      >>> chain.transitions.shape, chain.durations.shape
      ((3, 3), (8, 3))
    """

    transitions: Array
    start: Array
    end: Array
    durations: Array

    @classmethod
    def zeros(cls, num_labels: int, longest: int) -> "SegmentChain":
        """The float32 chain that prefers nothing, over segments of up to ``longest`` tokens."""
        for what, number in (("num_labels", num_labels), ("longest", longest)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"SegmentChain.zeros: expected an integer {what} of at least 1, got {number!r}")
        shapes = ((num_labels, num_labels), (num_labels,), (num_labels,), (longest, num_labels))
        return cls(*(jnp.zeros(shape, jnp.float32) for shape in shapes))


class Segmentation(NamedTuple):
    """Segments of padded sequences; a pytree.

    Attributes:
      labels: ``(B, T)`` integers in [0, Y), at every token that of its segment.
      durations: ``(B, T)`` integers, at a segment's first token how many tokens it has, 0 elsewhere.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> found = segments.Segmentation(labels=jnp.array([[0, 2, 2, 2]]), durations=jnp.array([[1, 2, 0, 1]]))
      >>> int((found.durations > 0).sum())  # of one token, of two and of one
      3
    """

    labels: Array
    durations: Array


class Problem(NamedTuple):
    """Checked arguments in one dtype; time-major, the batch last."""

    chain: SegmentChain
    emissions: Array  # (T, Y, B), 0 past the length
    spans: Array  # (T, L or 1, Y, B), 0 where the segment does not fit
    mask: Array  # (T, B), True inside the length


def prepare(
    name: str,
    chain: SegmentChain,
    emissions: Array,
    lengths: Array | None,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> tuple[Problem, Gaps | None]:
    """As :func:`colnorm.crf.chain.prepare`, for the function ``name``."""
    if not isinstance(chain, SegmentChain):
        raise ValueError(f"{name}: expected a SegmentChain, got {type(chain).__name__}")
    emissions, durations = jnp.asarray(emissions), jnp.asarray(chain.durations)
    more = {"chain.durations": durations} | ({} if spans is None else {"spans": jnp.asarray(spans)})
    for part, array in more.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: expected floating-point {part}, got {array.dtype}")
    if any(array.dtype == jnp.float64 for array in more.values()) and jnp.issubdtype(emissions.dtype, jnp.floating):
        emissions = emissions.astype(jnp.float64)
    parts = linear.Chain(chain.transitions, chain.start, chain.end)
    (parts, emissions, inside), gaps = linear.prepare(name, parts, emissions, lengths, mask, allowed)
    T, Y, B = emissions.shape
    if durations.ndim != 2 or not durations.shape[0] or durations.shape[1] != Y:
        raise ValueError(f"{name}: expected chain.durations of shape (L, {Y}), L at least 1, got {durations.shape}")
    L = durations.shape[0]
    if spans is None:
        placed = jnp.zeros_like(emissions)[:, None]
    else:
        placed = more["spans"]
        if placed.shape not in ((B, T, L, Y), (B, T, 1, Y)):
            raise ValueError(f"{name}: expected spans of shape {(B, T, L, Y)} or {(B, T, 1, Y)}, got {placed.shape}")
        placed = jnp.transpose(placed if gaps is None else gaps.close(placed), (1, 2, 3, 0)).astype(emissions.dtype)
        left = jnp.sum(inside, 0, dtype=jnp.int32)[None] - jnp.arange(T, dtype=jnp.int32)[:, None]
        fits = jnp.arange(placed.shape[1], dtype=jnp.int32)[None, :, None] < left[:, None]
        placed = jnp.where(fits[:, :, None], placed, 0)
    durations = linear.as_data(durations.astype(emissions.dtype), emissions)
    return Problem(SegmentChain(*parts, durations), emissions, placed, inside), gaps


def check_segmentation(name: str, gold: Segmentation, emissions: Array, gaps: Gaps | None) -> Segmentation:
    """Time-major int32 labels and durations ``(T, B)``."""
    if not isinstance(gold, Segmentation):
        raise ValueError(f"{name}: expected a Segmentation, got {type(gold).__name__}")
    return Segmentation(*(linear.check_tags(name, part, emissions, gaps) for part in gold))


@jax.jit
@over_batch
def score(
    chain: SegmentChain,
    emissions: Array,
    gold: Segmentation,
    lengths: Array | None = None,
    *,
    spans: Array | None = None,
    mask: Array | None = None,
    allowed: Array | None = None,
) -> Array:
    """Score of given segmentations: all that :mod:`colnorm.crf.segments` adds up, along each.

    Args:
      chain: log-potentials; -inf forbids.
      emissions: ``(B, T, Y)``; -inf forbids a label at a token.
      gold: what :func:`from_tags` returns; that its durations fill the length is not checked.
      lengths: ``(B,)`` integers, all T by default.
      spans: ``(B, T, L, Y)`` or ``(B, T, 1, Y)``, scores of segments by their first token.
      mask, allowed: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B,)`` log-potentials: 0 for length 0, -inf where anything is forbidden or a segment has more than L tokens.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> chain = segments.SegmentChain.zeros(2, longest=2)._replace(durations=jnp.array([[0.0, 0.0], [0.0, 5.0]]))
      >>> emissions = jnp.array([[[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]])  # (B, T, Y)
      >>> gold = segments.Segmentation(jnp.array([[0, 1, 1]]), jnp.array([[1, 2, 0]]))
      >>> segments.score(chain, emissions, gold).tolist()  # 1 + (2 + 3 + 5)
      [11.0]
    """
    problem, gaps = prepare("segments.score", chain, emissions, lengths, spans, mask, allowed)
    return path_score(problem, check_segmentation("segments.score", gold, emissions, gaps))


def path_score(problem: Problem, path: Segmentation) -> Array:
    """Scores ``(B,)`` of a time-major segmentation."""
    segments, chosen, start = path_terms(problem, path)
    return jnp.sum(segments + chosen, 0) + start


def path_terms(problem: Problem, path: Segmentation) -> tuple[Array, Array, Array]:
    """Of each token what its segment adds by beginning or ending there, and its emission ``(T, B)``; of the start ``(B,)``.

    All 0 past the length. A segment's last token takes the score of what comes after it, as in the recursion.
    """
    chain, emissions, spans, mask = problem
    L, Y = chain.durations.shape
    labels = jnp.where(mask, jnp.clip(path.labels, 0, Y - 1), 0)
    durations = jnp.where(mask, path.durations, 0)
    first = durations > 0
    place = jnp.clip(durations - 1, 0, L - 1)
    after = jnp.concatenate([labels[1:], labels[:1]])
    none = jnp.zeros_like(mask[:1])
    goes_on, begins_next = jnp.concatenate([mask[1:], none]), jnp.concatenate([first[1:], none])
    of_last = jnp.where(goes_on, chain.transitions[labels, after], chain.end[labels])
    chosen = jnp.take_along_axis(emissions, labels[:, None], 1)[:, 0]
    of_first = chain.durations[place, labels] + _chosen_spans(spans, place, labels)
    of_first = jnp.where(durations > L, NEG_INF, of_first)
    leaves = mask & (begins_next | ~goes_on)
    terms = jnp.where(first, of_first, 0) + jnp.where(leaves, of_last, 0)
    return terms, chosen, jnp.where(mask[0], chain.start[labels[0]], 0)


def _chosen_spans(spans: Array, place: Array, labels: Array) -> Array:
    """``(T, B)`` of ``(T, L or 1, Y, B)``."""
    of_labels = jnp.take_along_axis(spans, labels[:, None, None], 2)[:, :, 0]
    return jnp.take_along_axis(of_labels, jnp.minimum(place, spans.shape[1] - 1)[:, None], 1)[:, 0]
