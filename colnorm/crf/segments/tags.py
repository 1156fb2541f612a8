"""BIO tags as segments and back, limits on durations, and the gold segmentations that break them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colnorm.crf.chain import as_data, check_positions, in_order
from colnorm.crf.reductions import NEG_INF, Array
from colnorm.crf.segments.chain import Segmentation, SegmentChain


class TagLayout(NamedTuple):
    """How K BIO tags make up Y labels, "O" and the types of entity: ``TagLayout.of(tag_names)``; a pytree of int32.

    Attributes:
      labels: ``(K,)``, the label of each tag.
      begins: ``(Y,)``, the tag of a segment's first token.
      insides: ``(Y,)``, the tag of its others. Of "O" both are "O".

    Example:
      >>> from colnorm.crf import segments
      >>> names = ["O", "B-per", "I-per", "B-geo", "I-geo"]
      >>> segments.TagLayout.label_names(names)
      ('O', 'per', 'geo')
      >>> segments.TagLayout.of(names).begins.tolist()
      [0, 1, 3]
    """

    labels: Array
    begins: Array
    insides: Array

    @classmethod
    def of(cls, tag_names: Sequence[str]) -> "TagLayout":
        """Of K different names in BIO, in the order of the tags.

        Raises:
          ValueError: a name is not in BIO, or is there twice, or B-x is without I-x or the other way round.
        """
        names, labels = list(tag_names), cls.label_names(tag_names)
        pairs = [("O", "O") if label == "O" else (f"B-{label}", f"I-{label}") for label in labels]
        if missing := sorted({name for pair in pairs for name in pair} - set(names)):
            raise ValueError(f"TagLayout: expected B-x and I-x of every type, got no {missing[0]!r} in {names}")
        if len(set(names)) != len(names):
            raise ValueError(f"TagLayout: expected different tags, got {names}")
        begins, insides = ([names.index(pair[which]) for pair in pairs] for which in (0, 1))
        of_tags = [labels.index(_label(name)) for name in names]
        return cls(*(np.array(part, np.int32) for part in (of_tags, begins, insides)))  # type: ignore[arg-type]  # NumPy for JAX, as constants of a program

    @staticmethod
    def label_names(tag_names: Sequence[str]) -> tuple[str, ...]:
        """The labels in order, each where its first tag stands."""
        return tuple(dict.fromkeys(_label(name) for name in tag_names))


def from_tags(
    layout: TagLayout, tags: Array, lengths: Array | None = None, longest: int | None = None, *, mask: Array | None = None
) -> Segmentation:
    """The segmentation that BIO tags mean: each entity a segment, and each "O" one of its own.

    I-x where no entity of type x is open begins one, as in conlleval.

    Args:
      layout: of the tags.
      tags: ``(B, T)`` integers in [0, K); never read past the length.
      lengths: ``(B,)`` integers, all T by default.
      longest: cut longer entities into pieces of so many tokens and a rest, all with the entity's label, so that a chain of
        this L can score them. By default they stay whole: :func:`check_segments` then names the first.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      A :class:`Segmentation` of int32; 0 past the length.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> layout, tags = segments.TagLayout.of(["O", "B-per", "I-per"]), jnp.array([[0, 1, 2, 2, 1, 0]])
      >>> segments.from_tags(layout, tags).durations.tolist()
      [[1, 3, 0, 0, 1, 1]]
      >>> segments.from_tags(layout, tags, longest=2).durations.tolist()
      [[1, 2, 0, 1, 1, 1]]
    """
    _check_layout("from_tags", layout)
    tags = _integers("from_tags", "tags", tags)
    T = tags.shape[1]
    inside, gaps = check_positions("from_tags", lengths, mask, tags.shape)
    tags, inside = tags if gaps is None else gaps.close(tags), inside.T
    tags = jnp.clip(tags, 0, layout.labels.shape[0] - 1)
    labels = jnp.where(inside, as_data(jnp.asarray(layout.labels), tags)[tags], 0)
    times = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], tags.shape)
    changes = jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first = changes | (tags == as_data(jnp.asarray(layout.begins), tags)[labels])
    if longest is not None:
        if not isinstance(longest, int) or longest < 1:
            raise ValueError(f"from_tags: expected an integer longest of at least 1, got {longest!r}")
        first |= (times - jax.lax.cummax(jnp.where(first, times, 0), 1)) % longest == 0
    # Where the next segment or the padding begins, from each token on; after it, for a segment's first token.
    boundary = jax.lax.cummin(jnp.where(first | ~inside, times, T), 1, reverse=True)
    following = jnp.pad(boundary[:, 1:], ((0, 0), (0, 1)), constant_values=T)
    durations = jnp.where(first & inside, following - times, 0)
    return Segmentation(in_order(labels, gaps), in_order(durations, gaps))


def to_tags(layout: TagLayout, segmentation: Segmentation, lengths: Array | None = None, *, mask: Array | None = None) -> Array:
    """The BIO tags of segments: what :func:`viterbi` or :func:`sample` found.

    Args:
      layout: of the tags.
      segmentation: of labels in [0, Y).
      lengths: ``(B,)`` integers, all T by default.
      mask: as everywhere in :mod:`colnorm.crf`.

    Returns:
      ``(B, T)`` int32; 0 past the length.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> found = segments.Segmentation(jnp.array([[0, 1, 1, 1]]), jnp.array([[1, 2, 0, 1]]))
      >>> segments.to_tags(segments.TagLayout.of(["O", "B-per", "I-per"]), found).tolist()
      [[0, 1, 2, 1]]
    """
    _check_layout("to_tags", layout)
    labels, durations = (_integers("to_tags", "labels and durations", part) for part in segmentation)
    labels = jnp.clip(labels, 0, layout.begins.shape[0] - 1)
    inside, gaps = check_positions("to_tags", lengths, mask, labels.shape)
    inside = inside.T if gaps is None else gaps.mask
    begins, insides = (as_data(jnp.asarray(part), labels) for part in (layout.begins, layout.insides))
    return jnp.where(inside, jnp.where(durations > 0, begins[labels], insides[labels]), 0)


def tag_scores(layout: TagLayout, emissions: Array) -> tuple[Array, Array]:
    """Scores of segments out of scores of BIO tags: ``emissions`` of labels and ``spans`` for this module's functions.

    A segment then scores what its tags do: an encoder that is made for the linear chain serves this one, too.

    Args:
      layout: of the tags.
      emissions: ``(B, T, K)`` of tags, finite.

    Returns:
      ``(B, T, Y)``, the scores of the inside tags, and ``(B, T, 1, Y)``, what those of the first tags have more.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> layout = segments.TagLayout.of(["O", "B-per", "I-per"])
      >>> emissions, spans = segments.tag_scores(layout, jnp.array([[[1.0, 2.0, 5.0]]]))
      >>> emissions.tolist(), spans.tolist()
      ([[[1.0, 5.0]]], [[[[0.0, -3.0]]]])
    """
    _check_layout("tag_scores", layout)
    if emissions.ndim != 3 or emissions.shape[2] != layout.labels.shape[0]:
        raise ValueError(f"tag_scores: expected emissions of shape (B, T, {layout.labels.shape[0]}), got {emissions.shape}")
    inside = emissions[:, :, layout.insides]
    return inside, (emissions[:, :, layout.begins] - inside)[:, :, None]


def limit(chain: SegmentChain, label_names: Sequence[str], longest: Mapping[str, int]) -> SegmentChain:
    """The chain with -inf at durations beyond the longest of a label: ``{"O": 1}`` makes each "O" a segment of its own.

    Use it on the chain of each step: forbidden durations get no gradient, and stay forbidden whatever the parameters become.

    Args:
      chain: log-potentials, kept where the duration is legal.
      label_names: Y names in the order of the labels, as ``TagLayout.label_names`` gives them.
      longest: label -> the most tokens of a segment, at least 1; those that are not named are not limited.

    Raises:
      ValueError: for a name that is none of the labels', a number below 1, or not Y names.

    Example:
      >>> from colnorm.crf import segments
      >>> chain = segments.limit(segments.SegmentChain.zeros(2, longest=3), ["O", "per"], {"O": 1})
      >>> chain.durations.tolist()
      [[0.0, 0.0], [-inf, 0.0], [-inf, 0.0]]
    """
    if not isinstance(chain, SegmentChain):
        raise ValueError(f"limit: expected a SegmentChain, got {type(chain).__name__}")
    L, Y = chain.durations.shape
    if len(label_names) != Y:
        raise ValueError(f"limit: expected {Y} label names, got {len(label_names)}: {list(label_names)}")
    for name, number in longest.items():
        if name not in label_names or not isinstance(number, int) or number < 1:
            raise ValueError(f"limit: expected one of {list(label_names)} and at least 1 token, got {name!r}: {number!r}")
    most = np.array([longest.get(name, L) for name in label_names])
    legal = np.arange(L)[:, None] < most[None]
    return chain._replace(durations=jnp.where(legal, chain.durations, NEG_INF))


def check_segments(
    chain: SegmentChain, gold: Segmentation, lengths: Any = None, label_names: Sequence[str] | None = None
) -> None:
    """Looks for a gold segment that the chain can't have, of likelihood -inf. For where data is read: not inside jit.

    Args:
      chain: log-potentials; -inf forbids.
      gold: as :func:`from_tags` returns it without ``longest``.
      lengths: ``(B,)`` integers, all T by default.
      label_names: Y names for the message, numbers by default.

    Raises:
      ValueError: a label is outside [0, Y), the segments don't fill the length, or one has more than L tokens or a duration
        that is forbidden; names the first one's sequence and position.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm.crf import segments
      >>> names = ["O", "B-per", "I-per"]
      >>> gold = segments.from_tags(segments.TagLayout.of(names), jnp.array([[1, 0, 0, 0], [0, 1, 2, 2]]))
      >>> segments.check_segments(segments.SegmentChain.zeros(2, longest=2), gold, label_names=["O", "per"])
      Traceback (most recent call last):
      ...
      ValueError: sequence 1 has a segment 'per' of 3 tokens at position 1; a 'per' has 1 to 2 tokens
    """
    durations = np.asarray(chain.durations, np.float32)
    L, Y = durations.shape
    names = [str(label) for label in range(Y)] if label_names is None else list(label_names)
    all_labels, all_sizes = (np.asarray(part) for part in gold)
    counts = np.full(len(all_labels), all_labels.shape[1]) if lengths is None else np.asarray(lengths)
    for number, (labels, sizes, length) in enumerate(zip(all_labels, all_sizes, counts, strict=True)):
        position = 0
        for place in np.flatnonzero(sizes[:length] > 0):
            label, size = int(labels[place]), int(sizes[place])
            if place != position:
                raise ValueError(f"sequence {number} has a segment at position {place}; expected one at {position}")
            if not 0 <= label < Y:
                raise ValueError(f"sequence {number} has the label {label} at position {place}; expected 0 to {Y - 1}")
            if size > L or durations[size - 1, label] == NEG_INF:
                name, legal = names[label], np.flatnonzero(durations[:, label] > NEG_INF) + 1
                allowed = f"{legal[0]} to {legal[-1]}" if len(legal) else "no"
                raise ValueError(
                    f"sequence {number} has a segment {name!r} of {size} tokens at position {place}; "
                    f"a {name!r} has {allowed} tokens"
                )
            position += size
        if position != length:
            raise ValueError(f"sequence {number} has segments of {position} tokens in all; expected its length, {length}")


def _label(tag: str) -> str:
    prefix, _, kind = tag.partition("-")
    if tag != "O" and not (prefix in ("B", "I") and kind and kind != "O"):
        raise ValueError(f"TagLayout: expected BIO tags 'O', 'B-type', 'I-type', got {tag!r}")
    return kind or tag


def _check_layout(name: str, layout: Any) -> None:
    if not isinstance(layout, TagLayout):
        raise ValueError(f"{name}: expected a TagLayout, got {type(layout).__name__}")


def _integers(name: str, what: str, values: Any) -> Array:
    values = jnp.asarray(values)
    if values.ndim != 2 or not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{name}: expected integer {what} of shape (B, T), got {values.dtype} of shape {values.shape}")
    return values.astype(jnp.int32)
