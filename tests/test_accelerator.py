"""What is run where there is an accelerator runs here, small; each command ends in its time and leaves what it has."""

import json
import time

import numpy as np
import pytest

from colnorm.files import read_json
from experiments import accelerator, correctness, summary
from experiments.accelerator import Step


def test_a_command_ends_or_is_stopped_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "PATIENCE", 0.5)
    (tmp_path / "work.py").write_text(
        "import os, sys, time\nprint('begun', flush=True)\n"
        "if sys.argv[1] == 'wrong': sys.exit('error: it went wrong')\n"
        "if sys.argv[1] == 'killed': os.kill(os.getpid(), 9)\n"
        "if sys.argv[1] == 'long': time.sleep(60)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}

    def run(what, seconds=30.0):
        began = time.monotonic()
        ended = accelerator.run_step(Step(f"{what}.json", ["work", what], environment), seconds, tmp_path / "log")
        assert time.monotonic() - began < 20
        return ended["status"]

    assert run("well") == "done" and (tmp_path / "log" / "work-well.txt").read_text() == "begun\n"
    assert run("wrong") == "failed: it went wrong"
    assert run("killed") == "failed: killed by SIGKILL"
    assert run("long", 3.0) == "stopped: its time was over"
    assert run("well", 0.4) == "no time was left"


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path, monkeypatch, capsys):
    calls = []

    def run_step(step, seconds, log):
        calls.append(step.arguments[0].rpartition(".")[2])
        (tmp_path / (step.result or "study")).touch()
        return {"status": "failed: error: no" if step.result == "crf.json" and len(calls) < 9 else "done", "seconds": 1.0}

    monkeypatch.setattr(accelerator, "run_step", run_step)
    assert accelerator.main(["--output", str(tmp_path)]) == 1
    assert "experiments.benchmarks.crf: failed: error: no" in capsys.readouterr().err
    assert calls == ["correctness", "correctness", "normalization", "recurrent", "crf", "training", "epoch", "seeds"]
    del calls[:]
    calls += [""] * 9
    assert accelerator.main(["--output", str(tmp_path)]) == 0
    assert calls[9:] == ["crf", "seeds"]  # the study itself knows what it has


def test_stages_get_what_those_before_leave(tmp_path, monkeypatch):
    given = {}

    def run_step(step, seconds, log):
        given.setdefault(step.arguments[0], seconds)
        return {"status": "done", "seconds": 0.0}

    monkeypatch.setattr(accelerator, "run_step", run_step)
    assert accelerator.main(["--output", str(tmp_path), "--minutes", "10"]) == 0
    assert given["experiments.correctness"] == pytest.approx(120, abs=2)
    assert given["experiments.seeds"] == pytest.approx(600, abs=5)  # nothing took time
    rows = accelerator.plan(accelerator.Command(data_dir="there"))["study"](300.0)[0].arguments
    assert rows[1:8] == ["nn", "bn", "in", "bin", "ln", "gn", "flax_bn"]
    assert rows[-2:] == ["--data-dir", "there"] and "4.67" in rows


@pytest.mark.slow
def test_everything_at_toy_size(tmp_path, capsys):
    """Without PyTorch the benchmarks say so, and all else goes on."""
    command = ["--toy", "--output", str(tmp_path), "--seeds", "1", "--minutes", "15"]
    status = accelerator.main(command)
    report = {step["result"] or "study": step for step in read_json(tmp_path / "accelerator.json")["steps"]}
    done = {name for name, step in report.items() if step["status"] == "done"}
    assert {"reference.npz", "correctness.json", "epoch.json", "study"} <= done, report
    for name in report.keys() - done:
        assert "missing" in report[name]["status"], report
    assert status == (0 if len(done) == len(report) else 1)
    rows = read_json(tmp_path / "correctness.json")["rows"]
    assert rows["viterbi"] == {"error": 0.0, "whole_numbers_that_differ": 0} and "BatchNorm, mask" in rows
    epochs = read_json(tmp_path / "epoch.json")["rows"]
    assert epochs.keys() == {"gn, 1 seed at once", "random"} and all(row["ms_a_step"] > 0 for row in epochs.values())
    record = summary.read(tmp_path / "study" / "records" / "gn-seed0.json")
    assert len(record["history"]) == 5 and record["evaluation"]["splits"]["test"]["accuracy"] > 0.5


# -------------------------------------------------------------------------------------------------------- correctness


def test_a_comparison_finds_what_differs():
    one = {"y": np.array([1.0, 2.0], np.float32), "tags": np.array([1, 2])}
    assert correctness.compare(one, one) == {"error": 0.0, "whole_numbers_that_differ": 0}
    other = {"y": np.array([1.0, 2.02], np.float32), "tags": np.array([1, 3])}
    found = correctness.compare(one, other)
    assert found["error"] == pytest.approx(0.01, rel=1e-2) and found["whole_numbers_that_differ"] == 1
    assert correctness.agrees(correctness.compare(one, one)) and not correctness.agrees(found)
    for wrong in ({"y": one["y"]}, one | {"y": np.array([np.nan, 2.0])}, one | {"y": np.ones(3)}):
        assert not correctness.agrees(correctness.compare(one, wrong))


@pytest.mark.slow
def test_cases_are_compared_with_a_file_and_differences_are_an_error(tmp_path, capsys):
    saved, output = tmp_path / "saved.npz", tmp_path / "compared.json"
    chosen = ["--cases", "score", "InstanceNorm,"]
    assert correctness.main(["--save", str(saved), *chosen]) == 0
    assert correctness.main(["--reference", str(saved), "--output", str(output), *chosen]) == 0
    assert json.loads(output.read_text())["rows"].keys() == {"score", "InstanceNorm, mask"}
    with np.load(saved) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = next(name for name in arrays if name.startswith("score"))
    np.savez(saved, **arrays | {name: arrays[name] * 1.1})
    assert correctness.main(["--reference", str(saved), *chosen]) == 1
    assert "1 of 2 cases differ: score" in capsys.readouterr().err
    saved.write_bytes(b"nothing")
    assert correctness.main(["--reference", str(saved), *chosen]) == 1
    assert "saved.npz is no file that --save wrote" in capsys.readouterr().err
    assert correctness.main(["--cases", "nothing"]) == 1
    assert "no case begins with nothing" in capsys.readouterr().err
