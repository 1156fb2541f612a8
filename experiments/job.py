"""A row of the study with one seed as two commands, training and evaluation, each in a process of its own."""

import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from colnorm.run_directory import EVALUATION, METRICS, RunDirectory, is_run
from experiments import record
from experiments.process import available_cores
from experiments.study import Row, Scale

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """One row with one seed, at a scale, in the directory of a study."""

    row: Row
    seed: int
    scale: Scale
    study: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def run(self) -> Path:
        """Its run directory."""
        return self.study / "runs" / f"{self.row.name}-seed{self.seed}"

    @property
    def record(self) -> Path:
        """What it came to: once this is there, the run directory is needed no more."""
        return self.study / "records" / f"{self.row.name}-seed{self.seed}.json"

    @property
    def is_finished(self) -> bool:
        return self.record.exists()

    def read_record(self) -> dict[str, Any]:
        """What :func:`experiments.record.read` finds there.

        Raises:
          ValueError: it is of another run than the study's: at another scale, or with another config, say
            of a preset that has changed since.
        """
        stored = record.read(self.record)
        if stored["scale"] != self.scale:
            raise ValueError(
                f"{self.record} is the record of a run at scale {stored['scale']}; the study has this row at scale {self.scale}"
            )
        expected = self.row.config(self.scale)
        config = json.loads(json.dumps(dataclasses.asdict(expected))) | {"seed": self.seed}
        # An option that came after the record was then what it is by default.
        theirs = json.loads(json.dumps(dataclasses.asdict(type(expected)()))) | stored["config"]
        changed = [name for name in sorted(config.keys() - set(record.PLACES)) if config[name] != theirs[name]]
        if changed:
            details = ", ".join(f"{name} was {theirs[name]!r}, is {config[name]!r}" for name in changed)
            raise ValueError(
                f"{self.record} is of a run with another config than the row's: {details}; without that file, and the run "
                f"{self.run} where it is there, --resume trains it anew"
            )
        return stored

    @property
    def failure(self) -> str | None:
        """Why the last attempt failed, None where it didn't."""
        file = self._failure_file
        return file.read_text(encoding="utf-8") if file.exists() and not self.is_finished else None

    @property
    def _failure_file(self) -> Path:
        return self.run.with_suffix(".failed")

    @property
    def epoch_seconds(self) -> list[float]:
        """Of the epochs that are done."""
        history: Sequence[Mapping[str, Any]] = ()
        if self.is_finished:
            history = self.read_record()["history"]
        elif is_run(self.run):
            with contextlib.suppress(ValueError):  # damaged: its own command will say so, and stop nothing else
                history = RunDirectory.open(self.run).history()
        return [epoch["seconds"] for epoch in history]

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of its config that say where its data is."""
        if self.scale == "demo":
            return ("glove",) if self.row.needs_glove else ()
        return ("data_dir",) if self.row.task == "images" else ("data", "glove") if self.row.needs_glove else ("data",)

    def train_arguments(self, places: Mapping[str, str], run: str | None = None) -> list[str]:
        """The training command after ``python -m``; ``places`` are data_dir, data and glove, those that are needed."""
        images = self.row.task == "images"
        fields = {**self.row.overrides(self.scale), "seed": self.seed, **places}
        arguments = [f"experiments.train_{'cifar' if images else 'ner'}", self.row.preset]
        for name, value in fields.items():
            arguments += _flag(name, value)
        return [*arguments, "--run", str(self.run) if run is None else run]

    @property
    def shown_command(self) -> str:
        """The training command as a reader types it: with DIR, DATA, GLOVE and RUN for the places."""
        names = {"data_dir": "DIR", "data": "DATA", "glove": "GLOVE"}
        return shlex.join(["python", "-m", *self.train_arguments({name: names[name] for name in self.needs}, run="RUN")])

    def commands(self, places: Mapping[str, str]) -> list[list[str]]:
        """What is left to run, each after ``python -m``."""
        if (self.run / EVALUATION).exists():
            return []
        evaluate = f"experiments.evaluate_{'cifar' if self.row.task == 'images' else 'ner'}"
        # Without a record and a checkpoint it was stopped before its first epoch was stored: nothing to go on with.
        begun = (self.run / METRICS).exists() and (self.run / METRICS).stat().st_size > 0
        stored = begun or (is_run(self.run) and bool(RunDirectory.open(self.run).epochs()))
        train = [*self.train_arguments(places), "--resume" if stored else "--overwrite"]
        return [train, [evaluate, str(self.run)]]

    def do(self, places: Mapping[str, str], place: "Place", children: "Children", say: Say | None = None) -> bool:
        """Trains, evaluates and writes the record; on failure keeps the reason, says it and returns False.

        Args:
          places: of its data, by field of the config.
          place: where among others it runs.
          children: what it starts is one of.
          say: takes the lines that it prints; without it they go to standard output, with live progress.

        Raises:
          KeyboardInterrupt: it was stopped.
        """
        self._failure_file.unlink(missing_ok=True)
        for command in self.commands(places):
            errors = self.run.with_suffix(".stderr")
            try:
                with open(errors, "w", encoding="utf-8") as file:
                    status = children.run(command, place, file, say)
                said = errors.read_text(encoding="utf-8", errors="replace").strip()
            finally:
                errors.unlink(missing_ok=True)  # what stopped it is the error to see
            if status:
                reason = why(status, said)
                self._failure_file.write_text(reason, encoding="utf-8")
                print(f"{self.name}: {said or reason}", file=sys.stderr)
                return False
        record.write(self.run, self.scale, self.record)
        return True


def why(status: int, said: str) -> str:
    """One line that says why a command failed, out of its exit status and what it wrote to standard error."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = said.splitlines()
    ours = [line for line in lines if line.startswith("error: ")]
    return (ours or lines[-1:] or [f"exit status {status}"])[0].removeprefix("error: ")


