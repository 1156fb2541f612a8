"""Classification figures from a confusion matrix, so that they add up over batches and devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def confusion_matrix(labels: jax.Array, predictions: jax.Array, weights: jax.Array, num_classes: int) -> jax.Array:
    """``(num_classes, num_classes)`` float32: the weight of the examples with label i (row) predicted as j (column).

    Args:
      labels, predictions: integers ``(N,)``.
      weights: ``(N,)``, 0 for padding.
      num_classes: what labels and predictions are below.
    """
    rows = jax.nn.one_hot(labels, num_classes) * weights[:, None]
    # one_hot products of zeros and ones are exact in any precision up to 2^24 examples.
    return jnp.matmul(rows.T, jax.nn.one_hot(predictions, num_classes), precision=jax.lax.Precision.HIGHEST)


def classification_figures(confusion: Any) -> dict[str, Any]:
    """Accuracy, F1 of each class, their mean (macro) and the F1 of the summed counts (micro), as fractions.

    ``F1 = 2 TP / (2 TP + FP + FN)``, and 0 for a class that neither occurs nor is predicted, as in scikit-learn with
    ``zero_division=0``; unlike there, such a class counts in the macro mean, which is over all classes. With one label per
    example every false positive is a false negative of another class, so micro F1 equals accuracy.

    Args:
      confusion: ``(C, C)`` counts, rows are labels.

    Returns:
      ``accuracy``, ``macro_f1``, ``micro_f1`` floats, ``f1`` and ``support`` lists by class; 0 where nothing was counted.
    """
    confusion = np.asarray(confusion, np.float64)
    correct = np.diag(confusion)
    support, predicted = confusion.sum(1), confusion.sum(0)

    def ratio(numerator: Any, denominator: Any) -> Any:
        return np.divide(numerator, denominator, out=np.zeros_like(numerator, np.float64), where=denominator > 0)

    f1 = ratio(2 * correct, support + predicted)
    total = np.asarray(confusion.sum())
    accuracy = ratio(np.asarray(correct.sum()), total)
    return {
        "accuracy": float(accuracy),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(ratio(np.asarray(2 * correct.sum()), support.sum() + predicted.sum())),
        "f1": f1.tolist(),
        "support": support.astype(int).tolist(),
    }
