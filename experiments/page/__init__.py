"""The page of the study: ``RESULTS.md``, and the same to explore as ``index.html``, which needs no other file.

One template, ``page.md``, is both: the second is the first's HTML in the frame of ``page.html``, in which ``page.js`` draws
charts of the data in the page. They are uPlot's, which stands in ``uplot/`` as it is published: 51 kB and no
dependencies, with a cursor and a zoom that charts share.
"""

import base64
import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markdown_it import MarkdownIt

from colnorm.data.glove import Coverage
from colnorm.files import read_json, write_text
from colnorm.tasks import console, pictures
from experiments import plotting, summary
from experiments.differences import differences
from experiments.images import PERCENTILES
from experiments.page import charts
from experiments.task import TASKS

Summaries = Mapping[tuple[str, int], Path]
"""The summary of each finished row and seed."""

# Columns of the tables: metric, heading.
_ACCURACIES = {
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "train_accuracy": "train accuracy",
}
COLUMNS = {
    "images": {**_ACCURACIES, "test_macro_f1": "test macro F1", "test_micro_f1": "test micro F1"},
    "mirrored": {**_ACCURACIES, "test_accuracy_mirrored": "test accuracy, both ways of each image"},
    "tagging": {
        "test_micro_f1": "test micro F1",
        "test_macro_f1": "test macro F1",
        "test_weighted_f1": "test weighted F1",
        "test_accuracy": "test token accuracy",
        "validation_micro_f1": "validation micro F1",
    },
}
GROUPS = (
    ("report", "images", "1. Images: the report's rows"),
    ("placement", "images", "The place of the norm at the report's learning rate"),
    ("batches", "images", "Batch sizes"),
    ("modern", "images", "The same networks, trained as one would today"),
    ("ablation", "images", "What each idea of that recipe brings"),
    ("tagging", "tagging", "2. Named entities"),
)


TEXTS = {
    "order": "The report orders the normalizations by test accuracy, from one run each. Here, neighbour by neighbour; an "
    "interval of one seed knows of the test examples only, not of what another seed would do.",
    "sameness": "The report finds its own and the framework's batch normalization almost the same (1.2.4), and no significant "
    "change with batches of 8 (1.2.6).",
    "placement": "The report's normalizations stand just before every activation: after a block's sum, where He et al. (2016) "
    "have the second one before it. Validation accuracy after each epoch, both at the report's learning rate:",
    "ablations": "Validation accuracy of the recipe less that with one idea changed: above 0 the recipe is better. An interval "
    "of one seed knows of the validation examples only, not of what another seed would do.",
    "claims": "Micro F1 on test, with the part less without it, by a bootstrap over test sentences, both taggers on the same "
    "ones. Interval and probability know of the sentences only, not of what other seeds would do.",
    "calibration": "Every entity that a tagger finds comes with a probability. Of those said to have 90 %, 90 % should be "
    "right. Here of each row's first seed.",
    "crf_cost": "The partition function takes N C\N{SUPERSCRIPT TWO} operations for N tokens and C tags (2.2). Where the power "
    "is below 2, time goes into what grows less with C, as starting each step does.",
}


