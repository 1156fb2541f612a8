"""Configs have types and ranges, wherever they are made; what is wrong is named, and stops before anything is done."""

import dataclasses

import pytest
from pydantic import ValidationError

from colnorm.tasks.configs import TaggingConfig, from_stored
from experiments import train
from experiments.configs import ImageConfig
from experiments.presets import PRESETS

BAD = [
    (TaggingConfig, "dropout", 1.5),
    (TaggingConfig, "dropout", 1.0),
    (TaggingConfig, "dropout", -0.1),
    (TaggingConfig, "word_dropout", 2.0),
    (TaggingConfig, "average_decay", 1.0),
    (TaggingConfig, "hidden", 0),
    (TaggingConfig, "buckets", 0),
    (TaggingConfig, "vector_words", -1),
    (TaggingConfig, "min_count", 0),
    (ImageConfig, "label_smoothing", 5.0),
    (ImageConfig, "clip_global_norm", 0.0),
    (ImageConfig, "clip_global_norm", -1.0),
    (ImageConfig, "learning_rate", -0.1),
    (ImageConfig, "learning_rate", 0.0),
    (ImageConfig, "learning_rate", float("nan")),
    (ImageConfig, "learning_rate", float("inf")),
    (ImageConfig, "weight_decay", -1e-4),
    (ImageConfig, "momentum", 1.0),
    (ImageConfig, "decay_factor", 0.0),
    (ImageConfig, "decay_epochs", (0,)),
    (ImageConfig, "warmup_epochs", -1.0),
    (ImageConfig, "gate_multiplier", 0.0),
    (ImageConfig, "epochs", 0),
    (ImageConfig, "batch_size", 0),
    (ImageConfig, "patience", 0),
    (ImageConfig, "devices", 0),
    (ImageConfig, "n", 0),
    (ImageConfig, "num_groups", 3),
    (ImageConfig, "crop_padding", 32),
    (ImageConfig, "seed", 5_000_000_000),
    (ImageConfig, "seed", -1),
    (ImageConfig, "normalization", "batch"),
    (ImageConfig, "norm_placement", "after"),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD)
def test_a_value_out_of_its_range_is_refused_wherever_a_config_is_made(kind, name, value, tmp_path, capsys):
    for make in (lambda: kind(**{name: value}), lambda: dataclasses.replace(kind(), **{name: value})):
        with pytest.raises(ValidationError):
            make()
    with pytest.raises(ValueError, match=rf"^config\.json is damaged: {name}: .*, got "):
        from_stored(kind, {name: list(value) if isinstance(value, tuple) else value}, "config.json")
    # On the command line as well, and then nothing is written.
    preset = "bn" if kind is ImageConfig else "random"
    values = [str(value[0])] if isinstance(value, tuple) else [str(value)]
    arguments = [preset, f"--{name.replace('_', '-')}", *values, "--run", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert end.value.code == 2 and not (tmp_path / "run").exists()
    said = capsys.readouterr()
    assert name.replace("_", "-") in said.err + said.out and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", "3"), ("epochs", 1.5), ("epochs", True), ("flip", 1), ("data", 3), ("decay_epochs", 3)]
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"somewhere is damaged: {name}: "):
        from_stored(ImageConfig, {name: value}, "somewhere")


def test_what_is_stored_comes_back_and_what_came_later_has_its_default():
    for config in (preset.config for preset in PRESETS.values()):
        assert from_stored(type(config), dataclasses.asdict(config), "there") == config
    assert from_stored(ImageConfig, {"seed": 3, "gone": 1}, "there") == ImageConfig(seed=3)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_every_seed_that_is_admitted_works(seed):
    import jax
    import numpy as np

    ImageConfig(seed=seed)
    jax.random.key(seed)
    assert np.uint32(seed) == seed
