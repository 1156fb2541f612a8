"""A tagger in one file: the same tags, damage that is named, and the command that lists, packs and uses it."""

import json
import random

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tagger_cases import make_tagger

from colnorm import cli, model_file, predict
from colnorm.run_directory import RunDirectory

TEXT = "Mr. Obama flew to Paris on Monday. It rained there."
ABOUT = {"what": "entities of nothing", "licence": "MIT", "seed": 0}


@pytest.fixture(scope="module")
def predictor():
    fields, encoder, params = make_tagger()
    return predict.Predictor(encoder, fields, params, temperature=1.5)


@pytest.fixture(scope="module")
def stored(predictor, tmp_path_factory):
    return model_file.save(tmp_path_factory.mktemp("model") / "tagger.safetensors", predictor, ABOUT)


def test_a_file_holds_the_tagger(stored, predictor, tmp_path):
    loaded = model_file.load(stored)
    assert (loaded.fields, loaded.encoder, loaded.temperature) == (predictor.fields, predictor.encoder, 1.5)
    assert model_file.describe(stored) == ABOUT
    for ours, theirs in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(predictor.params), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs, np.float16))
    for ours, theirs in zip(loaded.tag(TEXT), predictor.tag(TEXT), strict=True):
        assert ours.tags == theirs.tags
        for one, other in zip(ours.entities, theirs.entities, strict=True):
            assert one.posterior == pytest.approx(other.posterior, abs=0.02)
    whole = model_file.load(model_file.save(tmp_path / "whole.safetensors", predictor, {}, half=False))
    jax.tree.map(np.testing.assert_array_equal, whole.params, jax.tree.map(np.asarray, predictor.params))
    assert whole.tag(TEXT) == predictor.tag(TEXT)


def test_no_flipped_bit_goes_unnoticed(stored, tmp_path):
    raw, rng = stored.read_bytes(), random.Random(0)
    path = tmp_path / "damaged.safetensors"
    for number in range(60):
        place = rng.randrange(len(raw) if number % 2 else 3000)
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :])
        with pytest.raises(ValueError, match=r"damaged\.safetensors") as caught:
            model_file.load(path)
        assert "\n" not in str(caught.value)[:200]
    for size in (0, 7, 8, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged: expected safetensors"):
            model_file.load(path)


def test_what_is_no_model_is_refused(stored, predictor, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors holds no tagger of colnorm: its format is 'None'"):
        model_file.load(path)
    with safe_open(stored, framework="numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays, path, {**header, "version": "2"})
    with pytest.raises(ValueError, match=r"of another version of colnorm: format '2', known is 1"):
        model_file.load(path)
    save_file({**arrays, "extra": np.zeros(1)}, path, header)
    with pytest.raises(ValueError, match="is damaged: it is not what was written"):
        model_file.load(path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: expected the file of a tagger"):
        model_file.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"a path that ends in \.safetensors"):
        model_file.save(tmp_path / "tagger.bin", predictor, {})
    large = predict.Predictor(predictor.encoder, predictor.fields, jax.tree.map(lambda leaf: leaf + 1e6, predictor.params))
    with pytest.raises(ValueError, match="expected finite numbers in"):
        model_file.save(path, large, {})


def test_the_command_tags_with_a_file_and_says_what_it_is(stored, predictor, capsys):
    assert cli.main(["tag", "--model", str(stored), "--format", "json", TEXT]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(line["tags"]) for line in lines] == [sentence.tags for sentence in model_file.load(stored).tag(TEXT)]
    assert cli.main(["models", str(stored)]) == 0
    assert "licence: MIT" in capsys.readouterr().out
    assert cli.main(["tag", "--model", "nowhere", TEXT]) == 1
    assert "nowhere: expected a model of " in capsys.readouterr().err


def test_the_command_knows_its_commands(capsys):
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"colnorm {name}" in told for name in cli.COMMANDS)
    assert cli.main([]) == 2 and "which command?" in capsys.readouterr().err
    assert cli.main(["fly"]) == 2 and "no command 'fly'" in capsys.readouterr().err
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as exit:
            cli.main([name, "--help"])
        assert exit.value.code == 0 and f"colnorm {name}" in capsys.readouterr().out


def test_only_an_evaluated_run_is_packed(tmp_path, capsys):
    RunDirectory.create(tmp_path / "run", "tagging", {}).close()
    assert cli.main(["pack", str(tmp_path / "run"), str(tmp_path / "a.safetensors")]) == 1
    assert "is not evaluated" in capsys.readouterr().err
