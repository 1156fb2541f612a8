"""Pictures of the study and of its benchmarks: features, confusions, batch sizes, sweeps."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colnorm.tasks.pictures import History, epochs_axis, make_figure, save


def draw_lines(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], path: Path, title: str, xlabel: str, ylabel: str
) -> Path:
    """A curve a name over x, which doubles from point to point."""
    figure, ((axis,),) = make_figure(1, 1, 7, 4)
    for name, values in curves.items():
        axis.plot(x, values, marker=".", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(title)
    return save(figure, path)


def draw_quantiles(histories: Mapping[str, History], percentiles: Sequence[int], path: Path) -> Path:
    """Percentiles of the features that enter the last activation over the epochs (1.2.7), a panel for each run."""
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    figure, axes = make_figure(rows, columns, max(4.0 * columns + 1.2, 7), 3.2 * rows + 0.4)  # the title takes 7
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
        epochs_axis(axis, "feature")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), title="percentile", loc="outside right center")
    figure.suptitle("Features that enter the last activation, a fixed validation batch")
    return save(figure, path)


def draw_confusions(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path, title: str) -> Path:
    """A confusion matrix for each split: counts in the cells, colours by the fraction of the row."""
    figure, axes = make_figure(1, len(confusions), 5.6 * len(confusions), 5.6)
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
    return save(figure, path)


def draw_batch_sizes(errors: Mapping[str, Mapping[int, tuple[float, float]]], epoch: int, path: Path) -> Path:
    """Validation error after an epoch over the batch size, a curve a normalization: mean and spread over seeds."""
    figure, ((axis,),) = make_figure(1, 1, 7, 4)
    for name, points in errors.items():
        means, spreads = zip(*points.values(), strict=True)
        axis.errorbar(
            list(points), [100 * mean for mean in means], [100 * s for s in spreads], marker=".", capsize=3, label=name
        )
    sizes = sorted({size for points in errors.values() for size in points})
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xlabel("images in a batch")
    axis.set_ylabel("validation error, %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(f"Validation error after epoch {epoch} and batch size")
    return save(figure, path)


def draw_sweep(swept: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    """Milliseconds of several sides over one size at a time, all axes logarithmic: a column for each axis, a row for each work.

    Args:
      swept: axis -> ``{"sizes": [...], work: {side: [milliseconds]}}``.
    """
    works = [name for name in next(iter(swept.values())) if name != "sizes"]
    figure, axes = make_figure(len(works), len(swept), 4 * len(swept), 3 * len(works) + 0.4)
    for column, (name, panel) in enumerate(swept.items()):
        for row, work in enumerate(works):
            axis = axes[row, column]
            for side, times in panel[work].items():
                axis.loglog(panel["sizes"], times, marker=".", label=side)
            axis.set_xticks(panel["sizes"], [str(size) for size in panel["sizes"]], minor=False)
            axis.set_xticks([], minor=True)
            axis.set_xlabel(name)
            axis.grid(alpha=0.3)
            if not column:
                axis.set_ylabel(f"{work}, ms")
    axes[0, 0].legend()
    figure.suptitle(title)
    return save(figure, path)


def draw_ratios(cells: Mapping[str, Mapping[str, Mapping[str, float]]], peer: str, path: Path) -> Path:
    """How many times our time a peer takes, as heat maps over tags and lengths: a column a batch size, a row a work.

    Args:
      cells: (batch, length, tags) as text -> work -> side -> milliseconds, ours those of ``colnorm``; empty where the peer
        was not timed.
    """
    shapes = [tuple(map(int, shape.strip("()").split(","))) for shape in cells]
    batches, lengths, tags = (sorted({shape[axis] for shape in shapes}) for axis in range(3))
    works = list(next(iter(cells.values())))
    figure, axes = make_figure(
        len(works), len(batches), 0.8 * len(tags) * len(batches) + 1, 0.8 * len(lengths) * len(works) + 1
    )
    for (row, work), (column, batch) in itertools.product(enumerate(works), enumerate(batches)):
        axis = axes[row, column]
        ratios = np.full((len(lengths), len(tags)), np.nan)
        for (B, T, K), times in zip(shapes, cells.values(), strict=True):
            if batch == B and peer in times[work]:
                ratios[lengths.index(T), tags.index(K)] = times[work][peer] / times[work]["colnorm"]
        axis.imshow(np.log10(ratios), cmap="RdYlGn", vmin=-1.5, vmax=1.5, origin="lower")
        for i, j in np.argwhere(np.isfinite(ratios)):
            shown = f"{ratios[i, j]:.0f}" if ratios[i, j] >= 10 else f"{ratios[i, j]:.1f}"
            axis.text(j, i, shown, ha="center", va="center", color="white" if ratios[i, j] > 18 else "black", fontsize=8)
        axis.set_xticks(range(len(tags)), [str(count) for count in tags])
        axis.set_yticks(range(len(lengths)), [str(length) for length in lengths])
        axis.set_title(f"{work}, {batch} sequence{'s' if batch > 1 else ''}", fontsize=9)
        if row == len(works) - 1:
            axis.set_xlabel("tags")
        if not column:
            axis.set_ylabel("positions")
    figure.suptitle(f"time of {peer} over colnorm's")
    return save(figure, path)
