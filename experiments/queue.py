"""Trains what is left of the study in the background, best value first, while the checkout is worked on.

python -m experiments.queue start --data-dir DIR   # begins, or goes on from the last epoch of every row
python -m experiments.queue pause                  # before a benchmark; it costs no time then
python -m experiments.queue continue
python -m experiments.queue status
python -m experiments.queue stop

It runs at the lowest priority, from a worktree of its own at a fixed commit, so that edits don't reach it. The record of a
finished row is copied into results/study, the page there is written anew by the checkout's own code, and both are committed at
once; nothing else of the checkout is.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from colnorm import process
from colnorm.files import read_json, write_json
from experiments.presets import PRESETS
from experiments.reproduce import STUDY
from experiments.study import Scale

RESULTS = Path("results") / "study"  # of the checkout
KEPT = ("crf_cost.json", "records/*.json")
SECONDS = 20.0  # between looks at what is finished
RETRY = 600.0  # until the next try where the checkout can't be committed to


@dataclasses.dataclass(frozen=True)
class Command:
    """The study in the background."""

    do: Annotated[Literal["start", "pause", "continue", "stop", "status", "work"], tyro.conf.Positional]
    """work is what start leaves running."""
    data_dir: str | None = None
    """As of experiments.reproduce."""
    scale: Scale = "full"
    """Of rows that aren't begun."""
    rows: tuple[str, ...] = ()
    """Rows by name, or images, or tagging; all by default."""
    seeds: int = 2
    """Seeds of each row."""
    jobs: int = 2
    """Rows at a time."""
    directory: Path = Path("runs") / "queue"
    """Where the worktree, the runs and the log are."""
    commit: str | None = None
    """What to train from; that of the worktree where there is one, else HEAD."""


