"""Runs that are killed or run out of disk, over and over: ``python tests/run_faults.py kill|disk|time DIRECTORY POINTS``.

A run here is what training does to its directory, without the training: four epochs with a checkpoint each. Every attempt is
made by a child process; after it another one resumes the run, ends it, and compares all that is stored with what it has to be.
Prints JSON: how many attempts there were, how many of them did hit, how many ended well, and what was said in the others.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optax

from colnorm.files import StorageError
from colnorm.run_directory import NAMES, RunDirectory, is_run
from colnorm.training import Monitor, TrainState

ACCURACIES = (0.5, 0.9, 0.6, 0.7)
MONITOR = Monitor("accuracy")


def make_state(epoch: int) -> TrainState:
    """A state whose every number depends on the epoch; 120 kB."""
    rng = np.random.default_rng(epoch)
    params = {name: {"kernel": rng.standard_normal((100, 100)).astype(np.float32)} for name in ("first", "second", "third")}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.sgd(0.1), seed=np.uint32(7))
    return state.replace(step=np.int32(epoch))


def work(path: Path) -> None:
    """What training does: begins the run or goes on with it, to its end."""
    begun = is_run(path) and (path / "metrics.jsonl").exists()
    run = RunDirectory.open(path, lock=True) if begun else RunDirectory.create(path, "toy", {"rate": 0.1}, overwrite=True)
    with run:
        state, history = run.resume(make_state(0)) if begun else (make_state(0), [])
        assert int(state.step) == len(history)
        if history:  # as colnorm.training.fit does
            run.prune(len(history), MONITOR.best_epoch(history))
        for epoch in range(len(history) + 1, len(ACCURACIES) + 1):
            history.append({"epoch": epoch, "accuracy": ACCURACIES[epoch - 1]})
            run.append(history[-1])
            run.save(make_state(epoch), epoch, MONITOR.best_epoch(history))


def finish(path: Path) -> None:
    """Ends the run, and looks at all that is there."""
    work(path)
    run = RunDirectory.open(path)
    assert run.history() == [{"epoch": n, "accuracy": a} for n, a in enumerate(ACCURACIES, 1)], run.history()
    assert run.epochs() == [2, 4], run.epochs()
    for epoch in run.epochs():
        restored = run.restore(make_state(0), epoch)
        for name, of_layer in make_state(epoch).params.items():
            np.testing.assert_array_equal(restored.params[name]["kernel"], of_layer["kernel"])
    assert {entry.name for entry in path.iterdir()} <= NAMES, list(path.iterdir())
    assert sorted(entry.name for entry in (path / "checkpoints").iterdir()) == ["2", "4"]


def child(action: Callable[[], Any], errors: Path, kill_after: float | None = None) -> int:
    """Runs an action in a forked process; returns its exit status, negative where a signal ended it."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            action()
            status = 0
        except StorageError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 3
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_at(number: int, path: Path) -> Callable[[], None]:
    """``work`` that is killed at its n-th operation on the run's files, as far as Python makes them."""

    def action() -> None:
        left = number

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event == "open":
                counted = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                counted = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
            if counted and str(path) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work(path)

    return action


def report(attempts: int, hit: int, well: int, other: list[str]) -> None:
    print(json.dumps({"attempts": attempts, "hit": hit, "well": well, "other": other[:5]}))


def kills(directory: Path, points: int, by_time: bool) -> None:
    """Kills at operations 1, 1 + every, ... or at random times; every second run a second time while it is resumed."""
    rng, attempts, hit, well = random.Random(0), 0, 0, 0
    other: list[str] = []
    errors = directory / "errors"
    began = time.monotonic()
    assert child(lambda: finish(directory / "whole"), errors) == 0, errors.read_text()
    whole = time.monotonic() - began
    number = 0
    ends = False
    while attempts < points and not ends:
        number += 1
        path = directory / f"run{number}"
        if by_time:
            hit += child(lambda path=path: work(path), errors, rng.uniform(0, whole)) == -signal.SIGKILL
        else:
            # Spread over all operations, which are about 90, where there are fewer points.
            at = number if points > 90 else 1 + (number - 1) * (90 // points)
            ends = child(killed_at(at, path), errors) != -signal.SIGKILL
            if ends:
                break
            hit += 1
        attempts += 1
        if number % 2:
            hit += child(killed_at(rng.randrange(1, 40), path), errors) == -signal.SIGKILL
            attempts += 1
        if child(lambda path=path: finish(path), errors) == 0:
            well += 1 + number % 2
        else:
            other.append(f"{number}: {errors.read_text()[-300:]}")
        shutil.rmtree(path, ignore_errors=True)
    report(attempts, hit, well, other)


def full_disks(directory: Path, points: int) -> None:
    """A file system of every size from too small for anything to large enough."""
    mounted, errors = directory / "disk", directory / "errors"
    mounted.mkdir()
    attempts, hit, well = 0, 0, 0
    other: list[str] = []
    for size in np.linspace(8, 700, points).astype(int):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(mounted)], check=True)
        try:
            attempts += 1
            status = child(lambda: work(mounted / "run"), errors)
            hit += status == 3
            said = errors.read_text()
            # Small or large: it ends well, or with one line that names a file.
            good = status == 0 or (status == 3 and said.startswith("error: could not write ") and said.count("\n") == 1)
            subprocess.run(["mount", "-o", "remount,size=100m", str(mounted)], check=True)
            good = good and child(lambda: finish(mounted / "run"), errors) == 0
            well += good
            if not good:
                other.append(f"{size} kB, status {status}: {said[-300:]} / {errors.read_text()[-300:]}")
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
    report(attempts, hit, well, other)


if __name__ == "__main__":
    what, place, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "disk":
        full_disks(place, count)
    else:
        kills(place, count, by_time=what == "time")
