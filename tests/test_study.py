"""The rows of the study: each is a command, whose config is what the row says, and has the report's figures beside it."""

import dataclasses
from pathlib import Path

import pytest
import tyro

from experiments import gather, job, published, study, train_cifar, train_ner
from experiments.configs import CIFAR_PRESETS, NER_PRESETS


@pytest.mark.parametrize("scale", study.SCALES)
@pytest.mark.parametrize("row", study.ROWS.values(), ids=str)
def test_the_command_of_a_row_makes_its_config(row, scale):
    module, presets = (train_cifar, CIFAR_PRESETS) if row.task == "images" else (train_ner, NER_PRESETS)
    places = {"data_dir": "D"} if row.task == "images" else {"data": "N", "glove": "G"}
    name, *arguments = job.Job(row, 3, scale, Path("somewhere")).train_arguments(places)
    assert name == module.__name__
    commands = {preset: (text, module.Command(config)) for preset, (text, config) in presets.items()}
    read = tyro.extras.overridable_config_cli(commands, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    assert read.config == dataclasses.replace(row.config(scale), seed=3, **places)
    assert read.run == Path("somewhere/runs") / f"{row.name}-seed3"


def test_at_full_scale_the_reports_rows_are_the_presets():
    for row in study.ROWS.values():
        presets = CIFAR_PRESETS if row.task == "images" else NER_PRESETS
        if not row.changes:
            assert row.config("full") == presets[row.preset][1], row.name
    assert study.ROWS["gn_batch2"].config("full").learning_rate == pytest.approx(0.1 / 64)
    assert {row.config("full").batch_size for name, row in study.ROWS.items() if "_batch" in name} == {2, 8, 32}


def test_every_published_figure_has_a_row():
    figures = published.figures()
    for table in (figures["report"]["images"], figures["report"]["taggers"], figures["peers"]["images"]):
        assert table.keys() <= study.ROWS.keys()
    beside = {name: gather.published_figures(row) for name, row in study.ROWS.items()}
    assert beside["bn"]["report"] == {
        "train accuracy": 0.9319,
        "validation accuracy": 0.8287,
        "test accuracy": 0.8139,
        "train macro F1": 0.9317,
        "validation macro F1": 0.8278,
        "test macro F1": 0.8128,
        "train micro F1": 0.9648,
        "validation micro F1": 0.8944,
        "test micro F1": 0.8948,
    }
    assert beside["bn"]["epoch"] == 40
    assert beside["flax_bn"]["report"] == {"test accuracy": 0.7941, "test macro F1": 0.795, "test micro F1": 0.8817}
    assert beside["modern_bn"] == {**gather.NOTHING, "peers": {"test accuracy": 0.878}}
    assert beside["crf"]["report"]["validation macro F1"] == 0.45 and "test accuracy" not in beside["crf"]["report"]
    assert "test micro F1" not in beside["glove"]["report"]  # its table can't be read
    assert beside["crf"]["peers"] == {"test micro F1": 0.85, "test macro F1": 0.685} and beside["best"] == gather.NOTHING
    assert beside["crf"]["types"]["per"] == {"precision": 0.69, "recall": 0.51, "f1": 0.59}


def test_no_two_rows_of_a_scale_are_the_same_run():
    for scale in study.SCALES:
        configs = [(row.needs_glove, row.config(scale)) for row in study.ROWS.values()]
        for number, config in enumerate(configs):
            assert config not in configs[:number], (scale, list(study.ROWS)[number])


def test_rows_are_chosen_by_name_or_kind():
    assert [row.name for row in study.choose(("crf", "bn"))] == ["bn", "crf"]
    assert study.choose(()) == list(study.ROWS.values())
    assert {row.task for row in study.choose(("taggers",))} == {"taggers"}
    with pytest.raises(ValueError, match="there is no row 'xn'"):
        study.choose(("xn",))


def test_what_decides_the_reports_claims_comes_first():
    runs = sorted(((row, seed) for seed in (0, 1) for row in study.ROWS.values()), key=lambda run: study.worth(*run))
    first = [(row.name, seed) for row, seed in runs if row.task == "images"]
    seven = ["nn", "bn", "in", "bin", "ln", "gn", "flax_bn"]
    assert first[:9] == [(name, 0) for name in (*seven, "bn_batch8", "gn_batch8")]
    assert first[9:12] == [("bn_he", 0), ("in_he", 0), ("bin_he", 0)]
    assert first[12:20] == [*((name, 1) for name in seven), ("gn_groups2", 0)]


def test_the_reports_rows_have_its_place_of_the_norm_and_its_rates_where_its_data_are():
    for scale in ("reduced", "full"):
        for name, rate in (("nn", 0.001), ("bn", 1), ("in", 1), ("bin", 1), ("ln", 0.01), ("gn", 0.1), ("flax_bn", 1)):
            config = study.ROWS[name].config(scale)
            assert (config.learning_rate, config.norm_placement) == (rate, "after_addition")
    for heard, plain in study.PLACEMENTS:
        config = study.ROWS[heard].config("full")
        same = {"norm_placement": "after_addition", "epochs": 100, "patience": 10}
        assert dataclasses.replace(config, **same) == study.ROWS[plain].config("full")
