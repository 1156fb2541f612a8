"""The page of the study: ``index.html``, which needs no other file and no network, and the same as ``RESULTS.md``."""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colnorm.data.glove import Coverage
from colnorm.files import write_text
from experiments import console, plotting, record
from experiments.differences import differences

Records = Mapping[tuple[str, int], Path]
"""The record of each finished row and seed."""

# Columns of the tables: figure, heading.
IMAGE_COLUMNS = {
    "test accuracy": "test accuracy",
    "validation accuracy": "validation accuracy",
    "train accuracy": "train accuracy",
    "test macro F1": "test macro F1",
    "test micro F1": "test micro F1",
}
TAGGER_COLUMNS = {
    "test micro F1": "test micro F1",
    "test macro F1": "test macro F1",
    "test weighted F1": "test weighted F1",
    "test accuracy": "test token accuracy",
    "validation micro F1": "validation micro F1",
}
GROUPS = (
    ("report", "images", "1. Images: the report's rows"),
    ("placement", "images", "The place of the norm at the report's learning rate"),
    ("batches", "images", "Batch sizes"),
    ("modern", "images", "The same networks, trained as one would today"),
    ("taggers", "taggers", "2. Named entities"),
)


TEXTS = {
    "order": "The report orders the normalizations by test accuracy, from one run each. Here, neighbour by neighbour; an "
    "interval of one seed knows of the test examples only, not of what another seed would do.",
    "sameness": "The report finds its own and the framework's batch normalization almost the same (1.2.4), and no significant "
    "change with batches of 8 (1.2.6).",
    "placement": "The report's normalizations stand just before every activation: after a block's sum, where He et al. (2016) "
    "have the second one before it. Validation accuracy after each epoch, both at the report's learning rate:",
    "claims": "Micro F1 on test, with the part less without it, by a bootstrap over test sentences, both taggers on the same "
    "ones. Interval and probability know of the sentences only, not of what other seeds would do.",
    "calibration": "Every entity that a tagger finds comes with a probability. Of those said to have 90 %, 90 % should be "
    "right. Here of each row's first seed.",
    "crf_cost": "The partition function takes N C\N{SUPERSCRIPT TWO} operations for N tokens and C tags (2.2). Where the power "
    "is below 2, time goes into what grows less with C, as starting each step does.",
}


def write(results: Mapping[str, Any], records: Records, output: Path) -> Path:
    """Draws the pictures, writes both pages; returns ``index.html``.

    Args:
      results: of :func:`experiments.gather.gather`.
      records: where the rows' curves come from.
      output: directory of the pages; pictures go into ``pictures`` below it, those of single rows, which only the first
        page shows, into ``pictures/rows``.
    """
    import jinja2

    folder = output / "pictures"
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    pictures = draw(results, records, folder)
    cost = output / "crf_cost.json"
    context = {
        **results,
        "groups": [group for group in (_group(results["rows"], *names) for names in GROUPS) if group["rows"]],
        "pictures": pictures,
        "crf_cost": json.loads(cost.read_text(encoding="utf-8")) if cost.exists() else None,
        "machines": _machines(results["rows"]),
        "texts": TEXTS,
        "differences": differences(results),
    }
    for template, name, escape in (("page.html", "index.html", True), ("page.md", "RESULTS.md", False)):
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=escape,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= FILTERS
        write_text(output / name, environment.get_template(template).render(context))
    return output / "index.html"


def _group(rows: Sequence[Mapping[str, Any]], key: str, task: str, title: str) -> dict[str, Any]:
    """The rows of a chapter, and the columns of its table."""
    columns = IMAGE_COLUMNS if task == "images" else TAGGER_COLUMNS
    chosen = [row for row in rows if row["chapter"] == key]
    return {"key": key, "task": task, "title": title, "columns": columns, "rows": chosen}


def _machines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The different machines that trained the runs."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for seed in row["seeds"]:
            found.setdefault(json.dumps(seed["machine"], sort_keys=True), seed["machine"])
    return list(found.values())


# ----------------------------------------------------------------------------------------------------------- pictures


