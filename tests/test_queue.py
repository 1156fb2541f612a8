"""The study in the background: a real one in a clone, paused, continued, its finished row committed and nothing else."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from experiments import queue

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def wait_until(condition, what):
    for _ in range(1800):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come")


def states(directory):
    """The states that ps gives the queue's processes."""
    members = ",".join(map(str, queue.family(queue.running(directory))))
    return subprocess.run(["ps", "-o", "stat=", "-p", members], capture_output=True, text=True).stdout.split()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository of today's files with one commit, in which the study is empty."""
    target = tmp_path / "clone"
    for folder in ("colnorm", "experiments"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (target / ".gitignore").write_text("runs/\n__pycache__/\n")
    monkeypatch.chdir(target)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "someone")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "someone@example.org")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *command], check=True)
    return target


def test_a_row_is_trained_while_the_checkout_is_worked_on_and_committed_alone(clone, capsys):
    directory = Path("runs/queue")
    for action in ("pause", "continue", "stop"):
        assert queue.main([action]) == 1
    assert capsys.readouterr().err.count("error: no queue runs in runs/queue") == 3
    assert queue.main(["start", "--scale", "demo", "--rows", "nn", "--seeds", "1", "--jobs", "1"]) == 0
    assert queue.main(["start"]) == 1 and "runs already" in capsys.readouterr().err
    # An edit that must not reach it: no training with it would begin.
    (clone / "experiments" / "train.py").write_text("raise ValueError")
    subprocess.run(["git", "add", "experiments"], check=True)
    log = directory / "study" / "runs" / "nn-seed0" / "metrics.jsonl"
    wait_until(log.exists, "the first epoch")
    assert queue.main(["pause"]) == 0
    wait_until(lambda: all(state.startswith("T") for state in states(directory)), "the pause")
    assert len(states(directory)) >= 3  # the queue, reproduce, the training
    assert queue.main(["continue"]) == 0 and queue.main(["status"]) == 0
    assert "[1/1] nn, seed 0: no normalization" in capsys.readouterr().out
    # Stopped, none of them is left; begun again, the row goes on from its last epoch, from the same commit.
    members = queue.family(queue.running(directory))
    assert queue.main(["stop"]) == 0
    wait_until(lambda: not any(Path(f"/proc/{member}").exists() for member in members), "the stop")
    assert queue.main(["start", "--scale", "demo", "--rows", "nn", "--seeds", "1", "--jobs", "1"]) == 0
    wait_until(lambda: queue.running(directory) is None, "the end")
    subjects = subprocess.run(["git", "log", "--format=%s"], capture_output=True, text=True).stdout.splitlines()
    assert subjects == ["The study: nn, seed 0", "begin"]
    changed = subprocess.run(["git", "show", "--name-only", "--format="], capture_output=True, text=True).stdout.split()
    assert "results/study/records/nn-seed0.json" in changed and all(name.startswith("results/study/") for name in changed)
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], capture_output=True, text=True).stdout.split()
    assert staged == ["experiments/train.py"]  # the user's own stays staged


def test_a_record_that_the_checkout_has_stays(tmp_path):
    """A row may have been trained anew there, under another preset, while the queue held the old record."""
    source, target = tmp_path / "queue", tmp_path / "checkout"
    for folder, texts in ((source, {"old": "of before", "new": "finished"}), (target, {"old": "trained anew"})):
        (folder / "records").mkdir(parents=True)
        for name, text in texts.items():
            (folder / "records" / f"{name}.json").write_text(text)
    queue.copy_study(source, target, replace=False)
    kept = {path.stem: path.read_text() for path in (target / "records").iterdir()}
    assert kept == {"old": "trained anew", "new": "finished"}
    queue.copy_study(target, source, replace=True)  # what a queue that is started again takes over
    assert (source / "records" / "old.json").read_text() == "trained anew"
