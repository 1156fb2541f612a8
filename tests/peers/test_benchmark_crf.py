"""The CRF's benchmark compares what it times, says what it measured, and draws it."""

import dataclasses
import json

import pytest
from benchmark_cases import check_rows

pytest.importorskip("torch")
pytest.importorskip("torchcrf")
pytest.importorskip("torch_struct")

# After the checks for the peers, which they import.
from experiments.benchmarks import crf as benchmark_crf
from experiments.benchmarks import crf_grid, harness
from experiments.benchmarks.crf_grid import WORKS

SMALL = ["--shapes", "3", "5", "7", "--repeats", "1", "--ragged"]


def test_all_sides_are_timed(tmp_path, capsys):
    assert benchmark_crf.main([*SMALL, "--output", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    sides = {name: list(row) for name, row in measured["rows"].items()}
    assert sides["(3, 5, 7) loss + gradient"] == ["colnorm", "pytorch-crf", "torch-struct", "colnorm, BIO"]
    assert sides["(3, 5, 7) functions"][:2] == ["forward", "forward, mask as lengths"]
    check_rows(measured["rows"])
    assert "torch-struct" in capsys.readouterr().out


def test_the_grid_holds_what_fits_and_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(crf_grid.LIMITS, "pytorch-crf", 3 * 4 * 5**2)
    arguments = ["--tags", "2", "5", "--lengths", "3", "4", "--batches", "1", "3", "--repeats", "1"]
    output, plot = tmp_path / "grid.json", tmp_path / "grid.png"
    assert crf_grid.main([*arguments, "--struct", "--output", str(output), "--plot", str(plot)]) == 0
    cells = json.loads(output.read_text())["cells"]
    assert len(cells) == 8 and all({"colnorm", "pytorch-crf", "torch-struct"} < set(cells["(3, 4, 5)"][work]) for work in WORKS)
    assert plot.stat().st_size > 10_000
    monkeypatch.setitem(crf_grid.LIMITS, "pytorch-crf", 3 * 4 * 5**2 - 1)
    monkeypatch.setitem(crf_grid.LIMITS, "torch-struct", 0)
    assert crf_grid.main([*arguments, "--output", str(output)]) == 0
    assert "(3, 4, 5)" not in json.loads(output.read_text())["cells"]


def one_tag_raised(inputs):
    emissions = inputs.emissions.copy()
    emissions[..., 0] += 0.1  # of all tags it would change nothing
    return dataclasses.replace(inputs, emissions=emissions)


def one_word_fewer(inputs):
    lengths = inputs.lengths.copy()
    lengths[1:] -= 1  # torch-struct needs one of the whole length
    return dataclasses.replace(inputs, lengths=lengths)


@pytest.mark.parametrize("name", ["pytorch_crf", "torch_struct"])
@pytest.mark.parametrize("change", [one_tag_raised, one_word_fewer])
def test_another_function_is_not_timed(monkeypatch, name, change):
    make = getattr(benchmark_crf, name)
    monkeypatch.setitem(benchmark_crf.PEERS, name.replace("_", "-"), lambda inputs: make(change(inputs)))
    with pytest.raises(AssertionError, match="has another loss or gradient"):
        benchmark_crf.main(SMALL)


def test_peers_that_are_missing_are_named(monkeypatch, capsys):
    monkeypatch.setattr(harness, "find_spec", lambda name: None if name == "torchcrf" else name)
    assert benchmark_crf.main(SMALL) == 1
    assert "torchcrf missing" in capsys.readouterr().err
