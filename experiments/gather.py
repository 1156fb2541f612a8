"""What the runs of the study came to: reads their records into one structure that pages are written from."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import published, significance
from experiments.job import Job
from experiments.study import IMAGE_ORDER, IMAGE_SAMENESS, PLACEMENTS, SCALES, TAGGER_CLAIMS, Row

NOTHING: dict[str, Any] = {"report": {}, "epoch": None, "peers": {}, "types": {}}  # published of a row


def gather(jobs: Sequence[Job]) -> dict[str, Any]:
    """Everything that the page says, from the records of jobs: finished ones, failed ones and those still to come.

    Returns:
      JSON: ``rows``, each with its ``scale`` and its ``seeds``; ``order``, ``sameness`` and ``claims``, the report's statements
      checked; ``placements`` of the norm compared; ``scales``, what those of the rows mean.
    """
    rows = []
    for name in dict.fromkeys(job.row.name for job in jobs):
        of_row = [job for job in jobs if job.row.name == name]
        row, scale = of_row[0].row, of_row[0].scale
        seeds = [_read_seed(job) for job in of_row if job.is_finished]
        failures = {str(job.seed): job.failure for job in of_row if job.failure is not None}
        # Beside figures of other data, the report's would say nothing.
        comparable = scale != "demo" and all(seed["has_published_data"] for seed in seeds)
        rows.append(
            {
                "name": name,
                "section": row.section,
                "title": row.title,
                "task": row.task,
                "chapter": row.chapter,
                "scale": scale,
                "command": of_row[0].shown_command,
                "epochs_at_most": row.config(scale).epochs,
                "batch_size": row.config(scale).batch_size,
                "seeds": seeds,
                "failures": failures,
                "figures": summarize([seed["figures"] for seed in seeds]),
                "types": summarize_types(seeds),
                "published": published_figures(row) if comparable else NOTHING,
            }
        )
    return {
        "scales": {scale: SCALES[scale] for scale in SCALES if any(row["scale"] == scale for row in rows)},
        "rows": rows,
        "order": check_pairs(rows, itertools.pairwise(IMAGE_ORDER)),
        "sameness": check_pairs(rows, IMAGE_SAMENESS),
        "claims": check_claims(jobs),
        "placements": compare_placements(jobs),
    }


def _read_seed(job: Job) -> dict[str, Any]:
    try:
        return read_seed(job.read_record(), job.seed, job.row.task)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{job.record} is damaged: {type(error).__name__}: {error}") from error


def read_seed(of_run: Mapping[str, Any], seed: int, task: str) -> dict[str, Any]:
    """The figures of one run, from its record."""
    evaluated, history = of_run["evaluation"], of_run["history"]
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
    data = of_run["config"]["data"]
    return {
        "seed": seed,
        "best_epoch": evaluated["epoch"],
        "epochs": len(history),
        "figures": figures,
        "has_published_data": data == "cifar10" if task == "images" else data.endswith(".csv"),
        "test_examples": evaluated["splits"]["test"]["examples" if task == "images" else "sentences"],
        "entities": sum(split["micro"]["support"] for split in evaluated["splits"].values()) if task == "taggers" else None,
        "test_types": evaluated["splits"]["test"].get("types", {}),
        "seconds": round(sum(epoch["seconds"] for epoch in history), 1),
        "epoch_seconds": round(float(np.median([epoch["seconds"] for epoch in history])), 2),
        "compile_seconds": round(sum(epoch["compile_seconds"] for epoch in history), 1),
        "peak_memory_mib": max(epoch["peak_memory_mib"] for epoch in history),
        "machine": of_run["machine"],
        "vectors": of_run["vectors"],
    }


def summarize(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1; None for one seed) of every figure over seeds."""
    if not seeds:
        return {}
    figures = {}
    for name in seeds[0]:
        values = [seed[name] for seed in seeds]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        figures[name] = {"mean": float(np.mean(values)), "spread": spread}
    return figures


