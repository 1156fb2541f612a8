"""Metrics of classification, from a confusion matrix that adds up over batches and devices, and of tagging, by seqeval."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from colnorm.data.schemes import entities

AVERAGES = ("micro", "macro", "weighted")
RATIOS = ("precision", "recall", "f1")
THRESHOLDS = (*(number / 20 for number in range(19)), 0.92, 0.94, 0.96, 0.98, 0.99)
"""Posteriors below which entities may be dropped."""


def confusion_matrix(labels: jax.Array, predictions: jax.Array, weights: jax.Array, num_classes: int) -> jax.Array:
    """``(num_classes, num_classes)`` float32: the weight of the examples with label i (row) predicted as j (column).

    Args:
      labels, predictions: integers ``(N,)``.
      weights: ``(N,)``, 0 for padding.
      num_classes: what labels and predictions are below.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import metrics
      >>> labels, predictions, weights = jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), jnp.array([1.0, 1.0, 0.0])
      >>> metrics.confusion_matrix(labels, predictions, weights, num_classes=2).tolist()
      [[1.0, 0.0], [1.0, 0.0]]
    """
    rows = jax.nn.one_hot(labels, num_classes) * weights[:, None]
    # one_hot products of zeros and ones are exact in any precision up to 2^24 examples.
    return jnp.matmul(rows.T, jax.nn.one_hot(predictions, num_classes), precision=jax.lax.Precision.HIGHEST)


def classification_metrics(confusion: Any, class_names: Sequence[str]) -> dict[str, Any]:
    """Precision, recall and F1 of each class and on average, and the accuracy, as fractions.

    ``F1 = 2 TP / (2 TP + FP + FN)``; a ratio of 0 to 0 is 0, as in scikit-learn with ``zero_division=0``. Macro averages are
    means over all classes, those that neither occur nor are predicted included. With one label per example every false
    positive is a false negative of another class, so the micro averages equal the accuracy.

    Args:
      confusion: ``(C, C)`` counts, rows are labels.
      class_names: of the C classes.

    Returns:
      the keys of :func:`tagging_metrics`.

    Example:
      >>> from colnorm import metrics
      >>> found = metrics.classification_metrics([[3, 1], [0, 4]], ["cat", "dog"])
      >>> found["accuracy"], round(found["classes"]["cat"]["f1"], 3), found["classes"]["dog"]["support"]
      (0.875, 0.857, 4)
    """
    confusion = np.asarray(confusion, np.float64)
    correct, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)

    def ratio(numerator: Any, denominator: Any) -> Any:
        return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) > 0)

    def scores(correct: Any, predicted: Any, support: Any) -> Any:
        ratios = (ratio(correct, predicted), ratio(correct, support), ratio(2 * correct, predicted + support))
        return np.stack(ratios, -1)

    def named(values: Any, support: Any) -> dict[str, Any]:
        return {**{name: float(value) for name, value in zip(RATIOS, values, strict=True)}, "support": int(support)}

    by_class, total = scores(correct, predicted, support), confusion.sum()
    return {
        "accuracy": float(ratio(correct.sum(), total)),
        "micro": named(scores(correct.sum(), total, total), total),
        "macro": named(by_class.mean(0), total),
        "weighted": named(ratio(support @ by_class, np.full(3, total)), total),
        "classes": {name: named(*each) for name, *each in zip(class_names, by_class, support, strict=True)},
    }


def tagging_metrics(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of entities, by seqeval, and the accuracy of tokens.

    A predicted entity is correct where its type, its first and its last token are those of a gold one. seqeval's default mode:
    an entity is what conlleval takes for one, so that an ``I-x`` after another type or ``O`` begins one; in legal BIO, which a
    constrained CRF always writes, this is the same as the strict mode. Micro averages are of all entities together, macro the
    mean over the types that occur in gold or prediction, weighted the mean weighted with gold counts. A ratio of 0 to 0 is 0.

    Args:
      gold, predicted: BIO tags of each sentence, of equal lengths.

    Returns:
      ``accuracy``; ``micro``, ``macro``, ``weighted`` and under ``classes`` every entity type, each a dict of ``precision``,
      ``recall``, ``f1`` and ``support``, the number of gold entities.

    Raises:
      ValueError: the numbers of sentences or of tokens differ.
      ModuleNotFoundError: seqeval is not installed.

    Example:
      >>> from colnorm import metrics
      >>> found = metrics.tagging_metrics([["B-per", "I-per", "O"]], [["B-per", "O", "O"]])
      >>> found["micro"]["f1"], round(found["accuracy"], 3)  # an entity cut short is not found
      (0.0, 0.667)
    """
    try:
        from seqeval.metrics import classification_report
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the metrics are seqeval's: pip install 'colnorm[train]'") from error

    _check_same_sentences(gold, predicted)
    pairs = [pair for tags in zip(gold, predicted, strict=True) for pair in zip(*tags, strict=True)]
    report = {}
    if any(tag != "O" for pair in pairs for tag in pair):  # seqeval fails where there is no entity at all
        gold, predicted = [list(tags) for tags in gold], [list(tags) for tags in predicted]
        report = classification_report(gold, predicted, output_dict=True, zero_division=0)
    nothing = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}

    def of(name: str) -> dict[str, Any]:
        values = report.get(name, nothing)
        ratios = {short: float(values[key]) for short, key in zip(RATIOS, nothing, strict=False)}
        return {**ratios, "support": int(values["support"])}

    return {
        "accuracy": sum(tag == other for tag, other in pairs) / max(len(pairs), 1),
        **{name: of(f"{name} avg") for name in AVERAGES},
        "classes": {name: of(name) for name in report if not name.endswith(" avg")},
    }


