"""A row of the study with one seed as two commands, training and evaluation, each in a process of its own."""

import contextlib
import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colnorm.run_directory import EVALUATION, METRICS, RunDirectory, is_run
from colnorm.tasks.configs import TaggingConfig
from experiments import summary
from experiments.configs import ImageConfig
from experiments.pool import Pool, Say, Slot, reason
from experiments.presets import Preset
from experiments.study import Scale, at_scale

SHOWN_PATHS = {"data_dir": "DIR", "data": "DATA", "glove": "GLOVE"}


@dataclasses.dataclass(frozen=True)
class Job:
    """One row with one seed, at a scale, in the directory of a study."""

    row: Preset
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
    def summary(self) -> Path:
        """The file of its run summary: once this is there, the run directory is needed no more."""
        return self.study / "records" / f"{self.row.name}-seed{self.seed}.json"

    @property
    def is_finished(self) -> bool:
        return self.summary.exists()

    @functools.cached_property
    def config(self) -> ImageConfig | TaggingConfig:
        """What is trained, without the paths of its data."""
        return dataclasses.replace(at_scale(self.row, self.scale), seed=self.seed)

    def read_summary(self) -> dict[str, Any]:
        """What :func:`experiments.summary.read` finds there.

        Raises:
          ValueError: it is of another run than the study's: at another scale, or with another config, say
            of a preset that has changed since.
        """
        stored = summary.read(self.summary)
        if stored["scale"] != self.scale:
            raise ValueError(
                f"{self.summary} is of a run at scale {stored['scale']}; the study has this row at scale {self.scale}"
            )
        ours = json.loads(json.dumps(dataclasses.asdict(self.config)))
        # An option that came after the run was then what it is by default.
        theirs = json.loads(json.dumps(dataclasses.asdict(type(self.config)()))) | stored["config"]
        # Results don't depend on where it ran, but for the rounding of sums.
        compared = sorted(ours.keys() - {*summary.PATHS, "devices", "stream"})
        changed = [name for name in compared if ours[name] != theirs[name]]
        if changed:
            details = ", ".join(f"{name} was {theirs[name]!r}, is {ours[name]!r}" for name in changed)
            raise ValueError(
                f"{self.summary} is of a run with another config than the row's: {details}; without that file, and the run "
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
        history = []
        if self.is_finished:
            history = self.read_summary()["history"]
        elif is_run(self.run):
            with contextlib.suppress(ValueError):  # damaged: its own command will say so, and stop nothing else
                history = RunDirectory.open(self.run).history()
        return [epoch["seconds"] for epoch in history]

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of its config that say where its data is."""
        if self.scale == "demo":
            return ()
        return ("data_dir",) if self.row.task == "images" else ("data", "glove") if self.row.glove else ("data",)

    def train_arguments(self, paths: Mapping[str, str], run: str | None = None) -> list[str]:
        """The training command after ``python -m``; ``paths`` are data_dir, data and glove, those that are needed."""
        fields = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(self.config)}
        changed = {name: value for name, value in fields.items() if value != getattr(self.row.config, name)}
        arguments = ["experiments.train", self.row.name]
        for name, value in {**changed, "seed": self.seed, **paths}.items():
            arguments += _flag(name, value)
        return [*arguments, "--run", str(self.run) if run is None else run]

    @property
    def shown_command(self) -> str:
        """The training command as a reader types it: with DIR, DATA, GLOVE and RUN for the paths."""
        return shlex.join(["python", "-m", *self.train_arguments({name: SHOWN_PATHS[name] for name in self.needs}, run="RUN")])

    def commands(self, paths: Mapping[str, str]) -> list[list[str]]:
        """What is left to run, each after ``python -m``."""
        if (self.run / EVALUATION).exists():
            return []
        # Without a line and a checkpoint it was stopped before its first epoch was stored: nothing to go on with.
        begun = (self.run / METRICS).exists() and (self.run / METRICS).stat().st_size > 0
        stored = begun or (is_run(self.run) and bool(RunDirectory.open(self.run).epochs()))
        train = [*self.train_arguments(paths), "--resume" if stored else "--overwrite"]
        return [train, ["experiments.evaluate", str(self.run)]]

    def do(self, paths: Mapping[str, str], slot: Slot, pool: Pool, say: Say | None = None) -> bool:
        """Trains, evaluates and writes the summary; on failure keeps the reason, says it and returns False.

        Args:
          paths: of its data, by field of the config.
          slot: where among others it runs.
          pool: what it starts is one of.
          say: takes the lines that it prints; without it they go to standard output, with live progress.

        Raises:
          KeyboardInterrupt: it was stopped.
        """
        self._failure_file.unlink(missing_ok=True)
        for command in self.commands(paths):
            errors = self.run.with_suffix(".stderr")
            try:
                with open(errors, "w", encoding="utf-8") as file:
                    status = pool.run(command, slot, file, say)
                said = errors.read_text(encoding="utf-8", errors="replace").strip()
            finally:
                errors.unlink(missing_ok=True)  # what stopped it is the error to see
            if status:
                self._failure_file.write_text(reason(status, said), encoding="utf-8")
                print(f"{self.name}: {said or reason(status, said)}", file=sys.stderr)
                return False
        summary.write(self.run, self.scale, self.summary)
        return True


def _flag(name: str, value: Any) -> list[str]:
    """A field of a config as tyro reads it."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]
