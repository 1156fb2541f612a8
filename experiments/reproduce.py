"""The whole study with one command: trains every row, evaluates it, and writes a page with every table and figure.

python -m experiments.reproduce                                     # embedded data: half an hour on two cores
python -m experiments.reproduce --data-dir DIR --scale reduced      # real data, few epochs: overnight on two cores, by estimate
python -m experiments.reproduce --data-dir DIR --seeds 3 --resume   # the report's sizes; goes on where it was stopped

DIR holds CIFAR-10 (binary or python version), GMB's ner_dataset.csv and glove.6B.100d.txt; --ner-data and --glove name them
where they are elsewhere. Every row is a command of its own, train_cifar or train_ner with a preset, and the page shows it.
"""

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.study import Row, Scale, choose

STUDY = "study.json"
VECTORS = "vectors.txt"  # of a demo


@dataclasses.dataclass(frozen=True)
class Command:
    """What to reproduce, and where."""

    scale: Scale | None = None
    """demo: embedded data, small networks; reduced: real data, few epochs; full: the report's sizes. By default full with
    --data-dir, else demo."""
    data_dir: str | None = None
    """Directory with CIFAR-10 and, unless named below, GMB and GloVe."""
    ner_data: str | None = None
    """GMB's csv, or a directory of CoNLL files."""
    glove: str | None = None
    """GloVe text file."""
    rows: tuple[str, ...] = ()
    """Rows by name, or images, or taggers; all by default."""
    seeds: int = 1
    """Seeds of each row, from 0."""
    output: Path | None = None
    """Directory for runs, page and pictures; runs/study-SCALE by default."""
    resume: bool = False
    """Go on with what is there: finished rows are kept, a row that was stopped continues from its last epoch."""
    page_only: bool = False
    """Train nothing, write the page anew from what is there."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One row with one seed."""

    row: Row
    seed: int
    scale: Scale
    run: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        return (self.run / "evaluation.json").exists()

    @property
    def failure(self) -> str | None:
        """Why the last attempt failed, None where it didn't."""
        file = self._failure_file
        return file.read_text(encoding="utf-8") if file.exists() and not self.is_finished else None

    @property
    def _failure_file(self) -> Path:
        return self.run.with_suffix(".failed")

    def train_arguments(self, places: Mapping[str, str], run: str | None = None) -> list[str]:
        """The training command after ``python -m``; ``places`` are data_dir, data and glove, those that are needed."""
        images = self.row.task == "images"
        fields = {**self.row.overrides(self.scale), "seed": self.seed, **places}
        arguments = [f"experiments.train_{'cifar' if images else 'ner'}", self.row.preset]
        for name, value in fields.items():
            arguments += _flag(name, value)
        return [*arguments, "--run", str(self.run) if run is None else run]

    def commands(self, places: Mapping[str, str]) -> list[list[str]]:
        """What is left to run, each after ``python -m``."""
        begun = (self.run / "config.json").exists()
        evaluate = f"experiments.evaluate_{'cifar' if self.row.task == 'images' else 'ner'}"
        train = [*self.train_arguments(places), *(["--resume"] if begun else [])]
        return [train, [evaluate, str(self.run)]]

    def do(self, places: Mapping[str, str]) -> bool:
        """Trains and evaluates; on failure keeps the reason, says it and returns False."""
        self._failure_file.unlink(missing_ok=True)
        for command in self.commands(places):
            errors = self.run.with_suffix(".stderr")
            with open(errors, "w", encoding="utf-8") as file:
                status = _run(command, file)
            said = errors.read_text(encoding="utf-8")
            errors.unlink()
            if status in (130, -signal.SIGINT):
                raise KeyboardInterrupt
            if status:
                last = said.strip().splitlines()[-1:] or [f"exit status {status}"]
                self._failure_file.write_text(last[0].removeprefix("error: "), encoding="utf-8")
                print(f"{self.name}: {said.strip() or last[0]}", file=sys.stderr)
                return False
        return True


def reproduce(command: Command) -> Path:
    """Does what is left of the study and writes the page; returns the page.

    Raises:
      ValueError: there is no such row, no data, or something stands in the output that is not to be gone on with.
    """
    from colnorm.checkpoint import write_json
    from experiments import gather, page, report

    scale = command.scale or ("demo" if command.data_dir is None else "full")
    if command.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {command.seeds}")
    rows = choose(command.rows)
    output = command.output or Path("runs") / f"study-{scale}"
    # All that can be refused is refused before anything is written.
    _check_output(output, scale, going_on=command.resume or command.page_only)
    places = {} if command.page_only else _find_data(command, rows, scale, output)
    # Row after row within a seed: the first seed's page is whole before the second begins.
    jobs = [Job(row, seed, scale, output / "runs" / f"{row.name}-seed{seed}") for seed in range(command.seeds) for row in rows]
    (output / "runs").mkdir(parents=True, exist_ok=True)
    write_json(output / STUDY, {"scale": scale})
    console = report.make_console()

    def write_page() -> Path:
        shown = {job.row.name: _shown_command(job) for job in jobs}
        results = gather.gather(jobs, scale, shown)
        write_json(output / "results.json", results)
        return page.write(results, {(job.row.name, job.seed): job.run for job in jobs if job.is_finished}, output)

    waiting = [] if command.page_only else [job for job in jobs if not job.is_finished]
    if scale == "demo" and any(job.row.needs_glove for job in waiting) and not (output / VECTORS).exists():
        from experiments.demo_vectors import write_vectors

        write_vectors(output / VECTORS)
    if not command.page_only:
        done = len(jobs) - len(waiting)
        console.print(f"{output}: {len(rows)} rows, {command.seeds} seed(s), {scale}; {done} of {len(jobs)} runs are done")
    for number, job in enumerate(waiting):
        left, whole = time_left(waiting[number:], jobs)
        about = f"; {'about' if whole else 'more than'} {report.duration(left)} left for all" if left else ""
        console.print(f"[{number + 1}/{len(waiting)}] {job.name}: {job.row.title}{about}", highlight=False, markup=False)
        if job.do(places[job.row.name]):
            write_page()  # after every run: whoever looks sees what there is
    if not command.page_only and any(row.task == "taggers" for row in rows):
        measure_crf_cost(output / "crf_cost.json")
    written = write_page()
    failed = [job.name for job in jobs if job.failure is not None]
    console.print(f"written: {written}, {output / 'RESULTS.md'}, {output / 'results.json'}", highlight=False, soft_wrap=True)
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {', '.join(failed)}; --resume tries them again")
    return written


