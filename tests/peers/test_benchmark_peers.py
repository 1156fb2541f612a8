"""The benchmark compares what it times: it runs, writes what it measured, and stops where the two sides differ."""

import json

import pytest

torch = pytest.importorskip("torch")

pytest.importorskip("torchcrf")

# After the check for PyTorch, which they import.
from experiments import benchmark_tagger, benchmark_training, torch_resnet, torch_tagger  # noqa: E402

SMALL = ["--n", "1", "--batch-size", "4", "--repeats", "1", "--devices", "2"]


def test_the_training_benchmark_times_both_sides(tmp_path, capsys):
    assert benchmark_training.main([*SMALL, "--output", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert list(measured["rows"]) == ["batch 4"]
    sides = measured["rows"]["batch 4"]
    assert list(sides) == ["colnorm, 1 device", "colnorm, 2 devices", "torch, channels last", "torch, contiguous"]
    assert all(row["median_ms"] > 0 and row["first_call_s"] > 0 for row in sides.values())
    assert measured["machine"]["torch"] == torch.__version__
    assert "torch, channels last" in capsys.readouterr().out


def test_the_training_benchmark_draws_the_batch_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_training, "CURVE", (2, 4))
    assert benchmark_training.main([*SMALL, "--plain", "--curve", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_training_benchmark_refuses_to_time_another_function(monkeypatch):
    forward = torch_resnet.TorchResNet.forward
    monkeypatch.setattr(torch_resnet.TorchResNet, "forward", lambda self, images: 1.01 * forward(self, images))
    with pytest.raises(AssertionError, match="computes something else than PyTorch"):
        benchmark_training.main(SMALL)


TAGGER = ["--batch-size", "4", "--hidden", "5", "--steps", "2", "--buckets", "1"]


def test_the_tagger_benchmark_times_both_sides(tmp_path, capsys):
    assert benchmark_tagger.main([*TAGGER, "--output", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert list(measured["rows"]) == ["colnorm", "PyTorch"]
    assert all(row["tokens_per_second"] > 0 for row in measured["rows"].values())
    assert measured["rows"]["PyTorch"]["speed_to_torch"] == 1
    assert "PyTorch" in capsys.readouterr().out


def test_the_tagger_benchmark_refuses_to_time_another_function(monkeypatch):
    forward = torch_tagger.TorchTagger.forward
    monkeypatch.setattr(torch_tagger.TorchTagger, "forward", lambda self, batch: 1.01 * forward(self, batch))
    with pytest.raises(AssertionError, match="compute different losses"):
        benchmark_tagger.main([*TAGGER, "--no-characters"])
