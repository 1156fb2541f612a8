"""Pictures of runs: curves, features, confusions, entity types, transitions. Matplotlib is imported where it draws."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from colnorm.files import TEMPORARY, StorageError
from colnorm.metrics import AVERAGES, RATIOS

History = Sequence[Mapping[str, Any]]
"""The lines of a run's epochs."""

Curves = Mapping[str, Mapping[str, str]]
"""Panel -> label -> key of an epoch's line; each panel has two labels."""


def _as_it_is(figure: Any) -> None:
    """Draws names as they are, whatever they hold: no formula between dollars, no character that a font can't have."""
    from matplotlib.text import Text

    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis) if axis.get_scale() == "log"]
    powers = {id(label) for axis in axes for label in axis.get_ticklabels(which="both")}
    for text in figure.findobj(Text):
        if id(text) not in powers:
            text.set_parse_math(False)
            shown = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text.get_text())
            text.set_text("".join(shown))


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, axes


@contextmanager
def reproducible() -> Iterator[None]:
    """Inside it the same figures give the same SVG file, byte by byte."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "colnorm"}):
        yield


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    unfinished = path.with_name(path.name + TEMPORARY)  # a picture is whole or not there
    kind = path.suffix.removeprefix(".")
    _as_it_is(figure)
    try:
        figure.savefig(unfinished, dpi=120, format=kind, metadata={"Date": None} if kind == "svg" else None)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StorageError(f"could not write {path}: {error.strerror}") from error
    finally:
        plt.close(figure)
    return path


def _epochs_axis(axis: Any, ylabel: str) -> None:
    axis.set_xlabel("epoch")
    axis.set_ylabel(ylabel)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)


def _plot_runs(axis: Any, histories: Mapping[str, History], name: str) -> None:
    """A line a run. The first tenth of its epochs may run out of the picture: in view, it would press the others together."""
    for label, history in histories.items():
        marker = "." if len(history) <= 20 else ""  # of long curves they hide the lines, and are most of the file
        axis.plot([r["epoch"] for r in history], [r[name] for r in history], marker=marker, label=label)
    seen = [r[name] for history in histories.values() for r in history[len(history) // 10 :]]
    if seen and (height := max(seen) - min(seen)):
        axis.set_ylim(min(seen) - 0.05 * height, max(seen) + 0.05 * height)
    _epochs_axis(axis, name.replace("_f1", " F1").replace("_", " "))


def draw_lines(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], path: Path, title: str, xlabel: str, ylabel: str
) -> Path:
    """A curve a name over x, which doubles from point to point."""
    figure, ((axis,),) = _figure(1, 1, 7, 4)
    for name, values in curves.items():
        axis.plot(x, values, marker=".", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(title)
    return _save(figure, path)


def draw_curves(history: History, curves: Curves, path: Path, title: str, best_epoch: int | None = None) -> Path:
    """A panel for each of ``curves`` over the epochs of one run, its best epoch marked."""
    figure, axes = _figure(1, len(curves), 4.7 * len(curves), 4)
    epochs = [line["epoch"] for line in history]
    for axis, (name, lines) in zip(axes[0], curves.items(), strict=True):
        for number, (label, key) in enumerate(lines.items()):
            colour = f"C{number + ('train' not in lines)}"  # that of the training data is the same in every panel
            axis.plot(epochs, [line[key] for line in history], marker=".", label=label, color=colour)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="gray", linestyle=":", label=f"best epoch, {best_epoch}")
        _epochs_axis(axis, name)
        axis.legend()
    figure.suptitle(title)
    return _save(figure, path)


def draw_comparison(histories: Mapping[str, History], curves: Curves, path: Path, title: str) -> Path:
    """The same of several runs: a row of panels for each of ``curves``, in each panel a colour a run."""
    figure, axes = _figure(len(curves), 2, 11, 4 * len(curves))
    for axis, key in zip(axes.flat, (key for lines in curves.values() for key in lines.values()), strict=True):
        _plot_runs(axis, histories, key)
    axes[0, 0].legend(ncols=2)
    figure.suptitle(title)
    return _save(figure, path)


def draw_quantiles(histories: Mapping[str, History], percentiles: Sequence[int], path: Path) -> Path:
    """Percentiles of the features that enter the last activation over the epochs (1.2.7), a panel for each run."""
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    figure, axes = _figure(rows, columns, max(4.0 * columns + 1.2, 7), 3.2 * rows + 0.4)  # the title takes 7
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
    figure.legend(*axes[0, 0].get_legend_handles_labels(), title="percentile", loc="outside right center")
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


def draw_entity_types(splits: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    """Precision, recall and F1 of every entity type and on average, a panel a split; ``splits`` holds their metrics."""
    figure, axes = _figure(len(splits), 1, 11, 3.2 * len(splits))
    for axis, (split, metrics) in zip(axes[:, 0], splits.items(), strict=True):
        bars = {**metrics["classes"], **{name: metrics[name] for name in AVERAGES}}
        for number, name in enumerate(RATIOS):
            centres = np.arange(len(bars)) + (number - 1) * 0.27
            axis.bar(centres, [values[name] for values in bars.values()], 0.27, label=name)
        labels = [f"{name}\n{values['support']:,}" for name, values in bars.items()]
        axis.set_xticks(range(len(bars)), labels)
        axis.axvline(len(metrics["classes"]) - 0.5, color="gray", linestyle=":")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.3)
        axis.set_title(f"{split}: micro F1 {metrics['micro']['f1']:.2%}, token accuracy {metrics['accuracy']:.2%}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    figure.suptitle(f"{title} (number of entities under each name)")
    return _save(figure, path)


def draw_transitions(chain: Mapping[str, Any], path: Path, title: str) -> Path:
    """A CRF's scores from tag (row) to tag (column), with its start and end scores.

    Args:
      chain: of an evaluation: ``tag_names``, and the scores by the names of :class:`colnorm.crf.Chain`; forbidden moves, None
        there, are left blank.
    """
    tag_names = chain["tag_names"]
    size = len(tag_names)
    scores = np.full((size + 1, size + 1), np.nan)
    parts = (np.array(chain[name], np.float64) for name in ("transitions", "start", "end"))  # None becomes NaN
    scores[:size, :size], scores[size, :size], scores[:size, size] = parts
    shown = np.ma.masked_invalid(scores)
    limit = float(np.abs(shown).max()) or 1.0
    figure, axes = _figure(1, 1, 1.5 + 0.45 * size, 1 + 0.42 * size)
    image = axes[0, 0].imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[0, 0].set_xticks(range(size + 1), [*tag_names, "end"], rotation=90)
    axes[0, 0].set_yticks(range(size + 1), [*tag_names, "start"])
    axes[0, 0].set_xlabel("to")
    axes[0, 0].set_ylabel("from")
    figure.colorbar(image, label="score")
    figure.suptitle(title)
    return _save(figure, path)


def draw_batch_sizes(errors: Mapping[str, Mapping[int, tuple[float, float]]], epoch: int, path: Path) -> Path:
    """Validation error after an epoch over the batch size, a curve a normalization: mean and spread over seeds."""
    figure, ((axis,),) = _figure(1, 1, 7, 4)
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
    return _save(figure, path)


def draw_calibration(calibrations: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """How many of the entities said to have a posterior are right, over that posterior; the diagonal is perfect."""
    figure, ((axis, counts),) = _figure(1, 2, 10, 4)
    axis.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for label, values in calibrations.items():
        rows = values["bins"]
        shown = f"{label} (error {values['error']:.1%})"
        axis.plot([row["probability"] for row in rows], [row["right"] for row in rows], marker=".", label=shown)
        counts.plot([row["probability"] for row in rows], [row["count"] for row in rows], marker=".")
    axis.set_ylabel("right")
    counts.set_ylabel("entities")
    counts.set_yscale("log")
    for panel in (axis, counts):
        panel.set_xlabel("posterior")
        panel.set_xlim(0, 1)
        panel.grid(alpha=0.3)
    axis.set_ylim(0, 1)
    axis.legend()
    figure.suptitle("Entities found in test sentences: posterior, and how many are right")
    return _save(figure, path)


def draw_sweep(swept: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    """Milliseconds of several sides over one size at a time, all axes logarithmic: a column for each axis, a row for each work.

    Args:
      swept: axis -> ``{"sizes": [...], work: {side: [milliseconds]}}``.
    """
    works = [name for name in next(iter(swept.values())) if name != "sizes"]
    figure, axes = _figure(len(works), len(swept), 4 * len(swept), 3 * len(works) + 0.4)
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
    return _save(figure, path)


def draw_ratios(cells: Mapping[str, Mapping[str, Mapping[str, float]]], peer: str, path: Path) -> Path:
    """How many times our time a peer takes, as heat maps over tags and lengths: a column a batch size, a row a work.

    Args:
      cells: (batch, length, tags) as text -> work -> side -> milliseconds, ours those of ``colnorm``; empty where the peer
        was not timed.
    """
    shapes = [tuple(map(int, shape.strip("()").split(","))) for shape in cells]
    batches, lengths, tags = (sorted({shape[axis] for shape in shapes}) for axis in range(3))
    works = list(next(iter(cells.values())))
    figure, axes = _figure(len(works), len(batches), 0.8 * len(tags) * len(batches) + 1, 0.8 * len(lengths) * len(works) + 1)
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
    return _save(figure, path)
