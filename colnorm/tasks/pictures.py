"""Pictures of runs: curves, features, confusions, entity types, transitions. Matplotlib is imported where it draws."""

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


def make_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure that needs no screen and its axes ``(rows, columns)``; sizes are in inches."""
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


def save(figure: Any, path: Path) -> Path:
    """Writes a figure, whole or not at all; the suffix says in which form."""
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


def epochs_axis(axis: Any, ylabel: str) -> None:
    """Whole epochs from left to right."""
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
    epochs_axis(axis, name.replace("_f1", " F1").replace("_", " "))


def draw_curves(history: History, curves: Curves, path: Path, title: str, best_epoch: int | None = None) -> Path:
    """A panel for each of ``curves`` over the epochs of one run, its best epoch marked."""
    figure, axes = make_figure(1, len(curves), 4.7 * len(curves), 4)
    epochs = [line["epoch"] for line in history]
    for axis, (name, lines) in zip(axes[0], curves.items(), strict=True):
        for number, (label, key) in enumerate(lines.items()):
            colour = f"C{number + ('train' not in lines)}"  # that of the training data is the same in every panel
            axis.plot(epochs, [line[key] for line in history], marker=".", label=label, color=colour)
        if best_epoch is not None:
            axis.axvline(best_epoch, color="gray", linestyle=":", label=f"best epoch, {best_epoch}")
        epochs_axis(axis, name)
        axis.legend()
    figure.suptitle(title)
    return save(figure, path)


def draw_comparison(histories: Mapping[str, History], curves: Curves, path: Path, title: str) -> Path:
    """The same of several runs: a row of panels for each of ``curves``, in each panel a colour a run."""
    figure, axes = make_figure(len(curves), 2, 11, 4 * len(curves))
    for axis, key in zip(axes.flat, (key for lines in curves.values() for key in lines.values()), strict=True):
        _plot_runs(axis, histories, key)
    axes[0, 0].legend(ncols=2)
    figure.suptitle(title)
    return save(figure, path)


def draw_entity_types(splits: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    """Precision, recall and F1 of every entity type and on average, a panel a split; ``splits`` holds their metrics."""
    figure, axes = make_figure(len(splits), 1, 11, 3.2 * len(splits))
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
    return save(figure, path)


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
    figure, axes = make_figure(1, 1, 1.5 + 0.45 * size, 1 + 0.42 * size)
    image = axes[0, 0].imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[0, 0].set_xticks(range(size + 1), [*tag_names, "end"], rotation=90)
    axes[0, 0].set_yticks(range(size + 1), [*tag_names, "start"])
    axes[0, 0].set_xlabel("to")
    axes[0, 0].set_ylabel("from")
    figure.colorbar(image, label="score")
    figure.suptitle(title)
    return save(figure, path)


def draw_calibration(calibrations: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """How many of the entities said to have a posterior are right, over that posterior; the diagonal is perfect."""
    figure, ((axis, counts),) = make_figure(1, 2, 10, 4)
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
    return save(figure, path)


def draw_precision_recall(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path, title: str) -> Path:
    """Precision over recall as less probable entities are dropped, a curve a type; what helps to choose ``--min-posterior``."""
    figure, ((axis, whole),) = make_figure(1, 2, 12, 5)
    for name, rows in curves.items():
        style = {"color": "black", "linewidth": 2.5} if name == "all" else {}
        axis.plot([row["recall"] for row in rows], [row["precision"] for row in rows], marker=".", label=name, **style)
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    for number, ratio in enumerate(RATIOS):
        levels = [row["min_posterior"] for row in curves["all"]]
        whole.plot(levels, [row[ratio] for row in curves["all"]], marker=".", color=f"C{number}", label=ratio)
    whole.set_xlabel("smallest posterior of an entity, all types")
    whole.set_xlim(0, 1)
    for panel in (axis, whole):
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle(f"{title}: entities of validation data above a posterior")
    return save(figure, path)
