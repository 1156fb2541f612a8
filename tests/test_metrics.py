"""Confusion matrices and the figures out of them against scikit-learn."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from sklearn import metrics

from colnorm.metrics import classification_figures, confusion_matrix

CLASSES = 4
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
    figures = classification_figures(confusion)
    if not examples:
        assert np.all(confusion == 0)
        assert figures == {"accuracy": 0, "macro_f1": 0, "micro_f1": 0, "f1": [0] * CLASSES, "support": [0] * CLASSES}
        return
    every = list(range(CLASSES))
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predictions, labels=every))

    def f1(average):
        return metrics.f1_score(labels, predictions, labels=every, average=average, zero_division=0)

    np.testing.assert_allclose(figures["accuracy"], metrics.accuracy_score(labels, predictions), rtol=1e-12)
    np.testing.assert_allclose(figures["macro_f1"], f1("macro"), rtol=1e-12)
    np.testing.assert_allclose(figures["micro_f1"], f1("micro"), rtol=1e-12)
    np.testing.assert_allclose(figures["f1"], f1(None), rtol=1e-12)
    assert figures["support"] == [labels.count(label) for label in every]
    assert figures["micro_f1"] == pytest.approx(figures["accuracy"])


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
    figures = classification_figures(count([0, 1, 1], [0, 1, 1]))
    assert (figures["accuracy"], figures["micro_f1"], figures["macro_f1"]) == (1, 1, 0.5)
    assert figures["f1"] == [1, 1, 0, 0]
    assert metrics.f1_score([0, 1, 1], [0, 1, 1], average="macro") == 1


def test_large_counts_are_exact():
    """Summed on the host in float64, where float32 would stop counting at 2^24."""
    figures = classification_figures(np.array([[2.0**25 + 1, 0], [1, 2.0**25]]))
    assert figures["support"] == [2**25 + 1, 2**25 + 1]
    assert figures["accuracy"] == (2**26 + 1) / (2**26 + 2)


def test_figures_can_be_written_as_json():
    import json

    figures = classification_figures(count([0, 1], [1, 1]))
    assert json.loads(json.dumps(figures)) == figures
