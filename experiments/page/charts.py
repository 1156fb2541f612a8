"""What the page's charts, error browser and download are made of: one structure of JSON, embedded in it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colnorm.files import read_json
from colnorm.run_directory import MISTAKES, PREDICTIONS
from experiments import mistakes
from experiments.images import PERCENTILES
from experiments.task import TASKS

IMAGES = 16
"""Wrong images of each row."""
SENTENCES = 25
"""Wrong sentences of each row for each kind of error."""
LEFT_OUT = frozenset(
    {"epoch", "train_seconds", "compile_seconds", "peak_memory_mib", "seeds_at_once", "train_tokens_per_second"}
)


def build(
    results: Mapping[str, Any],
    summaries: Mapping[tuple[str, int], Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    output: Path,
) -> dict[str, Any]:
    """The data of all charts.

    Args:
      results: of :func:`experiments.gather.gather`.
      summaries: of each finished row and seed, see :func:`experiments.summary.read`.
      groups: the page's chapters: ``key``, ``task`` and ``rows``.
      output: the directory of the study; the mistakes of rows are those of its run directories, where these are there.

    Returns:
      ``groups``: key, title, rows and panels (title, key of an epoch's line, whether a fraction); ``rows`` by name: task,
      title, published figures and ``seeds`` with their histories by column; ``percentiles`` of the features.
    """
    rows = {}
    for row in results["rows"]:
        if row["seeds"]:
            first = summaries[row["name"], row["seeds"][0]["seed"]]
            rows[row["name"]] = {
                "task": row["task"],
                "title": row["title"],
                "scale": row["scale"],
                "published": row["published"]["report"],
                "seeds": [_seed(row["name"], seed, summaries[row["name"], seed["seed"]], output) for seed in row["seeds"]],
                **_of_first(first["evaluation"]),
                **_mistakes(output / "runs" / f"{row['name']}-seed{row['seeds'][0]['seed']}"),
            }
    return {
        "groups": [
            {
                "key": group["key"],
                "title": group["title"],
                "rows": [row["name"] for row in group["rows"] if row["name"] in rows],
                "panels": panels(group["task"]),
            }
            for group in groups
        ],
        "rows": rows,
        "percentiles": list(PERCENTILES),
    }


def panels(task: str) -> list[dict[str, Any]]:
    """The charts of a row's training."""
    return [
        {"title": f"{name}, {label}", "key": key, "fraction": name != "loss"}
        for name, lines in TASKS[task].curves.items()
        for label, key in lines.items()
    ]


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a script of a page."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _seed(name: str, seed: Mapping[str, Any], stored: Mapping[str, Any], output: Path) -> dict[str, Any]:
    history = stored["history"]
    columns = {
        key: [_short(line[key]) for line in history]
        for key in history[0]
        if key not in LEFT_OUT and isinstance(history[0][key], (int, float, list)) and all(key in line for line in history)
    }
    record = f"records/{name}-seed{seed['seed']}.json"
    return {
        "seed": seed["seed"],
        "best_epoch": seed["best_epoch"],
        "record": record,
        "commit": seed["commit"] or commit_of(output / record),
        "epochs": [line["epoch"] for line in history],
        "columns": columns,
        "metrics": {key: _short(value) for key, value in seed["metrics"].items()},
    }


def commit_of(record: Path) -> str | None:
    """The commit that a record of before records named theirs came with; None where git doesn't know."""
    command = ["git", "-C", str(record.parent), "log", "-1", "--format=%H", "--", record.name]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _of_first(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a row's first seed alone."""
    test = evaluation["splits"]["test"]
    shown: dict[str, Any] = {}
    if "confusion" in test:
        shown["confusion"] = {"names": evaluation["class_names"], "counts": test["confusion"]}
    if "chain" in evaluation:
        shown["chain"] = {key: _short(values) for key, values in evaluation["chain"].items()}
    if "calibration" in test:
        shown["calibration"] = [{key: _short(value) for key, value in of_bin.items()} for of_bin in test["calibration"]["bins"]]
    return shown


def _mistakes(run: Path) -> dict[str, Any]:
    """Of the test data, where the run directory is there."""
    if (run / MISTAKES).exists():
        found = mistakes.top(read_json(run / MISTAKES), IMAGES)
        return {"images": found}
    if (run / PREDICTIONS).exists():
        return {"sentences": mistakes.of_sentences((run / PREDICTIONS).read_text(encoding="utf-8"), SENTENCES)}
    return {}


def _short(value: Any) -> Any:
    """Five significant digits: more are a third of the page and nobody sees them."""
    if isinstance(value, list):
        return [_short(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
