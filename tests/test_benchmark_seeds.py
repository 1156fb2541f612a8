"""The benchmark of seeds under ``vmap``: it times both sides, and stops where they compute different things."""

import json

import numpy as np
import pytest

from experiments import benchmark_seeds


def test_it_times_seeds_together_and_one_after_another(tmp_path, capsys):
    output = tmp_path / "seeds.json"
    assert benchmark_seeds.main(["--seeds", "2", "--batch-size", "2", "--repeats", "1", "--output", str(output)]) == 0
    measured = json.loads(output.read_text())
    assert list(measured["rows"]) == ["ResNet-14 bn, 2 seeds", "BiLSTM tagger, 2 seeds"]
    for sides in measured["rows"].values():
        assert list(sides) == ["one after another", "together, vmap"]
        assert all(row["median_ms"] > 0 for row in sides.values())
    assert "together, vmap" in capsys.readouterr().out


def test_sides_that_part_after_an_update_are_not_timed():
    first = {"one after another": np.ones(2), "together, vmap": np.ones(2)}
    same = dict.fromkeys(first, lambda: np.full(2, 0.9))
    assert benchmark_seeds.check_losses(same, first) == {}
    with pytest.raises(AssertionError, match="something else than alone"):
        benchmark_seeds.check_losses({**same, "together, vmap": lambda: np.array([0.9, 0.91])}, first)
