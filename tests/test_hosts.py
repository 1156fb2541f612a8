"""Several processes as one training: what each of them says, and a training of two that is split, stopped and gone on with."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from colnorm import hosts
from colnorm.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
# A tagger that compiles in seconds. Its sums are over sentences: of two parts instead of one they round differently.
SMALL = ["random", "--hidden", "4", "--word-features", "4", "--buckets", "1", "--head", "softmax", "--patience", "None"]
SMALL = [*SMALL, "--learning-rate", "0.1", "--batch-size", "200"]
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


# ------------------------------------------------------------------------------------------------------------ one process


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "here:1234"}, "go together; missing: --processes, --process-id"),
        ({"processes": 2, "process_id": 0}, "missing: --coordinator"),
        ({"coordinator": "here", "processes": 2, "process_id": 0}, "must be host:port, got 'here'"),
        ({"coordinator": "here:1234", "processes": 2, "process_id": 2}, "got 2 of 2"),
        ({"coordinator": "here:1234", "processes": 0, "process_id": 0}, "got 0 of 0"),
        ({"coordinator": "here:1234", "processes": 2, "process_id": -1}, "got -1 of 2"),
    ],
)
def test_flags_are_checked(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hosts.Launch(**given).join()


def test_one_process_is_alone(monkeypatch):
    for name in ("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    hosts.ALONE.join()
    assert not hosts.several() and hosts.is_first()
    tree = {"x": np.ones(2)}
    assert hosts.share(tree) is tree
    assert hosts.agree(lambda: tree) is tree
    assert hosts.together(lambda: tree) is tree
    hosts.check_same({"a": 1}, [tree])
    hosts.leave(1, "")  # ends nothing
    with pytest.raises(ValueError, match="Gloo"), hosts.watched():  # whatever it is, it is not another process
        raise ValueError("Gloo")


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "a1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "8"}, False),  # an allocation, in which nothing was started by srun
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
    ],
)
def test_launchers_say_whether_there_are_others(monkeypatch, variables, launched):
    for name in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda *given, **_: joined.append(given))
    for name in ("_catch_abort", "_connect"):
        monkeypatch.setattr(hosts, name, lambda: None)
    hosts.ALONE.join()
    assert joined == ([(None, None, None)] if launched else [])


# ---------------------------------------------------------------------------------------------------------- two processes


@dataclasses.dataclass
class Started:
    """The processes of a training, and what each has said so far."""

    processes: list
    outputs: list

    def end(self, seconds=240):
        """Their exit statuses, standard outputs and errors."""
        results = []
        for process, (out, err) in zip(self.processes, self.outputs, strict=True):
            status = process.wait(seconds)
            results.append((status, out.read_text(), err.read_text()))
        return results

    def wait_for(self, text, seconds=240):
        """Until process 0 has said ``text``."""
        until = time.monotonic() + seconds
        while text not in self.outputs[0][0].read_text():
            assert time.monotonic() < until and self.processes[0].poll() is None, self.outputs[0][1].read_text()
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path):
    """Starts two processes of a training command, which may be given options of their own."""
    started = []

    def run(*options, own=((), ()), processes=2):
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        result = Started([], [])
        for number in range(processes):
            folder = tmp_path / f"{len(started)}-{number}"
            folder.mkdir()
            out, err = folder / "out", folder / "err"
            result.outputs.append((out, err))
            flags = ["--coordinator", f"localhost:{port}", "--processes", str(processes), "--process-id", str(number)]
            command = [
                sys.executable,
                "-m",
                "experiments.train",
                *SMALL,
                *options,
                *own[number],
                *(flags if processes > 1 else []),
            ]
            with out.open("w") as stdout, err.open("w") as stderr:
                process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=stdout, stderr=stderr)
            result.processes.append(process)
        started.append(result)
        return result

    yield run
    for result in started:
        for process in result.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()


def metrics(path):
    """The numbers of each epoch that don't depend on the clock."""
    kept = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_micro_f1")
    return [[record[name] for name in kept] for record in RunDirectory.open(path).history()]


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_as_one(start, tmp_path):
    """Streamed or not, and a checkpoint of two processes with two devices each is one of a single device."""
    [(status, _, err)] = start("--run", "one", "--epochs", "3", "--devices", "1", processes=1).end()
    assert status == 0, err
    expected = metrics(tmp_path / "one")
    assert len(expected) == 3 and expected[0][1] > expected[2][1]
    for name, options in (("two", ["--devices", "2"]), ("streamed", ["--devices", "1", "--stream"])):
        ended = start("--run", name, "--epochs", "2", *options).end()
        assert [status for status, *_ in ended] == [0, 0], ended
        assert "of 2 processes" in ended[0][1] and ended[1][1] == ""  # process 0 alone says how it goes
        np.testing.assert_allclose(metrics(tmp_path / name), expected[:2], **CLOSE)
        assert not (tmp_path / name / "damaged").exists()
    [(status, out, err)] = start("--run", "two", "--epochs", "3", "--devices", "1", "--resume", processes=1).end()
    assert status == 0 and "going on after epoch 2" in out, err
    np.testing.assert_allclose(metrics(tmp_path / "two"), expected, **CLOSE)
    # and one of a single device is one of two processes
    ended = start("--run", "one", "--epochs", "4", "--devices", "1", "--resume").end()
    assert [status for status, *_ in ended] == [0, 0] and "going on after epoch 3" in ended[0][1], ended
    assert len(metrics(tmp_path / "one")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "own", "messages"),
    [
        (["--run", "there"], ((), ()), ["there exists and is not a run directory", "process 0: "]),
        (["--run", "r"], ((), ("--data", "nowhere")), ["process 1: ", "nowhere"]),
        (["--run", "r"], ((), ("--hidden", "5")), ["process 0 and process 1 were not given the same: hidden 4 and 5"] * 2),
        (["--run", "r", "--batch-size", "201"], ((), ()), ["a batch of 201 can't be split evenly over 2 devices"] * 2),
        (["--run", "r", "--resume"], ((), ()), ["r is not a run directory", "process 0: "]),
    ],
)
def test_what_is_wrong_with_one_is_told_by_both(start, tmp_path, options, own, messages):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    started = time.monotonic()
    ended = start("--devices", "1", *options, own=own).end()
    for (status, _, err), message in zip(ended, messages, strict=True):
        assert status == 1 and message in err, ended
        assert err.count("\n") == 1 and err.startswith("error: "), err
    assert time.monotonic() - started < 200
    assert not (tmp_path / "r").exists() and os.listdir(tmp_path / "there") == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_end_of_one_is_the_end_of_both_and_resume_goes_on(start, tmp_path, victim, how):
    """Killed or no longer answering: the other says so within a minute, and what was stored goes on."""
    running = start("--run", "run", "--epochs", "500", "--devices", "1")
    running.wait_for("epoch   2/500")
    running.processes[victim].send_signal(how)
    began = time.monotonic()
    assert running.processes[1 - victim].wait(60) == 1
    assert time.monotonic() - began < 60
    said = running.outputs[1 - victim][1].read_text()
    assert said.rstrip().splitlines()[-1].startswith(f"error: {hosts.LOST}") and "--resume" in said, said
    running.processes[victim].kill()
    running.processes[victim].wait()
    done = len(metrics(tmp_path / "run"))
    ended = start("--run", "run", "--epochs", str(done + 1), "--devices", "1", "--resume").end()
    assert [status for status, *_ in ended] == [0, 0], ended
    stored = RunDirectory.open(tmp_path / "run")
    assert len(stored.history()) == done + 1 == stored.epochs()[-1]
    assert json.loads((tmp_path / "run" / "machine.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(start):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        flags = ["--coordinator", address, "--processes", "2", "--process-id", "0", "--run", "r"]
        [(status, _, err)] = start(*flags, processes=1).end()
    assert status == 1 and err.splitlines()[-1].startswith("error: the processes of the training don't find each other"), err
