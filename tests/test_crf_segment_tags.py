"""BIO tags as segments and back, limits on durations, and gold segmentations that a chain can't have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colnorm import crf
from colnorm.crf import segments
from colnorm.data.schemes import entities, to_bio

NAMES = ("B-geo", "O", "I-geo", "I-per", "B-per")  # in no order
LABELS = segments.TagLayout.label_names(NAMES)
B, T = 4, 7  # the shape of all, so that each function compiles once

from_tags = jax.jit(segments.from_tags, static_argnames="longest")
to_tags = jax.jit(segments.to_tags)


@pytest.fixture(scope="module")
def layout():
    return segments.TagLayout.of(NAMES)


rows = st.lists(st.lists(st.integers(0, len(NAMES) - 1), max_size=T), min_size=B, max_size=B)


def padded(rows, past):
    return np.array([row + [past] * (T - len(row)) for row in rows], np.int32), np.array([len(row) for row in rows], np.int32)


@given(rows, st.sampled_from([-1, 2, 10**6]))
def test_segments_are_the_entities_and_come_back_as_legal_tags(layout, rows, past):
    tags, lengths = padded(rows, past)
    found = from_tags(layout, tags, lengths)
    back = np.asarray(to_tags(layout, found, lengths))
    for row, n, labels, durations, tags_back in zip(rows, lengths, *found, back, strict=True):
        labels, durations = np.asarray(labels), np.asarray(durations)
        names = [NAMES[tag] for tag in row]
        first = np.flatnonzero(durations)
        spans = [(LABELS[labels[place]], int(place), int(place + durations[place])) for place in first]
        assert [span for span in spans if span[0] != "O"] == entities(names)
        assert all(end == start + 1 for label, start, end in spans if label == "O")
        assert durations.sum() == n and not labels[n:].any()
        assert tuple(NAMES[tag] for tag in tags_back[:n]) == to_bio(names)
        assert not tags_back[n:].any()


@given(rows)
def test_long_segments_are_cut(layout, rows):
    tags, lengths = padded(rows, 0)
    whole, cut = from_tags(layout, tags, lengths), from_tags(layout, tags, lengths, longest=2)
    np.testing.assert_array_equal(whole.labels, cut.labels)
    for of_whole, of_cut in zip(np.asarray(whole.durations), np.asarray(cut.durations), strict=True):
        pieces = [size for size in of_whole if size]
        assert [size for size in of_cut if size] == [piece for size in pieces for piece in [2] * (size // 2) + [1] * (size % 2)]


def test_positions_without_a_tag_are_left_out(layout):
    tags = np.array([[3, 4, 0, 3, 1, 0, 3]] * B, np.int32)
    mask = np.array([[False, True, False, True, True, False, True]] * B)
    found = segments.from_tags(layout, tags, mask=mask)
    assert found.durations[0].tolist() == [0, 2, 0, 0, 1, 0, 1]
    assert segments.to_tags(layout, found, mask=mask)[0].tolist() == [0, 4, 0, 3, 1, 0, 4]


def test_tag_scores_give_segments_the_scores_of_their_tags(layout):
    """A segmentation scores as its tags do in the linear chain; the best one of all is the best legal path."""
    rng = np.random.default_rng(0)
    emissions = rng.normal(size=(B, T, len(NAMES))).astype(np.float32)
    tags, lengths = padded([[4, 3, 3, 1, 0], [1], [0, 0, 2, 4, 3, 3, 3], []], 0)

    @jax.jit
    def both(emissions):
        chain = segments.limit(segments.SegmentChain.zeros(len(LABELS), T), LABELS, {"O": 1})
        linear = crf.constrain(crf.Chain.zeros(len(NAMES)), NAMES)
        of_labels, spans = segments.tag_scores(layout, emissions)
        score = segments.score(chain, of_labels, segments.from_tags(layout, tags, lengths), lengths, spans=spans)
        likelihood = segments.log_partition(chain, of_labels, lengths, spans=spans)
        best, _ = segments.viterbi(chain, of_labels, lengths, spans=spans)
        expected = crf.score(linear, emissions, tags, lengths), crf.log_partition(linear, emissions, lengths)
        decoded = crf.viterbi(linear, emissions, lengths)[0]
        return (score, likelihood, segments.to_tags(layout, best, lengths)), (*expected, decoded)

    for actual, expected in zip(*both(emissions), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_limits_forbid_durations(layout):
    chain = segments.limit(segments.SegmentChain.zeros(3, 4), LABELS, {"O": 1, "per": 3})
    assert LABELS == ("geo", "O", "per")
    np.testing.assert_array_equal(np.asarray(chain.durations) == 0, np.arange(4)[:, None] < [4, 1, 3])
    slope = jax.grad(lambda chain: segments.log_partition(segments.limit(chain, LABELS, {"O": 1}), jnp.zeros((1, 5, 3))).sum())
    np.testing.assert_array_equal(slope(segments.SegmentChain.zeros(3, 4)).durations[1:, 1], np.zeros(3))
    for longest, message in (({"loc": 1}, "'loc': 1"), ({"O": 0}, "'O': 0"), ({"O": 1.5}, "'O': 1.5")):
        with pytest.raises(ValueError, match=f"at least 1 token, got {message}"):
            segments.limit(chain, LABELS, longest)
    with pytest.raises(ValueError, match="expected 3 label names, got 2"):
        segments.limit(chain, LABELS[:2], {})
    with pytest.raises(ValueError, match="expected a SegmentChain, got Chain"):
        segments.limit(crf.Chain.zeros(3), LABELS, {})


def test_gold_that_a_chain_cannot_have_is_named(layout):
    chain = segments.limit(segments.SegmentChain.zeros(3, 2), LABELS, {"O": 1})
    tags = jnp.array([[1, 1, 4, 3, 3], [4, 3, 1, 1, 1]])
    gold = segments.from_tags(layout, tags)
    message = "sequence 0 has a segment 'per' of 3 tokens at position 2; a 'per' has 1 to 2 tokens"
    with pytest.raises(ValueError, match=message):
        segments.check_segments(chain, gold, label_names=LABELS)
    segments.check_segments(chain, gold, lengths=[2, 5])
    segments.check_segments(chain, segments.from_tags(layout, tags, longest=2))
    for labels, durations, message in (
        ([[1, 1]], [[2, 0]], "'1' of 2 tokens at position 0; a '1' has 1 to 1 tokens"),
        ([[1, 1]], [[1, 0]], "segments of 1 tokens in all; expected its length, 2"),
        ([[0, 0]], [[0, 1]], "a segment at position 1; expected one at 0"),
        ([[3, 0]], [[1, 1]], "the label 3 at position 0; expected 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            segments.check_segments(chain, segments.Segmentation(np.array(labels), np.array(durations)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("O", "B-per"), "got no 'I-per'"),
        (("I-per",), "got no 'B-per'"),
        (("O", "O"), "different tags"),
        (("O", "S-per"), "'B-type', 'I-type', got 'S-per'"),
        (("O", "B-"), "got 'B-'"),
        (("O", "B-O", "I-O"), "got 'B-O'"),
    ],
)
def test_tags_that_are_not_bio_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        segments.TagLayout.of(names)


def test_wrong_arguments_are_errors(layout):
    tags = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(ValueError, match="from_tags: expected a TagLayout, got tuple"):
        segments.from_tags(NAMES, tags)
    with pytest.raises(ValueError, match=r"integer tags of shape \(B, T\), got float32 of shape \(2, 3\)"):
        segments.from_tags(layout, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="longest of at least 1, got 0"):
        segments.from_tags(layout, tags, longest=0)
    with pytest.raises(ValueError, match=r"lengths of shape \(2,\), got \(3,\)"):
        segments.from_tags(layout, tags, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match=r"bool mask of shape \(2, 3\), got int32"):
        segments.to_tags(layout, segments.Segmentation(tags, tags), mask=tags)
    with pytest.raises(ValueError, match="lengths or a mask, got both"):
        segments.from_tags(layout, tags, jnp.zeros(2, jnp.int32), mask=tags > 0)
    with pytest.raises(ValueError, match=r"emissions of shape \(B, T, 5\), got \(2, 3, 4\)"):
        segments.tag_scores(layout, jnp.zeros((2, 3, 4)))