def draw(results: Mapping[str, Any], records: Records, folder: Path) -> dict[str, Path]:
    """Draws all pictures of what is finished; returns them by name: ``curves of bn`` say, or ``curves of report``."""
    finished = {row["name"]: row for row in results["rows"] if row["seeds"]}

    def label(row: Mapping[str, Any]) -> str:
        return row["name"] if len(results["scales"]) == 1 else f"{row['name']}, {row['scale']}"

    opened = {key: record.read(path) for key, path in records.items()}
    histories = {name: [opened[name, seed["seed"]]["history"] for seed in row["seeds"]] for name, row in finished.items()}
    evaluated = {name: opened[name, row["seeds"][0]["seed"]]["evaluation"] for name, row in finished.items()}
    pictures: dict[str, Path] = {}

    def file(name: str) -> Path:
        return folder / f"{name.replace(' ', '-')}.svg"

    with plotting.reproducible():
        for key, task, title in GROUPS:
            rows = {name: row for name, row in finished.items() if row["chapter"] == key}
            means = {label(row): mean_history(histories[name]) for name, row in rows.items()}
            if len(means) > 1 and max(map(len, means.values())) > 1:  # one epoch makes no curve
                draw_all = plotting.draw_comparison if task == "images" else plotting.draw_tagging_comparison
                pictures[f"curves of {key}"] = draw_all(means, file(f"curves of {key}"), f"{title}, means over seeds")
            if means and key == "report":
                from experiments.cifar import PERCENTILES

                pictures["features"] = plotting.draw_quantiles(means, PERCENTILES, file("features"))
        for name, row in finished.items():
            of_row = [file(f"rows/{kind}{name}") for kind in ("", "confusion of ", "transitions of ")]
            drawn_from = records[name, row["seeds"][0]["seed"]]
            # After every run all rows come by here; what was drawn of an earlier one is still true.
            if not (of_row[0].exists() and of_row[0].stat().st_mtime > drawn_from.stat().st_mtime):
                draw_row(row, histories[name][0], evaluated[name], *of_row)
            for kind, path in zip(("curves", "confusion", "transitions"), of_row, strict=True):
                if path.exists():
                    pictures[f"{kind} of {name}"] = path
        taggers = {name: row for name, row in finished.items() if row["task"] == "taggers"}
        if calibrations := {label(row): evaluated[name]["splits"]["test"]["calibration"] for name, row in taggers.items()}:
            pictures["calibration"] = plotting.draw_calibration(calibrations, file("calibration"))
        sizes, epoch = batch_sizes(finished, histories)
        if sizes:
            pictures["batch sizes"] = plotting.draw_batch_sizes(sizes, epoch, file("batch sizes"))
    return pictures


def draw_row(
    row: Mapping[str, Any], history: plotting.History, evaluated: Mapping[str, Any], curves: Path, confusion: Path, moves: Path
) -> None:
    """Draws a row's first seed: its confusions or, where it has a CRF, that one's moves; the curves last."""
    first = row["seeds"][0]
    title = f"{row['name']}, seed {first['seed']}"
    if row["task"] == "images":
        counts = {"test": np.array(evaluated["splits"]["test"]["confusion"])}
        plotting.draw_confusions(counts, evaluated["class_names"], confusion, title)
        plotting.draw_curves(history, curves, title, first["best_epoch"])
        return
    if "chain" in evaluated:
        plotting.draw_transitions(*read_chain(evaluated["chain"]), moves, title)
    plotting.draw_tagging_curves(history, curves, title, first["best_epoch"])


def mean_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The mean of several seeds' records, as far as all of them went."""
    result = []
    for records in zip(*histories, strict=False):
        mean: dict[str, Any] = {"epoch": records[0]["epoch"]}
        for key, value in records[0].items():
            if key != "epoch" and isinstance(value, (int, float, list)):
                mean[key] = np.mean([record[key] for record in records], 0).tolist()
        result.append(mean)
    return result


def read_chain(stored: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The chain and tag names of an evaluation, whose None stands for a forbidden move."""
    from colnorm import crf

    parts = {name: np.array(stored[name], np.float64) for name in ("transitions", "start", "end")}  # None becomes NaN
    scores: Any = {name: np.where(np.isnan(values), -np.inf, values) for name, values in parts.items()}
    return crf.Chain(**scores), list(stored["tag_names"])


def batch_sizes(
    finished: Mapping[str, Mapping[str, Any]], histories: Mapping[str, Sequence[plotting.History]]
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

    def error(seeds: Sequence[plotting.History]) -> tuple[float, float]:
        errors = [1 - history[epoch - 1]["validation_accuracy"] for history in seeds]
        return float(np.mean(errors)), float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0

    return {name: {size: error(seeds) for size, seeds in sizes.items()} for name, sizes in found.items()}, epoch


# ------------------------------------------------------------------------------------------------------------ filters


def _percent(figure: Mapping[str, float | None] | None) -> str:
    """``81.39 %``, with ``± 0.21`` where there is a spread over seeds."""
    if figure is None or figure["mean"] is None:
        return "\N{EN DASH}"
    spread = "" if figure["spread"] is None else f" ± {100 * figure['spread']:.2f}"
    return f"{100 * figure['mean']:.2f}{spread} %"


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


def _coverage(vectors: Mapping[str, int]) -> str:
    return str(Coverage(**vectors))


def _hardware(machine: Mapping[str, Any]) -> str:
    """What computes."""
    return str(machine["processor"] if machine["device"] == "cpu" else machine["device"])


def _embedded(path: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


FILTERS = {
    "percent": _percent,
    "points": _points,
    "plain": _plain,
    "verdict": _verdict,
    "coverage": _coverage,
    "hardware": _hardware,
    "embedded": _embedded,
    "duration": console.duration,
}
