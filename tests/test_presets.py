"""The rows of the study: what the report states of each, its figures, and the command that trains it."""

import dataclasses
from pathlib import Path

import pytest

from experiments import job, published, study, train
from experiments.configs import ImageConfig
from experiments.presets import PRESETS

# What the report states of its rows: name, learning rate, what it does with it, batch size.
IMAGES = {"momentum": 0.9, "weight_decay": 1e-4, "norm_placement": "after_addition", "n": 2, "crop_padding": 0, "flip": False}
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "clip_global_norm": 5.0, "word_features": 100}
STATED = {
    "nn": (0.001, {"schedule": "constant", **IMAGES}, 128),
    "bn": (1.0, {"schedule": "decay", "decay_factor": 0.96, **IMAGES}, 128),
    "in": (1.0, {"schedule": "step", "decay_factor": 0.1, "decay_epochs": (50,), **IMAGES}, 128),
    "bin": (1.0, {"schedule": "step", "decay_factor": 0.1, "decay_epochs": (30,), **IMAGES}, 128),
    "ln": (0.01, {"schedule": "constant", **IMAGES}, 128),
    "gn": (0.1, {"schedule": "step", "decay_factor": 0.1, "decay_epochs": (20,), "num_groups": 16, **IMAGES}, 128),
    "flax_bn": (1.0, {"schedule": "decay", "decay_factor": 0.96, **IMAGES}, 128),
    "bn_batch8": (1.0 / 16, {"schedule": "decay", "decay_factor": 0.96, **IMAGES}, 8),  # the rate is ours: none is stated
    "gn_batch8": (0.1 / 16, {"schedule": "step", "decay_epochs": (20,), **IMAGES}, 8),
    "random": (0.01, {"schedule": "constant", "characters": False, "head": "softmax", **SGD}, 128),
    "glove": (0.01, {"schedule": "constant", "characters": False, "head": "softmax", **SGD}, 128),
    "char": (0.01, {"schedule": "constant", "characters": True, "head": "softmax", "layer_norm": None, **SGD}, 128),
    "layer_norm": (0.01, {"schedule": "constant", "characters": True, "layer_norm": "output", **SGD}, 128),
    "crf": (0.01, {"schedule": "constant", "head": "crf", "layer_norm": None, **SGD}, 128),
}


@pytest.mark.parametrize("scale", study.SCALES)
@pytest.mark.parametrize("row", PRESETS.values(), ids=lambda row: row.name)
def test_the_command_of_a_row_makes_its_config(row, scale):
    paths = {"data_dir": "D"} if row.task == "images" else {"data": "N", "glove": "G"}
    name, *arguments = job.Job(row, 3, scale, Path("somewhere")).train_arguments(paths)
    assert name == train.__name__
    read = train.read(arguments)
    assert read.config == dataclasses.replace(study.at_scale(row, scale), seed=3, **paths)
    assert read.run == Path("somewhere/runs") / f"{row.name}-seed3"


@pytest.mark.parametrize("name", STATED)
def test_a_preset_is_what_the_report_states_where_its_data_are(name):
    rate, stated, size = STATED[name]
    assert STATED.keys() == {preset.name for preset in PRESETS.values() if preset.section}
    for scale in ("reduced", "full"):
        config = study.at_scale(PRESETS[name], scale)
        assert (config.learning_rate, config.batch_size) == (pytest.approx(rate, rel=1e-12), size)
        assert {key: getattr(config, key) for key in stated} == stated


def test_the_place_of_the_norm_is_all_that_differs_between_what_is_compared():
    for moved, plain in study.PLACEMENTS:
        same = {"norm_placement": "after_addition", "epochs": 100, "patience": 10}
        assert dataclasses.replace(PRESETS[moved].config, **same) == PRESETS[plain].config


def test_every_published_figure_has_a_row_and_is_told_by_our_names():
    tables = published.tables()
    for table in (*tables["report"].values(), *tables["peers"].values()):
        assert table.keys() <= PRESETS.keys()
    beside = {name: published.of_row(row) for name, row in PRESETS.items()}
    assert beside["bn"].report == {
        "train_accuracy": 0.9319,
        "validation_accuracy": 0.8287,
        "test_accuracy": 0.8139,
        "train_macro_f1": 0.9317,
        "validation_macro_f1": 0.8278,
        "test_macro_f1": 0.8128,
        "train_micro_f1": 0.9648,
        "validation_micro_f1": 0.8944,
        "test_micro_f1": 0.8948,
    }
    assert beside["bn"].epoch == 40
    assert beside["flax_bn"].report == {"test_accuracy": 0.7941, "test_macro_f1": 0.795, "test_micro_f1": 0.8817}
    assert beside["modern_bn"] == published.NOTHING._replace(peers={"test_accuracy": 0.878})
    assert beside["crf"].report["validation_macro_f1"] == 0.45 and "test_accuracy" not in beside["crf"].report
    assert "test_micro_f1" not in beside["glove"].report  # its table can't be read
    assert beside["crf"].peers == {"test_micro_f1": 0.85, "test_macro_f1": 0.685} and beside["best"] == published.NOTHING
    assert beside["crf"].classes["per"] == {"precision": 0.69, "recall": 0.51, "f1": 0.59}


def test_no_two_rows_of_a_scale_are_the_same_run():
    for scale in study.SCALES:
        rows = [row for row in PRESETS.values() if study.has_scale(row, scale)]
        runs = [(row.glove and scale != "demo", study.at_scale(row, scale)) for row in rows]
        for number, run in enumerate(runs):
            assert run not in runs[:number], (scale, rows[number].name)


def test_a_demo_of_an_image_row_is_smaller_and_of_embedded_data():
    for row in PRESETS.values():
        config = study.at_scale(row, "demo")
        assert config.data == ("digits" if isinstance(config, ImageConfig) else "sample") and config.epochs == 5


def test_rows_are_chosen_by_name_or_task_in_the_order_named():
    assert [row.name for row in study.choose(("crf", "bn"))] == ["crf", "bn"]
    assert study.choose(()) == list(PRESETS.values())
    assert {row.task for row in study.choose(("tagging",))} == {"tagging"}
    with pytest.raises(ValueError, match="there is no row 'xn'"):
        study.choose(("xn",))


def test_what_decides_the_reports_claims_comes_first():
    runs = sorted(((row, seed) for seed in (0, 1) for row in PRESETS.values()), key=lambda run: study.worth(*run))
    first = [(row.name, seed) for row, seed in runs if row.task == "images"]
    seven = ["nn", "bn", "in", "bin", "ln", "gn", "flax_bn"]
    assert first[:9] == [(name, 0) for name in (*seven, "bn_batch8", "gn_batch8")]
    assert first[9:12] == [("bn_he", 0), ("in_he", 0), ("bin_he", 0)]
    assert first[12:20] == [*((name, 1) for name in seven), ("gn_groups2", 0)]
