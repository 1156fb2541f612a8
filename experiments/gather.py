"""What the runs of the study came to: reads their summaries into one structure that the page is written from."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from colnorm.metrics import headline
from experiments import published, significance
from experiments.configs import ImageConfig
from experiments.job import Job
from experiments.study import ABLATION_PAIRS, IMAGE_ORDER, IMAGE_SAMENESS, PLACEMENTS, SCALES, TAGGER_CLAIMS


def gather(jobs: Sequence[Job]) -> dict[str, Any]:
    """Everything that the page says, from the summaries of jobs: finished ones, failed ones and those still to come.

    Returns:
      JSON: ``rows``, each with its ``scale`` and its ``seeds``; ``order``, ``sameness`` and ``claims``, the report's statements
      checked; ``ablations``, what an idea of the recipe brings; ``placements`` of the norm compared; ``scales``, what those of
      the rows mean.
    """
    rows = []
    for name in dict.fromkeys(job.row.name for job in jobs):
        of_row = [job for job in jobs if job.row.name == name]
        row, scale, config = of_row[0].row, of_row[0].scale, of_row[0].config
        seeds = [_read_seed(job) for job in of_row if job.is_finished]
        # Beside metrics of other data, the report's would say nothing.
        comparable = scale != "demo" and all(seed["has_published_data"] for seed in seeds)
        rows.append(
            {
                **{key: getattr(row, key) for key in ("name", "section", "title", "task", "chapter")},
                "scale": scale,
                "command": of_row[0].shown_command,
                "epochs_at_most": config.epochs,
                "batch_size": config.batch_size,
                "seeds": seeds,
                "failures": {str(job.seed): job.failure for job in of_row if job.failure is not None},
                "metrics": summarize([seed["metrics"] for seed in seeds]),
                "classes": summarize_classes(seeds) if row.task == "tagging" else {},
                "published": (published.of_row(row) if comparable else published.NOTHING)._asdict(),
            }
        )
    return {
        "scales": {scale: SCALES[scale] for scale in SCALES if any(row["scale"] == scale for row in rows)},
        "rows": rows,
        "order": check_pairs(rows, itertools.pairwise(IMAGE_ORDER)),
        "sameness": check_pairs(rows, IMAGE_SAMENESS),
        "ablations": check_pairs(rows, ABLATION_PAIRS, "validation"),
        "claims": check_claims(jobs),
        "placements": compare_placements(jobs),
    }


def _read_seed(job: Job) -> dict[str, Any]:
    try:
        return read_seed(job.read_summary(), job.seed, job.row.task)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{job.summary} is damaged: {type(error).__name__}: {error}") from error


def read_seed(of_run: Mapping[str, Any], seed: int, task: str) -> dict[str, Any]:
    """The metrics of one run, from its summary: ``test_accuracy`` and the like."""
    evaluated, history = of_run["evaluation"], of_run["history"]
    seconds = [
        epoch["seconds"] / epoch.get("seeds_at_once", 1) for epoch in history
    ]  # its share, where several trained at once
    metrics: dict[str, float] = {}
    for split, values in evaluated["splits"].items():
        metrics |= {f"{split}_loss": values["loss"], **headline(values, f"{split}_")}
        if "accuracy_mirrored" in values:
            metrics[f"{split}_accuracy_mirrored"] = values["accuracy_mirrored"]
    test = evaluated["splits"]["test"]
    if task == "tagging":
        metrics["calibration_error"] = test["calibration"]["error"]
    return {
        "seed": seed,
        "commit": of_run["commit"],
        "reached": reached(history, f"validation_{'micro_f1' if task == 'tagging' else 'accuracy'}"),
        "best_epoch": evaluated["epoch"],
        "epochs": len(history),
        "metrics": metrics,
        "has_published_data": published.is_their_data(of_run["config"]["data"]),
        "test_examples": test["examples"],
        "validation_examples": evaluated["splits"]["validation"]["examples"],
        "supports": sum(split["micro"]["support"] for split in evaluated["splits"].values()),
        "test_classes": test["classes"] if task == "tagging" else {},
        "seconds": round(sum(seconds), 1),
        "epoch_seconds": round(float(np.median(seconds)), 2),
        "compile_seconds": round(sum(epoch["compile_seconds"] for epoch in history), 1),
        "peak_memory_mib": max(epoch["peak_memory_mib"] for epoch in history),
        "machine": of_run["machine"],
        "vectors": of_run["vectors"],
    }


REACHED = 0.8


def reached(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float] | None:
    """The epoch after which a metric was first :data:`REACHED`, and the minutes until then; None where it never was."""
    seconds = 0.0
    for line in history:
        seconds += line["seconds"] / line.get("seeds_at_once", 1)
        if line[metric] >= REACHED:
            return {"epoch": line["epoch"], "minutes": round(seconds / 60, 1)}
    return None


def summarize(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1; None for one seed) of every metric over seeds."""
    summarized = {}
    for name in seeds[0] if seeds else ():
        values = [seed[name] for seed in seeds]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summarized[name] = {"mean": float(np.mean(values)), "spread": spread}
    return summarized


def summarize_classes(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`summarize` of each class that is in every seed's test data."""
    names = [name for name in (seeds[0]["test_classes"] if seeds else ()) if all(name in s["test_classes"] for s in seeds)]
    return {name: summarize([seed["test_classes"][name] for seed in seeds]) for name in names}


def check_pairs(
    rows: Sequence[Mapping[str, Any]], pairs: Iterable[tuple[str, str]], split: str = "test"
) -> list[dict[str, Any]]:
    """Accuracy of one row less that of another on the data of a split, over the seeds that both have.

    Rows of unlike scales, or of unlike numbers of epochs, are not compared.
    """
    by_name = {row["name"]: {seed["seed"]: seed for seed in row["seeds"]} for row in rows}
    size = {row["name"]: (row["scale"], row["epochs_at_most"]) for row in rows}
    checked = []
    for better, worse in pairs:
        shared = sorted(by_name.get(better, {}).keys() & by_name.get(worse, {}).keys())
        if not shared or size[better] != size[worse]:
            continue
        first, second = ([by_name[name][seed]["metrics"][f"{split}_accuracy"] for seed in shared] for name in (better, worse))
        examples = by_name[better][shared[0]][f"{split}_examples"]
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
        histories = [first[name].read_summary()["history"] for name in pair]
        epochs = min(map(len, histories))
        for name, history in zip(pair, histories, strict=True):
            config = first[name].config
            assert isinstance(config, ImageConfig)
            accuracies = [epoch["validation_accuracy"] for epoch in history[:epochs]]
            about = {"placement": config.norm_placement.replace("_", " the "), "learning_rate": config.learning_rate}
            compared.append({"row": name, "normalization": config.normalization, **about, "validation_accuracy": accuracies})
    return compared


def check_claims(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What each part of a tagger brings in micro F1 on test, by paired bootstrap over sentences, seeds together.

    Rows of unlike scales are not compared.
    """
    scales = {job.row.name: job.scale for job in jobs}
    finished = {(job.row.name, job.seed): job for job in jobs if job.is_finished and job.row.task == "tagging"}
    counts: dict[tuple[str, int], np.ndarray] = {}

    def read(key: tuple[str, int]) -> np.ndarray:
        if key not in counts:
            counts[key] = np.array(finished[key].read_summary()["test_counts"])
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
