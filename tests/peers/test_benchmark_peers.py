"""The benchmark compares what it times: it runs, writes what it measured, and stops where the two sides differ."""

import json

import jax
import numpy as np
import pytest
from benchmark_cases import check_rows

torch = pytest.importorskip("torch")

pytest.importorskip("torchcrf")

# After the check for PyTorch, which they import.
from experiments.benchmarks import normalization as benchmark_normalization  # noqa: E402
from experiments.benchmarks import recurrent as benchmark_recurrent  # noqa: E402
from experiments.benchmarks import tagger as benchmark_tagger  # noqa: E402
from experiments.benchmarks import training as benchmark_training  # noqa: E402
from experiments.benchmarks.peers import recurrent as torch_recurrent  # noqa: E402
from experiments.benchmarks.peers import resnet as torch_resnet  # noqa: E402
from experiments.benchmarks.peers import tagger as torch_tagger  # noqa: E402

SMALL = ["--n", "1", "--batch-size", "4", "--repeats", "1", "--devices", "2"]


def test_the_training_benchmark_times_both_sides(tmp_path, capsys):
    assert benchmark_training.main([*SMALL, "--output", str(tmp_path / "measured.json")]) == 0
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert list(measured["rows"]) == ["batch 4"]
    sides = measured["rows"]["batch 4"]
    assert list(sides) == ["colnorm, 1 device", "colnorm, 2 devices", "torch, channels last", "torch, contiguous"]
    check_rows(measured["rows"])
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
    ours, theirs = (measured["rows"][name] for name in ("colnorm", "PyTorch"))
    assert theirs["speed_to_torch"] == 1
    speeds = ours["tokens_per_second"] / theirs["tokens_per_second"]
    assert ours["speed_to_torch"] == pytest.approx(speeds, rel=0.1, abs=0.01)  # both are rounded
    assert "PyTorch" in capsys.readouterr().out


def test_the_tagger_benchmark_refuses_to_time_another_function(monkeypatch):
    forward = torch_tagger.TorchTagger.forward
    monkeypatch.setattr(torch_tagger.TorchTagger, "forward", lambda self, batch: 1.01 * forward(self, batch))
    with pytest.raises(AssertionError, match="compute different losses"):
        benchmark_tagger.main([*TAGGER, "--no-characters"])


RECURRENT = ["--sizes", "3x4x5x6", "--repeats", "1"]


def test_the_recurrent_benchmark_times_both_sides(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_recurrent, "SWEEPS", {"steps T": ((2, "3x2x5x6"), (4, "3x4x5x6"))})
    output, picture = tmp_path / "measured.json", tmp_path / "measured.png"
    arguments = [*RECURRENT, "--ragged", "--output", str(output), "--plot", str(picture)]
    assert benchmark_recurrent.main(arguments) == 0
    measured = json.loads(output.read_text())
    assert list(measured["rows"]) == [f"{kind} 3x4x5x6" for kind in ("plain", "gates", "output")]
    assert list(measured["rows"]["plain 3x4x5x6"]) == ["torch.nn.LSTM", "colnorm"]
    assert list(measured["rows"]["gates 3x4x5x6"]) == ["PyTorch, a loop", "colnorm", "colnorm, plain LSTM"]
    check_rows(measured["rows"])
    assert list(measured["sweeps"]["steps T"]) == ["2", "4"]
    assert picture.stat().st_size > 0
    assert "torch.nn.LSTM" in capsys.readouterr().out


@pytest.mark.parametrize("kind, peer", [("plain", "TorchLSTM"), ("output", "TorchLayerNormLSTM")])
def test_the_recurrent_benchmark_refuses_to_time_another_function(kind, peer, monkeypatch):
    forward = getattr(torch_recurrent, peer).forward
    monkeypatch.setattr(getattr(torch_recurrent, peer), "forward", lambda self, *inputs: 1.01 * forward(self, *inputs))
    with pytest.raises(AssertionError, match="computes something else"):
        benchmark_recurrent.main([*RECURRENT, "--kinds", kind])


@pytest.fixture
def flax_may_promote():
    """Flax's own layers mix ranks and dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


NORMALIZATION = ["--sizes", "3x4x5x8", "--repeats", "1"]


def test_the_normalization_benchmark_times_all_sides(tmp_path, capsys, flax_may_promote):
    output = tmp_path / "measured.json"
    assert benchmark_normalization.main([*NORMALIZATION, "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert list(rows) == [f"{kind} 3x4x5x8" for kind in benchmark_normalization.KINDS]
    check_rows(rows)
    for sides in rows.values():
        assert list(sides) == ["colnorm", "flax", "torch, channels last", "torch, contiguous"]
    assert "torch, contiguous" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_the_normalization_benchmark_refuses_to_time_another_function(wrong, monkeypatch, flax_may_promote):
    """An output, a gradient of x, a gradient of a parameter."""
    ours = benchmark_normalization._jax_side

    def off(*arguments):
        side = ours(*arguments)

        def run():
            results = list(side())
            results[wrong] = jax.tree.map(lambda value: np.multiply(value, np.float32(1.01)), results[wrong])
            return tuple(results)

        return run

    monkeypatch.setattr(benchmark_normalization, "_jax_side", off)
    with pytest.raises(AssertionError, match="computes something else"):
        benchmark_normalization.main([*NORMALIZATION, "--kinds", "group"])


def test_the_prediction_benchmark_times_every_side(tmp_path, capsys):
    pytest.importorskip("spacy")
    from experiments.benchmarks import prediction

    output = tmp_path / "measured.json"
    assert prediction.main(["--sentences", "30", "--repeats", "1", "--output", str(output)]) == 0
    measured = json.loads(output.read_text())
    assert list(measured["rows"]) == ["colnorm, first time", *prediction.SIDES]
    assert measured["what"].startswith("30 sentences") and set(measured["ratios"]) == set(prediction.SIDES)
    for row in measured["rows"].values():
        assert row["first_answer_s"] > 0 and row["all_s"] > 0 and row["peak_mib"] > 50 and row["model_mb"] > 1
    assert "tokens a second" in capsys.readouterr().out


def test_the_prediction_benchmarks_peer_decodes_what_pytorch_crf_does():
    from tagger_cases import SENTENCES, make_tagger

    from colnorm.predict import Predictor

    fields, encoder, params = make_tagger(layers=1, layer_norm=None, shape_features=0, constrained=False)
    peer = torch_tagger.TorchTagger(fields)
    peer.load_flax(params)
    words = sorted(SENTENCES, key=len, reverse=True)
    arrays = encoder.encode(words, len(words[0]))
    with torch.inference_mode():
        found = peer.decode({name: torch.from_numpy(values.astype(np.int64)) for name, values in arrays.items()})
    tagged = Predictor(encoder, fields, params).tag(words)
    assert [[fields["tag_names"][tag] for tag in tags] for tags in found] == [list(sentence.tags) for sentence in tagged]
