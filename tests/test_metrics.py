"""Confusion matrices against scikit-learn, those of tagging against entities counted by hand."""

import json

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from sklearn import metrics

from colnorm.metrics import (
    AVERAGES,
    RATIOS,
    calibration,
    classification_metrics,
    confusion_matrix,
    entity_counts,
    headline,
    tagging_metrics,
)

CLASSES = 4
NAMES = ("a", "b", "c", "d")
compiled = jax.jit(confusion_matrix, static_argnums=3)


def count(labels, predictions, weights=None, num_classes=CLASSES):
    """As arrays of one length, so that examples share a compilation; padding is wrong on purpose, with weight 0."""
    size = 40
    weights = np.ones(len(labels)) if weights is None else weights
    fill = size - len(labels)
    return compiled(
        jnp.asarray([*labels, *[0] * fill], jnp.int32),
        jnp.asarray([*predictions, *[1] * fill], jnp.int32),
        jnp.asarray([*weights, *[0.0] * fill], jnp.float32),
        num_classes,
    )


pairs = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), max_size=40)


@given(pairs)
def test_everything_is_what_scikit_learn_says(examples):
    labels, predictions = ([pair[side] for pair in examples] for side in (0, 1))
    confusion = count(labels, predictions)
    assert confusion.dtype == jnp.float32
    every = list(range(CLASSES))
    found = classification_metrics(confusion, NAMES)
    if not examples:
        nothing = {"precision": 0, "recall": 0, "f1": 0, "support": 0}
        assert np.all(confusion == 0)
        assert found == {"accuracy": 0, **dict.fromkeys(AVERAGES, nothing), "classes": dict.fromkeys(NAMES, nothing)}
        return
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predictions, labels=every))

    def check(values, average):
        expected = metrics.precision_recall_fscore_support(labels, predictions, labels=every, average=average, zero_division=0)
        np.testing.assert_allclose([[each[name] for each in values] for name in RATIOS], np.reshape(expected[:3], (3, -1)))

    for average in AVERAGES:
        check([found[average]], average)
        assert found[average]["support"] == len(labels)
    check(found["classes"].values(), None)
    assert [each["support"] for each in found["classes"].values()] == [labels.count(label) for label in every]
    np.testing.assert_allclose(found["accuracy"], metrics.accuracy_score(labels, predictions), rtol=1e-12)
    assert found["micro"]["f1"] == pytest.approx(found["accuracy"])
    shown = headline(found, "test_")
    assert shown == {"test_accuracy": found["accuracy"], **{f"test_{name}_f1": found[name]["f1"] for name in AVERAGES}}


@given(pairs, st.integers(0, 40))
def test_matrices_of_batches_add_up(examples, cut):
    labels, predictions = ([pair[side] for pair in examples] for side in (0, 1))
    parts = count(labels[:cut], predictions[:cut]) + count(labels[cut:], predictions[cut:])
    np.testing.assert_array_equal(parts, count(labels, predictions))


@given(pairs, st.data())
def test_weight_zero_is_not_there(examples, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(examples), max_size=len(examples)))
    labels, predictions = ([pair[side] for pair in examples] for side in (0, 1))
    chosen = [pair for pair, keep in zip(examples, kept, strict=True) if keep]
    expected = count([label for label, _ in chosen], [prediction for _, prediction in chosen])
    np.testing.assert_array_equal(count(labels, predictions, [float(keep) for keep in kept]), expected)


def test_rows_are_labels():
    np.testing.assert_array_equal(count([0, 0, 1], [2, 2, 0], num_classes=3), [[0, 0, 2], [1, 0, 0], [0, 0, 0]])


def test_weights_count():
    np.testing.assert_array_equal(count([0, 1], [1, 1], [0.5, 2.0], num_classes=2), [[0, 0.5], [0, 2]])


def test_absent_classes_lower_the_macro_mean_only():
    """Two classes of four occur, both always recognized: scikit-learn's default leaves the others out, we don't."""
    found = classification_metrics(count([0, 1, 1], [0, 1, 1]), NAMES)
    assert headline(found) == {"accuracy": 1, "micro_f1": 1, "macro_f1": 0.5, "weighted_f1": 1}
    assert [each["f1"] for each in found["classes"].values()] == [1, 1, 0, 0]
    assert metrics.f1_score([0, 1, 1], [0, 1, 1], average="macro") == 1


def test_large_counts_are_exact():
    """Summed on the host in float64, where float32 would stop counting at 2^24."""
    found = classification_metrics(np.array([[2.0**25 + 1, 0], [1, 2.0**25]]), NAMES[:2])
    assert [each["support"] for each in found["classes"].values()] == [2**25 + 1, 2**25 + 1]
    assert found["accuracy"] == (2**26 + 1) / (2**26 + 2)