def measure_crf_cost(file: Path) -> None:
    """Times the CRF over the number of tags, in a process of its own, unless that was done."""
    if not file.exists():
        subprocess.run([sys.executable, "-m", "experiments.crf_cost", "--output", str(file)], check=True)


def time_left(waiting: Sequence[Job], jobs: Sequence[Job]) -> tuple[float, bool]:
    """Seconds that the waiting jobs may take, from the epochs of finished and begun ones, and whether that is all of them.

    An epoch of a row that was never trained is taken to be as long as the mean one of its task, and all epochs to be run; a
    task of which nothing was trained is left out.
    """
    known: dict[str, list[float]] = {}
    for job in jobs:
        if seconds := _epoch_seconds(job):
            known.setdefault(job.row.name, []).extend(seconds)
            known.setdefault(job.row.task, []).extend(seconds)
    total, whole = 0.0, True
    for job in waiting:
        seconds = known.get(job.row.name, known.get(job.row.task, []))
        epochs = max(job.row.config(job.scale).epochs - len(_epoch_seconds(job)), 0)
        total += epochs * sum(seconds) / max(len(seconds), 1)
        whole = whole and bool(seconds)
    return total, whole


def _epoch_seconds(job: Job) -> list[float]:
    from colnorm.checkpoint import RunDirectory, is_run

    return [record["seconds"] for record in RunDirectory.open(job.run).history()] if is_run(job.run) else []


def _flag(name: str, value: Any) -> list[str]:
    """A field of a config as tyro reads it."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]


def _check_output(output: Path, scale: Scale, going_on: bool) -> None:
    """Refuses a directory that holds another study, or this one where it is not to be gone on with."""
    file = output / STUDY
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))["scale"]
        if stored != scale:
            raise ValueError(f"{output} holds a study at scale {stored}, not {scale}; choose another --output")
        if not going_on:
            raise ValueError(f"{output} holds a study already; go on with --resume, or choose another --output")
    elif output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no study; choose another --output")


def _needs(row: Row, scale: Scale) -> tuple[str, ...]:
    """The fields of a row's config that say where its data is."""
    if scale == "demo":
        return ("glove",) if row.needs_glove else ()
    return ("data_dir",) if row.task == "images" else ("data", "glove") if row.needs_glove else ("data",)


def _find_data(command: Command, rows: Sequence[Row], scale: Scale, output: Path) -> dict[str, dict[str, str]]:
    """For each row the places of its data, by field."""
    known: dict[str, str] = {"glove": str(output / VECTORS)} if scale == "demo" else {}
    options = {
        "data_dir": ("--data-dir", command.data_dir, None),
        "data": ("--ner-data", command.ner_data, "ner_dataset.csv"),
        "glove": ("--glove", command.glove, "glove.6B.100d.txt"),
    }
    for name in dict.fromkeys(name for row in rows for name in _needs(row, scale) if name not in known):
        option, given, usual = options[name]
        inside = None if usual is None or command.data_dir is None else Path(command.data_dir) / usual
        if given is None and (inside is None or not inside.exists()):
            where = "" if inside is None else f"; there is no {inside}"
            raise ValueError(f"at scale {scale} these rows need {option}{where}")
        known[name] = str(inside) if given is None else given
    return {row.name: {name: known[name] for name in _needs(row, scale)} for row in rows}


def _shown_command(job: Job) -> str:
    """The command as a reader types it: with DIR, DATA, GLOVE and RUN for the places."""
    names = {"data_dir": "DIR", "data": "DATA", "glove": "GLOVE"}
    shown = job.train_arguments({name: names[name] for name in _needs(job.row, job.scale)}, run="RUN")
    return shlex.join(["python", "-m", *shown])


# Asks Linux to kill a command when whoever started it dies; elsewhere it would go on.
_DIE_WITH_PARENT = """
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def _run(command: Sequence[str], errors: Any) -> int:
    """Runs ``python -m`` of a command to its end, its standard error into a file; returns its exit status."""
    start = ["-c", _DIE_WITH_PARENT] if sys.platform.startswith("linux") else ["-m"]
    process = subprocess.Popen([sys.executable, *start, *command], stderr=errors)
    try:
        return process.wait()
    except KeyboardInterrupt:  # reaches the command too, which stops by itself
        process.wait()
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.reproduce", args=arguments, description=__doc__)
    from experiments.process import exit_status

    try:
        return exit_status(lambda: reproduce(command))
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