def write(results: Mapping[str, Any], summaries: Summaries, output: Path) -> Path:
    """Draws the pictures of ``RESULTS.md``, writes both pages; returns ``index.html``.

    Args:
      results: of :func:`experiments.gather.gather`.
      summaries: where the rows' curves come from.
      output: directory of the pages; pictures go into ``pictures`` below it. Where run directories are in its ``runs``,
        ``index.html`` shows what they get wrong.
    """
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    opened = {key: summary.read(path) for key, path in summaries.items()}
    groups = [group for group in (_group(results["rows"], *names) for names in GROUPS) if group["rows"]]
    cost = output / "crf_cost.json"
    context = {
        **results,
        "groups": groups,
        "pictures": draw(results, opened, output / "pictures"),
        "crf_cost": read_json(cost) if cost.exists() else None,
        "machines": _machines(results["rows"]),
        "texts": TEXTS,
        "differences": differences(results),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escaped,
    )
    environment.filters |= FILTERS
    template = environment.get_template("page.md")
    write_text(output / "RESULTS.md", template.render(context, in_html=False))
    body = MarkdownIt("commonmark").enable("table").render(template.render(context, in_html=True))
    body = re.sub(r'(?<=<img src=")[^"]*', lambda found: _embedded(output / found[0]), body)
    parts = {
        "BODY": body,
        "DATA": charts.embedded(charts.build(results, opened, groups, output)),
        "UPLOT_CSS": _source("uplot/uPlot.min.css"),
        "UPLOT_JS": _source("uplot/uPlot.iife.min.js"),
        "PAGE_JS": _source("page.js"),
    }
    write_text(output / "index.html", re.sub("@([A-Z_]+)@", lambda found: parts[found[1]], _source("page.html")))
    return output / "index.html"


def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _group(rows: Sequence[Mapping[str, Any]], key: str, task: str, title: str) -> dict[str, Any]:
    """The rows of a chapter, and the columns of its table."""
    chosen = [row for row in rows if row["chapter"] == key]
    columns = COLUMNS["mirrored" if key in ("modern", "ablation") else task]
    return {"key": key, "task": task, "title": title, "columns": columns, "rows": chosen}


def _machines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The different machines that trained the runs."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for seed in row["seeds"]:
            found.setdefault(json.dumps(seed["machine"], sort_keys=True), seed["machine"])
    return list(found.values())


# ----------------------------------------------------------------------------------------------------------- pictures


