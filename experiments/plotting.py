"""Pictures of runs: curves, feature distributions, confusion matrices. Matplotlib is imported where it draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

History = Sequence[Mapping[str, Any]]


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _epochs_axis(axis: Any, ylabel: str) -> None:
    axis.set_xlabel("epoch")
    axis.set_ylabel(ylabel)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)


def draw_curves(history: History, path: Path, title: str, best_epoch: int | None = None) -> Path:
    """Training and validation loss and accuracy over the epochs of one run, its best epoch marked."""
    figure, axes = _figure(1, 2, 10, 4)
    epochs = [record["epoch"] for record in history]
    for axis, name in zip(axes[0], ("loss", "accuracy"), strict=True):
        for split in ("train", "validation"):
            axis.plot(epochs, [record[f"{split}_{name}"] for record in history], marker=".", label=split)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="gray", linestyle=":", label=f"best epoch, {best_epoch}")
        _epochs_axis(axis, name)
        axis.legend()
    figure.suptitle(title)
    return _save(figure, path)


def draw_comparison(histories: Mapping[str, History], path: Path, title: str) -> Path:
    """Training and validation loss and accuracy of several runs, a colour each."""
    figure, axes = _figure(2, 2, 11, 8)
    for row, split in zip(axes, ("train", "validation"), strict=True):
        for axis, name in zip(row, ("loss", "accuracy"), strict=True):
            for label, history in histories.items():
                axis.plot([r["epoch"] for r in history], [r[f"{split}_{name}"] for r in history], marker=".", label=label)
            _epochs_axis(axis, f"{split} {name}")
    axes[0, 0].legend(ncols=2)
    figure.suptitle(title)
    return _save(figure, path)


def draw_quantiles(histories: Mapping[str, History], percentiles: Sequence[int], path: Path) -> Path:
    """Percentiles of the features that enter the last activation over the epochs (1.2.7), a panel for each run."""
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    figure, axes = _figure(rows, columns, 4.0 * columns + 1.2, 3.2 * rows + 0.4)
    for axis in axes.flat[len(histories) :]:
        axis.set_visible(False)
    for axis, (label, history) in zip(axes.flat, histories.items(), strict=False):
        values = np.array([record["feature_percentiles"] for record in history])
        for column, percentile in enumerate(percentiles):
            axis.plot(
                [r["epoch"] for r in history],
                values[:, column],
                marker=".",
                label="1st" if percentile == 1 else f"{percentile}th",
            )
        axis.set_title(label)
        _epochs_axis(axis, "feature")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), title="percentile", loc="outside right upper")
    figure.suptitle("Features that enter the last activation, a fixed validation batch")
    return _save(figure, path)


def draw_confusions(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path, title: str) -> Path:
    """A confusion matrix for each split: counts in the cells, colours by the fraction of the row."""
    figure, axes = _figure(1, len(confusions), 5.6 * len(confusions), 5.6)
    for axis, (split, confusion) in zip(axes[0], confusions.items(), strict=True):
        shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*confusion.shape):
            if confusion[i, j]:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, f"{confusion[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=7)
        axis.set_xticks(range(len(class_names)), class_names, rotation=90)
        axis.set_yticks(range(len(class_names)), class_names)
        axis.set_xlabel("predicted")
        axis.set_ylabel("label")
        axis.set_title(f"{split}, {np.trace(confusion) / max(confusion.sum(), 1):.2%} right")
    figure.suptitle(title)
    return _save(figure, path)