def headline(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """``accuracy``, ``micro_f1``, ``macro_f1`` and ``weighted_f1`` of the above, ``prefix`` before each name.

    Example:
      >>> from colnorm import metrics
      >>> of_test = metrics.tagging_metrics([["B-per", "O"]], [["B-per", "O"]])
      >>> metrics.headline(of_test, "test_")["test_micro_f1"]
      1.0
    """
    averages = {f"{prefix}{name}_f1": metrics[name]["f1"] for name in AVERAGES}
    return {f"{prefix}accuracy": metrics["accuracy"], **averages}


def _check_same_sentences(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise ValueError("gold and predicted tags must be of the same sentences, but their lengths differ")


def entity_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """``(sentences, 3)`` int: of each sentence the correct, the predicted and the gold entities.

    Entities are those of :func:`tagging_metrics`, whose micro F1 is ``2 c / (p + g)`` of the sums c, p and g over sentences.

    Args:
      gold, predicted: BIO tags of each sentence, of equal lengths.

    Raises:
      ValueError: the numbers of sentences or of tokens differ.

    Example:
      >>> from colnorm import metrics
      >>> metrics.entity_counts([["B-per", "O", "B-geo"]], [["B-per", "O", "O"]]).tolist()
      [[1, 1, 2]]
    """
    _check_same_sentences(gold, predicted)
    sets = [(set(entities(tags)), set(entities(others))) for tags, others in zip(gold, predicted, strict=True)]
    return np.array([(len(of_gold & found), len(found), len(of_gold)) for of_gold, found in sets], int).reshape(-1, 3)


def calibration(probabilities: ArrayLike, right: ArrayLike, bins: int = 10) -> dict[str, Any]:
    """How often what is said to have a probability comes true (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

    Args:
      probabilities: ``(N,)``, from 0 to 1.
      right: ``(N,)`` bool, what came true.
      bins: of equal width; the last one includes 1.

    Returns:
      ``error``, the expected calibration error: ``sum over bins of count / N * |mean probability - fraction right|``, 0 for
      N = 0; and ``bins``, those that hold anything, each with ``low``, ``high``, ``count``, ``probability`` (their mean) and
      ``right`` (the fraction).

    Raises:
      ValueError: the two differ in shape, or a probability lies outside of [0, 1].

    Example:
      >>> from colnorm import metrics
      >>> figures = metrics.calibration([0.9, 0.9, 0.9, 0.9], [True, True, True, False])
      >>> round(figures["error"], 3), [(row["low"], row["count"], row["right"]) for row in figures["bins"]]
      (0.15, [(0.9, 4, 0.75)])
    """
    probabilities, right = np.asarray(probabilities, np.float64), np.asarray(right, bool)
    if probabilities.ndim != 1 or probabilities.shape != right.shape:
        raise ValueError(f"expected two arrays of one shape (N,), got {probabilities.shape} and {right.shape}")
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError(f"probabilities must lie in [0, 1], got {probabilities.min()} to {probabilities.max()}")
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows = []
    for place in range(bins):
        inside = places == place
        if count := int(inside.sum()):
            mean, fraction = float(probabilities[inside].mean()), float(right[inside].mean())
            rows.append(
                {"low": place / bins, "high": (place + 1) / bins, "count": count, "probability": mean, "right": fraction}
            )
    error = sum(row["count"] * abs(row["probability"] - row["right"]) for row in rows) / max(probabilities.size, 1)
    return {"error": error, "bins": rows}


def precision_recall(
    probabilities: ArrayLike, right: ArrayLike, support: int, thresholds: Sequence[float] = THRESHOLDS
) -> list[dict[str, float]]:
    """What is left of precision, recall and F1 when what is less probable than a threshold is dropped, for each threshold.

    Args:
      probabilities: ``(N,)`` of what was found, entities say.
      right: ``(N,)`` bool, which of it is right.
      support: how many there are to be found.
      thresholds: from 0 to 1.

    Returns:
      a dict a threshold with ``min_posterior``, ``precision``, ``recall``, ``f1``, and ``kept``, how many of the N. A ratio of
      0 to 0 is 0.

    Example:
      >>> from colnorm import metrics
      >>> all_of_it, sure = metrics.precision_recall([0.9, 0.8, 0.3], [True, True, False], 3, thresholds=(0, 0.5))
      >>> round(all_of_it["precision"], 3), sure["precision"], round(sure["recall"], 3)
      (0.667, 1.0, 0.667)
    """
    probabilities, right = np.asarray(probabilities, np.float64), np.asarray(right, bool)
    rows = []
    for threshold in thresholds:
        kept = probabilities >= threshold
        count, correct = int(kept.sum()), int((kept & right).sum())
        rows.append(
            {
                "min_posterior": float(threshold),
                "precision": correct / max(count, 1),
                "recall": correct / max(support, 1),
                "f1": 2 * correct / max(count + support, 1),
                "kept": count,
            }
        )
    return rows
