"""Configs have types and ranges, wherever they are made; what is wrong is named, and stops before anything is done."""

import dataclasses

import pytest
from pydantic import ValidationError

from experiments import train_cifar, train_ner
from experiments.configs import CIFAR_PRESETS, NER_PRESETS, CifarConfig, NerConfig, from_stored

BAD = [
    (NerConfig, "dropout", 1.5),
    (NerConfig, "dropout", 1.0),
    (NerConfig, "dropout", -0.1),
    (NerConfig, "word_dropout", 2.0),
    (NerConfig, "average_decay", 1.0),
    (NerConfig, "hidden", 0),
    (NerConfig, "buckets", 0),
    (NerConfig, "vector_words", -1),
    (NerConfig, "min_count", 0),
    (CifarConfig, "label_smoothing", 5.0),
    (CifarConfig, "clip_global_norm", 0.0),
    (CifarConfig, "clip_global_norm", -1.0),
    (CifarConfig, "learning_rate", -0.1),
    (CifarConfig, "learning_rate", 0.0),
    (CifarConfig, "learning_rate", float("nan")),
    (CifarConfig, "learning_rate", float("inf")),
    (CifarConfig, "weight_decay", -1e-4),
    (CifarConfig, "momentum", 1.0),
    (CifarConfig, "decay_factor", 0.0),
    (CifarConfig, "decay_epochs", (0,)),
    (CifarConfig, "warmup_epochs", -1.0),
    (CifarConfig, "gate_multiplier", 0.0),
    (CifarConfig, "epochs", 0),
    (CifarConfig, "batch_size", 0),
    (CifarConfig, "patience", 0),
    (CifarConfig, "devices", 0),
    (CifarConfig, "n", 0),
    (CifarConfig, "num_groups", 3),
    (CifarConfig, "crop_padding", 32),
    (CifarConfig, "seed", 5_000_000_000),
    (CifarConfig, "seed", -1),
    (CifarConfig, "normalization", "batch"),
    (CifarConfig, "norm_placement", "after"),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD)
def test_a_value_out_of_its_range_is_refused_wherever_a_config_is_made(kind, name, value, tmp_path, capsys):
    for make in (lambda: kind(**{name: value}), lambda: dataclasses.replace(kind(), **{name: value})):
        with pytest.raises(ValidationError):
            make()
    with pytest.raises(ValueError, match=rf"^config\.json is damaged: {name}: .*, got "):
        from_stored(kind, {name: list(value) if isinstance(value, tuple) else value}, "config.json")
    # On the command line as well, and then nothing is written.
    command, preset = (train_cifar, "bn") if kind is CifarConfig else (train_ner, "random")
    values = [str(value[0])] if isinstance(value, tuple) else [str(value)]
    arguments = [preset, f"--{name.replace('_', '-')}", *values, "--run", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2 and not (tmp_path / "run").exists()
    said = capsys.readouterr()
    assert name.replace("_", "-") in said.err + said.out and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", "3"), ("epochs", 1.5), ("epochs", True), ("flip", 1), ("data", 3), ("decay_epochs", 3)]
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"somewhere is damaged: {name}: "):
        from_stored(CifarConfig, {name: value}, "somewhere")


def test_what_is_stored_comes_back_and_what_came_later_has_its_default():
    for config in [config for _, config in (*CIFAR_PRESETS.values(), *NER_PRESETS.values())]:
        assert from_stored(type(config), dataclasses.asdict(config), "there") == config
    assert from_stored(CifarConfig, {"seed": 3, "gone": 1}, "there") == CifarConfig(seed=3)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_every_seed_that_is_admitted_works(seed):
    import jax
    import numpy as np

    CifarConfig(seed=seed)
    jax.random.key(seed)
    assert np.uint32(seed) == seed