def test_metrics_can_be_written_as_json():
    found = classification_metrics(count([0, 1], [1, 1]), NAMES)
    assert json.loads(json.dumps(found)) == found


# ------------------------------------------------------------------------------------------------------------------ tagging

TAGS = ("O", "B-per", "I-per", "B-geo", "I-geo")


def spans(tags):
    """Entities as conlleval reads them, sentence by sentence; written for this test alone."""
    found, before, first = set(), "O", 0
    for place, tag in enumerate((*tags, "O")):
        if before != "O" and (tag[0] != "I" or tag[2:] != before[2:]):
            found.add((before[2:], first, place))
        if tag[0] == "B" or (tag[0] == "I" and (before == "O" or before[2:] != tag[2:])):
            first = place
        before = tag
    return found


sentence = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=8)


@given(st.lists(sentence, max_size=5))
def test_tagging_metrics_are_those_of_the_spans(pairs):
    gold, predicted = ([[pair[side] for pair in tags] for tags in pairs] for side in (0, 1))
    figures = tagging_metrics(gold, predicted)
    counts = {kind: np.zeros(3) for kind in ("per", "geo")}
    for right, guess in zip(gold, predicted, strict=True):
        right, guess = spans(right), spans(guess)
        for kind in counts:
            of_kind = [{span for span in found if span[0] == kind} for found in (right & guess, guess, right)]
            counts[kind] += [len(found) for found in of_kind]

    def ratios(both, guessed, there):
        precision, recall = (both / n if n else 0.0 for n in (guessed, there))
        f1 = 2 * precision * recall / (precision + recall) if both else 0.0
        return {"precision": precision, "recall": recall, "f1": f1, "support": int(there)}

    by_type = {kind: ratios(*found) for kind, found in counts.items() if found.any()}
    assert figures["classes"].keys() == by_type.keys()
    for kind, expected in by_type.items():
        assert figures["classes"][kind] == pytest.approx(expected)
    assert figures["micro"] == pytest.approx(ratios(*sum(counts.values())))
    tokens = [pair for tags in pairs for pair in tags]
    assert figures["accuracy"] == pytest.approx(np.mean([a == b for a, b in tokens]) if tokens else 0.0)
    for name in ("precision", "recall", "f1"):
        values = [expected[name] for expected in by_type.values()]
        support = [expected["support"] for expected in by_type.values()]
        assert figures["macro"][name] == pytest.approx(np.mean(values) if values else 0.0)
        weighted = np.average(values, weights=support) if sum(support) else 0.0
        assert figures["weighted"][name] == pytest.approx(weighted)


@given(st.lists(sentence, max_size=5))
def test_entity_counts_are_those_of_the_spans(pairs):
    gold, predicted = ([[pair[side] for pair in tags] for tags in pairs] for side in (0, 1))
    counts = entity_counts(gold, predicted)
    assert counts.shape == (len(pairs), 3)
    for row, right, guess in zip(counts, map(spans, gold), map(spans, predicted), strict=True):
        assert row.tolist() == [len(right & guess), len(guess), len(right)]


def test_tagging_metrics_of_other_sentences():
    with pytest.raises(ValueError, match="their lengths differ"):
        tagging_metrics([["O", "O"]], [["O"]])
    with pytest.raises(ValueError, match="their lengths differ"):
        entity_counts([["O"], ["O"]], [["O"]])


# -------------------------------------------------------------------------------------------------------- calibration


def test_calibration_is_scikit_learns_curve():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    said = rng.random(500)
    right = rng.random(500) < said**2
    found = calibration(said, right)
    fractions, means = calibration_curve(right, said, n_bins=10)
    np.testing.assert_allclose([row["right"] for row in found["bins"]], fractions)
    np.testing.assert_allclose([row["probability"] for row in found["bins"]], means)
    weights = np.histogram(said, 10, (0, 1))[0] / 500
    assert [row["count"] for row in found["bins"]] == (weights * 500).round().astype(int).tolist()
    assert found["error"] == pytest.approx(np.sum(weights * np.abs(fractions - means)))


def test_calibration_at_the_edges():
    assert calibration([], []) == {"error": 0, "bins": []}
    (low, high) = calibration([0.0, 1.0, 1.0], [False, True, False])["bins"]
    assert (low["count"], low["low"], high["count"], high["high"], high["right"]) == (1, 0.0, 2, 1.0, 0.5)
    assert calibration([1.0], [True])["error"] == 0
    with pytest.raises(ValueError, match="one shape"):
        calibration([0.5], [True, False])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got -0.1 to 0.5"):
        calibration([0.5, -0.1], [True, False])
