"""What the runs of the study came to: reads run directories into one structure that pages are written from."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colnorm.checkpoint import RunDirectory
from experiments import published, significance
from experiments.evaluate_ner import PREDICTIONS
from experiments.job import Job
from experiments.study import IMAGE_ORDER, SCALES, TAGGER_CLAIMS, Row


def gather(jobs: Sequence[Job]) -> dict[str, Any]:
    """Everything that the page says, from the run directories of jobs: finished ones, failed ones and those still to come.

    Returns:
      JSON: ``rows``, each with its ``scale`` and its ``seeds``; ``order`` and ``claims``, the report's statements checked;
      ``scales``, what those of the rows mean.
    """
    rows = []
    for name in dict.fromkeys(job.row.name for job in jobs):
        of_row = [job for job in jobs if job.row.name == name]
        row, scale = of_row[0].row, of_row[0].scale
        seeds = [read_seed(job.run, job.seed, row.task) for job in of_row if job.is_finished]
        failures = {str(job.seed): job.failure for job in of_row if job.failure is not None}
        rows.append(
            {
                "name": name,
                "section": row.section,
                "title": row.title,
                "task": row.task,
                "scale": scale,
                "command": of_row[0].shown_command,
                "epochs_at_most": row.config(scale).epochs,
                "batch_size": row.config(scale).batch_size,
                "seeds": seeds,
                "failures": failures,
                "figures": summarize(seeds),
                # A demo's data are others: nothing of the report's can stand beside its figures.
                "published": published_figures(row) if scale != "demo" else {"report": {}, "peers": {}, "types": {}},
            }
        )
    return {
        "scales": {scale: SCALES[scale] for scale in SCALES if any(row["scale"] == scale for row in rows)},
        "rows": rows,
        "order": check_order(rows),
        "claims": check_claims(jobs),
    }


def read_seed(run: Path, seed: int, task: str) -> dict[str, Any]:
    """The figures of one evaluated run."""
    evaluated = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    history = RunDirectory.open(run).history()
    figures: dict[str, float] = {}
    for split, values in evaluated["splits"].items():
        figures[f"{split} loss"] = values["loss"]
        figures[f"{split} accuracy"] = values["accuracy"]
        for average in ("micro", "macro", "weighted"):
            if task == "taggers":
                figures[f"{split} {average} F1"] = values[average]["f1"]
            elif average != "weighted":
                figures[f"{split} {average} F1"] = values[f"{average}_f1"]
    if task == "taggers":
        figures["calibration error"] = evaluated["splits"]["test"]["calibration"]["error"]
    return {
        "seed": seed,
        "best_epoch": evaluated["epoch"],
        "epochs": len(history),
        "figures": figures,
        "test_examples": evaluated["splits"]["test"]["examples" if task == "images" else "sentences"],
        "test_types": evaluated["splits"]["test"].get("types", {}),
        "seconds": round(sum(record["seconds"] for record in history), 1),
        "epoch_seconds": round(float(np.median([record["seconds"] for record in history])), 2),
        "compile_seconds": round(sum(record["compile_seconds"] for record in history), 1),
        "peak_memory_mib": max(record["peak_memory_mib"] for record in history),
        "machine": evaluated["machine"],
    }


def summarize(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1; None for one seed) of every figure over seeds."""
    if not seeds:
        return {}
    figures = {}
    for name in seeds[0]["figures"]:
        values = [seed["figures"][name] for seed in seeds]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        figures[name] = {"mean": float(np.mean(values)), "spread": spread}
    return figures


def published_figures(row: Row) -> dict[str, Any]:
    """The report's figures of a row by our names, and the best that other public implementations came to."""
    theirs = published.figures()
    of_report: dict[str, float] = {}
    peers: dict[str, float] = {}
    stated = theirs["report"][row.task].get(row.name, {})
    for place, split in enumerate(("train", "validation", "test")):
        if row.task == "images" and "accuracy" in stated and stated["accuracy"][place] == stated["accuracy"][place]:
            of_report[f"{split} accuracy"] = stated["accuracy"][place]
    for name in ("micro", "macro", "weighted"):
        if f"{name}_f1" in stated:
            of_report[f"test {name} F1"] = stated[f"{name}_f1"]
    if row.task == "taggers" and "accuracy" in stated:
        of_report["test accuracy"] = stated["accuracy"]
    other = theirs["peers"][row.task].get(row.name.removeprefix("modern_"))
    if isinstance(other, float):
        peers["test accuracy"] = other
    elif other:
        peers = {f"test {name} F1": other[f"{name}_f1"] for name in ("micro", "macro")}
    return {"report": of_report, "peers": peers, "types": theirs["report"]["types"].get(row.name, {})}


def check_order(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The report's order of the normalizations, neighbour by neighbour, on test accuracy over the seeds that both have.

    Rows of unlike scales are not compared.
    """
    by_name = {row["name"]: {seed["seed"]: seed for seed in row["seeds"]} for row in rows}
    scales = {row["name"]: row["scale"] for row in rows}
    checked = []
    for better, worse in itertools.pairwise(IMAGE_ORDER):
        shared = sorted(by_name.get(better, {}).keys() & by_name.get(worse, {}).keys())
        if not shared or scales[better] != scales[worse]:
            continue
        first, second = ([by_name[name][seed]["figures"]["test accuracy"] for seed in shared] for name in (better, worse))
        examples = by_name[better][shared[0]]["test_examples"]
        difference = significance.over_seeds(first, second, examples)
        held = sum(a > b for a, b in zip(first, second, strict=True))
        checked.append({"better": better, "worse": worse, "held": held, "seeds": len(shared), **difference._asdict()})
    return checked


def check_claims(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What each part of a tagger brings in micro F1 on test, by paired bootstrap over sentences, seeds together.

    Rows of unlike scales are not compared.
    """
    scales = {job.row.name: job.scale for job in jobs}
    runs = {(job.row.name, job.seed): job.run for job in jobs if job.is_finished and job.row.task == "taggers"}
    counts: dict[tuple[str, int], np.ndarray] = {}

    def read(key: tuple[str, int]) -> np.ndarray:
        if key not in counts:
            counts[key] = count_entities(runs[key] / PREDICTIONS)
        return counts[key]

    checked = []
    for better, worse, what in TAGGER_CLAIMS:
        seeds = sorted(seed for name, seed in runs if name == better and (worse, seed) in runs)
        if not seeds or scales[better] != scales[worse]:
            continue
        pairs = [(read((better, seed)), read((worse, seed))) for seed in seeds]
        difference = significance.paired_bootstrap(pairs)
        held = sum(bool(significance.f1(a.sum(0)) > significance.f1(b.sum(0))) for a, b in pairs)
        checked.append(
            {"what": what, "better": better, "worse": worse, "held": held, "seeds": len(seeds), **difference._asdict()}
        )
    return checked


def count_entities(path: Path) -> np.ndarray:
    """``(sentences, 3)`` entities found and right, found, and to be found, of a file that ``evaluate_ner`` wrote."""
    from colnorm.data.schemes import entities

    rows = []
    for block in path.read_text(encoding="utf-8").strip("\n").split("\n\n"):
        columns = [line.rsplit(" ", 2) for line in block.split("\n")]
        gold, found = (set(entities([line[column] for line in columns])) for column in (1, 2))
        rows.append((len(gold & found), len(found), len(gold)))
    return np.array(rows, np.int64)
