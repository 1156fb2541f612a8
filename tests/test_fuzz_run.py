"""The JSON files of a run and of a study, damaged: read as they were written, or refused in a line that names the file.

By default a few hundred of each; ``pytest -m long tests/test_fuzz_run.py`` tries 10,000 and prints how many were refused.
"""

import dataclasses
import hashlib
import json
import random
import time
from pathlib import Path

import fuzz_readers
import pytest

from colnorm.run_directory import RunDirectory
from colnorm.run_history import _digest
from colnorm.tasks.configs import from_stored
from experiments import gather, job, reproduce, summary
from experiments.configs import ImageConfig
from experiments.presets import PRESETS

CONFIG = PRESETS["bn"].config
LINES = [{"epoch": n, "train_loss": 2.0 / n, "validation_accuracy": 0.1 * n, "features": [-1.5, 0.25]} for n in (1, 2)]
ABOUT = {"epoch": 2, "config": json.loads(json.dumps(dataclasses.asdict(CONFIG))), "records": _digest(LINES)}
SPLITS = {split: {"accuracy": 0.5, "loss": 1.0} for split in ("train", "validation", "test")}
SUMMARY = summary.read(Path(__file__).parents[1] / "results" / "study" / "records" / "bn_he-seed0.json")


def read_run(directory):
    """What evaluation reads; what a checkpoint says of itself is compared as when one is restored."""
    run = RunDirectory.open(directory / "run")
    run.check_task("images")
    config = from_stored(ImageConfig, run.config, str(run.file("config.json")))
    run._check_about(ABOUT, 2)
    assert config == CONFIG and run.history()[:2] == LINES


def read_evaluation(directory):
    evaluation = RunDirectory.open(directory / "run").evaluation()
    assert evaluation is None or {"epoch", "splits"} <= evaluation.keys()


def read_study(directory):
    scales, seeds = reproduce.read_study(directory / "study", going_on=True)
    assert set(scales) <= PRESETS.keys() and isinstance(seeds, int)


def read_summary_file(directory):
    of_row = job.Job(PRESETS["bn_he"], 0, "full", directory / "study")
    gather._read_seed(of_row)
    assert of_row.read_summary() == SUMMARY


FILES = {
    "run/config.json": read_run,
    "run/metrics.jsonl": read_run,
    "run/evaluation.json": read_evaluation,
    "study/study.json": read_study,
    "study/records/bn_he-seed0.json": read_summary_file,
}


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_read_as_it_was(tmp_path, name, count):
    with RunDirectory.create(tmp_path / "run", "images", dataclasses.asdict(CONFIG)) as run:
        for entry in LINES:
            run.append(entry)
        run.file("evaluation.json").write_text(json.dumps({"epoch": 2, "splits": SPLITS}))
    (tmp_path / "study" / "records").mkdir(parents=True)
    (tmp_path / "study" / "study.json").write_text(json.dumps({"scales": {"nn": "demo", "bn": "demo"}, "seeds": 2}))
    digest = hashlib.sha256(json.dumps(SUMMARY, sort_keys=True).encode()).hexdigest()
    (tmp_path / "study" / "records" / "bn_he-seed0.json").write_text(json.dumps({**SUMMARY, "sha256": digest}))
    path, read = tmp_path / name, FILES[name]
    read(tmp_path)
    whole, refused, slowest = path.read_bytes(), 0, 0.0
    for number in range(count):
        path.write_bytes(fuzz_readers.damage([whole], random.Random(number)))
        began = time.process_time()
        try:
            read(tmp_path)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            said = str(error)
            assert str(path.parent) in said and "\n" not in said and len(said) < 3000, (number, said)
        slowest = max(slowest, time.process_time() - began)
    print(f"{name}: {count} tried, {refused} refused, the slowest took {1000 * slowest:.0f} ms")
    assert refused > count / 4