def draw(results: Mapping[str, Any], opened: Mapping[tuple[str, int], Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """Draws the pictures of what is finished; returns their paths from the page by name, ``curves of report``."""
    finished = {row["name"]: row for row in results["rows"] if row["seeds"]}

    def label(row: Mapping[str, Any]) -> str:
        return row["name"] if len(results["scales"]) == 1 else f"{row['name']}, {row['scale']}"

    histories = {name: [opened[name, seed["seed"]]["history"] for seed in row["seeds"]] for name, row in finished.items()}
    first = {name: opened[name, row["seeds"][0]["seed"]]["evaluation"] for name, row in finished.items()}

    def file(name: str) -> Path:
        return folder / f"{name.replace(' ', '-')}.svg"

    drawn: list[Path] = []
    with pictures.reproducible():
        for key, task, title in GROUPS:
            rows = {name: row for name, row in finished.items() if row["chapter"] == key}
            means = {label(row): mean_history(histories[name]) for name, row in rows.items()}
            if len(means) > 1 and max(map(len, means.values())) > 1:  # one epoch makes no curve
                path = file(f"curves of {key}")
                drawn.append(pictures.draw_comparison(means, TASKS[task].curves, path, f"{title}, means over seeds"))
            if means and key == "report":
                drawn.append(plotting.draw_quantiles(means, PERCENTILES, file("features")))
        taggers = {name: row for name, row in finished.items() if row["task"] == "tagging"}
        if calibrations := {label(row): first[name]["splits"]["test"]["calibration"] for name, row in taggers.items()}:
            drawn.append(pictures.draw_calibration(calibrations, file("calibration")))
        sizes, epoch = batch_sizes(finished, histories)
        if sizes:
            drawn.append(plotting.draw_batch_sizes(sizes, epoch, file("batch sizes")))
    return {path.stem.replace("-", " "): str(path.relative_to(folder.parent)) for path in drawn}


def mean_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The mean of several seeds' epochs, as far as all of them went."""
    result = []
    for lines in zip(*histories, strict=False):
        mean: dict[str, Any] = {"epoch": lines[0]["epoch"]}
        for key, value in lines[0].items():
            if key != "epoch" and isinstance(value, (int, float, list)):
                mean[key] = np.mean([line[key] for line in lines], 0).tolist()
        result.append(mean)
    return result


def batch_sizes(
    finished: Mapping[str, Mapping[str, Any]], histories: Mapping[str, Sequence[pictures.History]]
) -> tuple[dict[str, dict[int, tuple[float, float]]], int]:
    """Normalization -> batch size -> validation error, mean and spread over seeds; and the epoch after which it is taken.

    That is the last epoch which every seed of every row reached, so that all curves compare like with like. Rows of
    another scale than most are left out, and so are normalizations with one size.
    """
    names = [name for name in finished if name.partition("_batch")[0] in ("bn", "gn", "bin")]
    scale, _ = Counter(finished[name]["scale"] for name in names).most_common(1)[0] if names else ("", 0)
    found = {}
    for name in ("bn", "gn", "bin"):
        rows = {
            finished[other]["batch_size"]: other
            for other in names
            if other.partition("_batch")[0] == name and finished[other]["scale"] == scale
        }
        if len(rows) > 1:
            found[name] = {size: histories[rows[size]] for size in sorted(rows)}
    epoch = min((len(history) for sizes in found.values() for seeds in sizes.values() for history in seeds), default=0)

    def error(seeds: Sequence[pictures.History]) -> tuple[float, float]:
        errors = [1 - history[epoch - 1]["validation_accuracy"] for history in seeds]
        return float(np.mean(errors)), float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0

    return {name: {size: error(seeds) for size, seeds in sizes.items()} for name, sizes in found.items()}, epoch


# ------------------------------------------------------------------------------------------------------------ filters


def _escaped(value: Any) -> Any:
    """Text as Markdown shows it: no HTML, no end of a table's cell."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # marked as safe in the template
        return value
    return html.escape(value, quote=False).replace("|", "\\|")


def _percent(metric: Mapping[str, float | None] | None) -> str:
    """``81.39 %``, with ``± 0.21`` where there is a spread over seeds."""
    if metric is None or metric["mean"] is None:
        return "\N{EN DASH}"
    spread = "" if metric["spread"] is None else f" ± {100 * metric['spread']:.2f}"
    return f"{100 * metric['mean']:.2f}{spread} %"


def _points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _plain(value: float, digits: int) -> str:
    """A published fraction as percent, with as many digits as it was published with."""
    return f"{100 * value:.{digits}f}"


def _verdict(claim: Mapping[str, Any], over_sentences: bool = False) -> str:
    """What the interval of a difference says. One over test sentences knows nothing of seeds, which may disagree."""
    if over_sentences and 0 < claim["held"] < claim["seeds"]:
        return "not decided: seeds disagree"
    said = "first better" if claim["low"] > 0 else "second better" if claim["high"] < 0 else "not decided"
    return said if claim["seeds"] > 1 else f"{said}, in this seed"


def _reached(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Epochs and minutes until a validation metric came to 80 %, the mean over the seeds in which it did."""
    found = [seed["reached"] for seed in seeds if seed["reached"] is not None]
    if not found:
        return "not reached"
    epochs, minutes = (float(np.mean([each[key] for each in found])) for key in ("epoch", "minutes"))
    some = "" if len(found) == len(seeds) else f" ({len(found)} of {len(seeds)} seeds)"
    return f"{epochs:g} epochs, {minutes:.1f} min{some}"


def _coverage(vectors: Mapping[str, int]) -> str:
    return str(Coverage(**vectors))


def _hardware(machine: Mapping[str, Any]) -> str:
    """What computes."""
    return str(machine["processor"] if machine["device"] == "cpu" else machine["device"])


def _embedded(path: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


FILTERS = {
    "reached": _reached,
    "percent": _percent,
    "points": _points,
    "plain": _plain,
    "verdict": _verdict,
    "coverage": _coverage,
    "hardware": _hardware,
    "duration": console.duration,
}
