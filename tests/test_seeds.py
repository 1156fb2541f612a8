"""Seeds that are trained together come to what each comes to alone."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest
from tiny_training import tiny

from colnorm.run_directory import RunDirectory
from colnorm.tasks import train as training
from experiments import evaluate, images, seeds, summary
from experiments.configs import ImageConfig

# Everything random that there is; gates with a rate of their own.
CONFIG = ImageConfig(
    normalization="bin",
    gate_multiplier=10.0,
    data="digits",
    learning_rate=0.1,
    batch_size=16,
    crop_padding=1,
    flip=True,
    alternate_flips=True,
    cut_out=2,
    small_epochs=1,
    small_size=6,
    norm_bias_multiplier=2.0,
    muon_learning_rate=0.02,
    average_decay=0.9,
    epochs=3,
    devices=1,
)
TIMES = {"train_seconds", "seconds", "compile_seconds", "peak_memory_mib", "seeds_at_once"}


def numbers(run):
    """What the epochs of a run came to, without what depends on the clock."""
    kept = [{name: value for name, value in line.items() if name not in TIMES} for line in RunDirectory.open(run).history()]
    return {name: np.array([line[name] for line in kept]) for name in kept[0]}


def assert_same(run, expected):
    ours, theirs = numbers(run), numbers(expected)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=2e-4, atol=2e-4, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Seeds 3 and 5, each trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    with tiny():
        for seed in (3, 5):
            training.train(images.ImageTask, dataclasses.replace(CONFIG, seed=seed), root / str(seed))
            assert evaluate.main([str(root / str(seed))]) == 0
    return root


@pytest.mark.slow
def test_seeds_together_are_the_seeds_alone(alone, tmp_path, capsys):
    runs = [tmp_path / "3", tmp_path / "5"]
    with tiny():
        assert seeds.train_seeds(CONFIG, (3, 5), runs, print) == [None, None]
    assert len(re.findall(r"epoch   \d/3 .* validation accuracy \d+.\d+%, \d+.\d+%", capsys.readouterr().out)) == 3
    for run in runs:
        expected = alone / run.name
        assert_same(run, expected)
        ours, theirs = (RunDirectory.open(path).evaluation() for path in (run, expected))
        assert ours["epoch"] == theirs["epoch"] and ours.keys() == theirs.keys()
        for split, metrics in theirs["splits"].items():
            assert ours["splits"][split].keys() == metrics.keys()
            assert ours["splits"][split]["loss"] == pytest.approx(metrics["loss"], rel=1e-3)
        assert RunDirectory.open(run).config == RunDirectory.open(expected).config
        # the checkpoint is one that the command for a single run reads
        with tiny():
            assert evaluate.main([str(run)]) == 0
        again = RunDirectory.open(run).evaluation()
        assert again["splits"]["test"]["loss"] == pytest.approx(ours["splits"]["test"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_out_of_time_it_is_gone_on_with_alone(alone, tmp_path):
    with tiny():
        (reason,) = seeds.train_seeds(CONFIG, (3,), [tmp_path / "3"], print, deadline=time.monotonic())
        assert reason == "stopped after 1 of at most 3 epochs" and RunDirectory.open(tmp_path / "3").evaluation() is None
        training.train(images.ImageTask, dataclasses.replace(CONFIG, seed=3), tmp_path / "3", resume=True)
    assert_same(tmp_path / "3", alone / "3")


@pytest.mark.slow
def test_a_seed_that_is_lost_says_so_and_has_no_evaluation(tmp_path):
    config = dataclasses.replace(CONFIG, normalization="nn", gate_multiplier=1.0, learning_rate=1e30)
    with tiny():
        reasons = seeds.train_seeds(config, (0, 1), [tmp_path / "0", tmp_path / "1"], print)
    assert all(re.fullmatch(r"the training loss is (nan|inf) at step \d+ of epoch 1", reason) for reason in reasons), reasons
    assert not (tmp_path / "0" / "evaluation.json").exists() and RunDirectory.open(tmp_path / "0").history() == []


@pytest.mark.slow
def test_a_row_becomes_records_of_the_study(tmp_path, capsys):
    command = ["bn", "--scale", "demo", "--seeds", "2", "--study", str(tmp_path)]
    with tiny():
        assert seeds.main(command) == 0
        assert seeds.main(command) == 0  # nothing is left to do
    assert capsys.readouterr().out.count("seeds 0, 1 at once") == 1
    for seed in (0, 1):
        record = summary.read(tmp_path / "records" / f"bn-seed{seed}.json")
        assert record["config"]["seed"] == seed and len(record["history"]) == 5 and record["history"][0]["seeds_at_once"] == 2


def test_what_is_no_row_of_images_is_refused(tmp_path, capsys):
    for name in ("crf", "nothing"):
        assert seeds.main([name, "--study", str(tmp_path)]) == 1
        assert f"there is no row {name!r} of images; there are nn, bn" in capsys.readouterr().err
    (tmp_path / "runs" / "bn-seed0").mkdir(parents=True)
    (tmp_path / "runs" / "bn-seed0" / "mine").write_text(json.dumps(1))
    assert seeds.main(["bn", "--scale", "demo", "--seeds", "1", "--study", str(tmp_path)]) == 1
    assert "bn-seed0 exists and is not a run directory" in capsys.readouterr().err