def start(command: Command) -> str:
    """Makes the worktree, takes over what the checkout has of the study, and leaves the training running.

    Raises:
      ValueError: it runs already, or there is no such commit.
    """
    if running(command.directory):
        raise ValueError(f"the queue in {command.directory} runs already (process {running(command.directory)})")
    directory = command.directory.resolve()
    tree, study = directory / "tree", directory / "study"
    directory.mkdir(parents=True, exist_ok=True)
    if not tree.exists():
        git("worktree", "prune")
        git("worktree", "add", "--detach", str(tree), command.commit or "HEAD")
    elif command.commit is not None:
        git("-C", str(tree), "checkout", "--detach", git("rev-parse", command.commit))
    copy_study(RESULTS, study, replace=True)
    arguments = ["work", "--directory", str(directory), "--scale", command.scale]
    arguments += ["--seeds", str(command.seeds), "--jobs", str(command.jobs)]
    arguments += [] if command.data_dir is None else ["--data-dir", str(Path(command.data_dir).resolve())]
    arguments += ["--rows", *command.rows] if command.rows else []
    # Begun by a shell that ends at once: nobody here waits for it, and the end of this terminal is not its end.
    begin = '"$@" >>"$LOG" 2>&1 </dev/null & echo $!'
    begun = subprocess.run(
        ["sh", "-c", begin, "sh", sys.executable, "-m", "experiments.queue", *arguments],
        env={**os.environ, "LOG": str(directory / "log")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    (directory / "process").write_text(begun.stdout.strip(), encoding="utf-8")
    return f"started from {git('-C', str(tree), 'log', '-1', '--format=%h %s')}; {directory / 'log'} says how far it is"


def work(command: Command) -> None:
    """Trains, and commits what each finished row came to, until all is done or SIGINT comes."""
    os.nice(19)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    study = command.directory / "study"
    arguments = ["--output", str(study), "--resume", "--seeds", str(command.seeds), "--jobs", str(command.jobs)]
    arguments += ["--scale", command.scale, *(["--data-dir", command.data_dir] if command.data_dir else [])]
    arguments += ["--rows", *command.rows] if command.rows else []
    training = subprocess.Popen([sys.executable, "-m", "experiments.reproduce", *arguments], cwd=command.directory / "tree")
    next_try = 0.0
    try:
        while training.poll() is None:
            time.sleep(SECONDS)
            if time.monotonic() > next_try and not commit_finished(study):
                next_try = time.monotonic() + RETRY
    except KeyboardInterrupt:
        training.send_signal(signal.SIGINT)
        training.wait()
    commit_finished(study)


def commit_finished(study: Path) -> bool:
    """Commits the records that the checkout has not, with the page; returns whether nothing is left to be committed."""
    names = sorted(path.name for path in (study / "records").glob("*.json"))
    new = [name for name in names if not git("ls-files", str(RESULTS / "records" / name))]
    if not new:
        return True
    rows = ", ".join(name.removesuffix(".json").replace("-seed", ", seed ") for name in new)
    copy_study(study, RESULTS, replace=False)  # a row may have been trained anew there, under another preset
    page = [sys.executable, "-m", "experiments.reproduce", "--page-only", "--output", str(RESULTS)]
    try:
        written = subprocess.run(page, capture_output=True, text=True)
        if written.returncode:
            raise ValueError(written.stderr.strip().splitlines()[-1])
        git("add", "--", str(RESULTS))
        git("commit", "--quiet", "--only", "-m", f"The study: {rows}", "--", str(RESULTS))
    except ValueError as error:  # code in the middle of an edit, another git command at work, a merge to be finished
        print(f"not committed yet: {rows}: {error}", flush=True)
        return False
    print(f"committed: {rows}", flush=True)
    return True


def copy_study(source: Path, target: Path, replace: bool) -> None:
    """Copies what is kept of a study; runs and weights stay where they are. What the target has is replaced, or stays."""
    for pattern in KEPT:
        for path in source.glob(pattern):
            copied = target / path.relative_to(source)
            if copied.exists() and not replace:
                continue
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
    # Rows that have come to the target since stay.
    stored = [read_json(folder / STUDY) for folder in (target, source) if (folder / STUDY).exists()]
    if stored:
        scales = {name: scale for study in stored for name, scale in study["scales"].items()}
        seeds = max(study["seeds"] for study in stored)
        write_json(target / STUDY, {"scales": {name: scales[name] for name in PRESETS if name in scales}, "seeds": seeds})


def running(directory: Path) -> int | None:
    """The process of the queue; None where none runs."""
    file = directory / "process"
    if not file.exists():
        return None
    process = int(file.read_text(encoding="utf-8"))
    return process if process in family(process) else None


def family(process: int) -> list[int]:
    """A process of the queue and all that it began, parents first; empty where it is gone, or its number is another's now."""
    listed = subprocess.run(["ps", "-axo", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 3) for line in listed.splitlines()]
    alive = {int(pid): (int(parent), command) for pid, parent, state, command in lines if not state.startswith("Z")}
    if "experiments.queue" not in alive.get(process, (0, ""))[1]:
        return []
    found = [process]
    for member in found:
        found += [child for child, (parent, _) in alive.items() if parent == member]
    return found


def send(directory: Path, number: signal.Signals, to_all: bool = True) -> str:
    """Sends a signal to the queue's processes, or to its first.

    Raises:
      ValueError: none runs.
    """
    process = running(directory)
    if process is None:
        raise ValueError(f"no queue runs in {directory}")
    chosen = family(process) if to_all else [process]
    for member in chosen:
        os.kill(member, number)
    return f"{number.name} to {len(chosen)} processes"


def status(directory: Path) -> str:
    """Whether it runs, and the last lines of its log."""
    process, log = running(directory), directory / "log"
    lines = log.read_text(encoding="utf-8").splitlines()[-6:] if log.exists() else []
    return "\n".join([f"process {process}" if process else "not running", *lines])


def git(*arguments: str) -> str:
    """What a git command prints.

    Raises:
      ValueError: it failed; with what it said.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def run(command: Command) -> None:
    """Does what the command says, and prints what came of it."""
    match command.do:
        case "start":
            print(start(command))
        case "work":
            work(command)
        case "pause":
            print(send(command.directory, signal.SIGSTOP))
        case "continue":
            print(send(command.directory, signal.SIGCONT))
        case "stop":
            send(command.directory, signal.SIGCONT)  # what is paused can't end
            print(send(command.directory, signal.SIGINT, to_all=False))
        case "status":
            print(status(command.directory))


main = process.command_line(Command, run, "python -m experiments.queue", __doc__)

if __name__ == "__main__":
    sys.exit(main())