@dataclasses.dataclass(frozen=True)
class Place:
    """A share of the machine: the cores and the fraction of an accelerator's memory that a job may use.

    Attributes:
      cores: empty where the system can't keep a process to some.
      share: of the machine, 1 for all of it.
    """

    cores: tuple[int, ...] = ()
    share: float = 1.0


def places_of(jobs: int) -> list[Place]:
    """Cuts the cores of this process into ``jobs`` shares of neighbours, as even as can be.

    Raises:
      ValueError: fewer cores than jobs, or jobs below 1.
    """
    if not 1 <= jobs <= available_cores():
        raise ValueError(f"--jobs must be between 1 and the number of cores, {available_cores()}, got {jobs}")
    if jobs == 1:
        return [Place()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    ends = [len(cores) * number // jobs for number in range(jobs + 1)]
    return [Place(tuple(cores[start:end]), 1 / jobs) for start, end in itertools.pairwise(ends)]


def _flag(name: str, value: Any) -> list[str]:
    """A field of a config as tyro reads it."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]


# Keeps a command to some cores, and asks Linux to kill it when whoever started it dies; elsewhere it would go on. What a
# script starts in the background ignores SIGINT, and so would the command, which is stopped by it.
_START = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform.startswith("linux"):
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if cores := sys.argv[1]:
    os.sched_setaffinity(0, map(int, cores.split(",")))
del sys.argv[:2]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Children:
    """The commands that run, so that all can be stopped. Threads may share one.

    Args:
      held: file descriptors that every command keeps open, of a lock say.
    """

    def __init__(self, held: Sequence[int] = ()):
        self._held = tuple(held)
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], place: "Place", errors: TextIO | None = None, say: Say | None = None) -> int:
        """Runs ``python -m`` of a command to its end, its standard error into a file; returns its exit status.

        Raises:
          KeyboardInterrupt: :meth:`stop` was called, before or meanwhile.
        """
        environment = dict(os.environ)
        if place.share < 1:  # JAX takes three quarters of an accelerator's memory unless told otherwise
            environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * place.share:.3f}")
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                [sys.executable, "-c", _START, ",".join(map(str, place.cores)), *command],
                stdout=None if say is None else subprocess.PIPE,
                stderr=errors,
                env=environment,
                encoding="utf-8",
                pass_fds=self._held,
                start_new_session=True,  # Ctrl-C reaches it through `stop`, and so once
            )
            self._running.add(process)
        with process:
            try:
                if say is not None and process.stdout is not None:
                    for line in filter(str.strip, process.stdout):
                        say(line.rstrip("\n"))
                status = process.wait()
            except KeyboardInterrupt:  # of the main thread, where no other waits for it
                process.send_signal(signal.SIGINT)
                raise
        with self._lock:
            self._running.discard(process)
            if status and self._stopped:
                raise KeyboardInterrupt
        return status

    def stop(self) -> None:
        """Asks all to stop, as Ctrl-C does, and lets none begin any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)
