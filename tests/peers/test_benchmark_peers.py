"""The benchmark compares what it times: it runs, writes what it measured, and stops where the two sides differ."""

import json

import pytest

torch = pytest.importorskip("torch")

from experiments import benchmark_training, torch_resnet  # noqa: E402  # after the check for PyTorch, which they import

SMALL = ["--n", "1", "--batch-size", "4", "--repeats", "1", "--devices", "2"]


def test_the_training_benchmark_times_both_sides(tmp_path, capsys):
    assert benchmark_training.main([*SMALL, "--output", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert list(measured["rows"]) == ["colnorm, 1 device", "colnorm, 2 devices", "torch, channels last", "torch, contiguous"]
    assert all(row["median_ms"] > 0 and row["first_call_s"] > 0 for row in measured["rows"].values())
    assert measured["machine"]["torch"] == torch.__version__
    assert "torch, channels last" in capsys.readouterr().out


def test_the_training_benchmark_refuses_to_time_another_function(monkeypatch):
    forward = torch_resnet.TorchResNet.forward
    monkeypatch.setattr(torch_resnet.TorchResNet, "forward", lambda self, images: 1.01 * forward(self, images))
    with pytest.raises(AssertionError, match="computes something else than PyTorch"):
        benchmark_training.main(SMALL)