def summarize_types(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`summarize` of each entity type that is in every seed's test sentences."""
    types = [name for name in (seeds[0]["test_types"] if seeds else ()) if all(name in seed["test_types"] for seed in seeds)]
    return {name: summarize([seed["test_types"][name] for seed in seeds]) for name in types}


def published_figures(row: Row) -> dict[str, Any]:
    """The report's figures of a row by our names, and the best that other public implementations came to."""
    theirs = published.figures()
    of_report: dict[str, float] = {}
    stated = theirs["report"][row.task].get(row.name, {})
    for name in ("accuracy", "micro_f1", "macro_f1", "weighted_f1"):
        for split, value in zip(("train", "validation", "test"), stated.get(name, ()), strict=False):
            if not math.isnan(value):
                of_report[f"{split} {name.replace('_f1', ' F1')}"] = value
    other = theirs["peers"][row.task].get(row.name.removeprefix("modern_"), {})
    peers = {"test accuracy": other} if isinstance(other, float) else {}
    if isinstance(other, dict):
        peers = {f"test {name} F1": other[f"{name}_f1"] for name in ("micro", "macro") if other}
    types = theirs["report"]["types"].get(row.name, {})
    return {"report": of_report, "epoch": stated.get("epoch"), "peers": peers, "types": types}


def check_pairs(rows: Sequence[Mapping[str, Any]], pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Test accuracy of one row less that of another, over the seeds that both have.

    Rows of unlike scales, or of unlike numbers of epochs, are not compared.
    """
    by_name = {row["name"]: {seed["seed"]: seed for seed in row["seeds"]} for row in rows}
    size = {row["name"]: (row["scale"], row["epochs_at_most"]) for row in rows}
    checked = []
    for better, worse in pairs:
        shared = sorted(by_name.get(better, {}).keys() & by_name.get(worse, {}).keys())
        if not shared or size[better] != size[worse]:
            continue
        first, second = ([by_name[name][seed]["figures"]["test accuracy"] for seed in shared] for name in (better, worse))
        examples = by_name[better][shared[0]]["test_examples"]
        difference = significance.over_seeds(first, second, examples)
        held = sum(a > b for a, b in zip(first, second, strict=True))
        checked.append({"better": better, "worse": worse, "held": held, "seeds": len(shared), **difference._asdict()})
    return checked


def compare_placements(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Validation accuracy after each epoch under both places of the norm, first seeds, as far as both were trained."""
    first = {job.row.name: job for job in jobs if job.seed == 0 and job.is_finished}
    compared = []
    for pair in PLACEMENTS:
        if not all(name in first for name in pair) or first[pair[0]].scale != first[pair[1]].scale:
            continue
        histories = [first[name].read_record()["history"] for name in pair]
        epochs = min(map(len, histories))
        for name, history in zip(pair, histories, strict=True):
            config = first[name].row.config(first[name].scale)
            accuracies = [epoch["validation_accuracy"] for epoch in history[:epochs]]
            about = {"placement": config.norm_placement.replace("_", " the "), "learning_rate": config.learning_rate}
            compared.append({"row": name, "normalization": config.normalization, **about, "validation_accuracy": accuracies})
    return compared


def check_claims(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What each part of a tagger brings in micro F1 on test, by paired bootstrap over sentences, seeds together.

    Rows of unlike scales are not compared.
    """
    scales = {job.row.name: job.scale for job in jobs}
    finished = {(job.row.name, job.seed): job for job in jobs if job.is_finished and job.row.task == "taggers"}
    counts: dict[tuple[str, int], np.ndarray] = {}

    def read(key: tuple[str, int]) -> np.ndarray:
        if key not in counts:
            counts[key] = np.array(finished[key].read_record()["test_counts"])
        return counts[key]

    checked = []
    for better, worse, what in TAGGER_CLAIMS:
        seeds = sorted(seed for name, seed in finished if name == better and (worse, seed) in finished)
        if not seeds or scales[better] != scales[worse]:
            continue
        pairs = [(read((better, seed)), read((worse, seed))) for seed in seeds]
        difference = significance.paired_bootstrap(pairs)
        held = sum(bool(significance.f1(a.sum(0)) > significance.f1(b.sum(0))) for a, b in pairs)
        checked.append(
            {"what": what, "better": better, "worse": worse, "held": held, "seeds": len(seeds), **difference._asdict()}
        )
    return checked
