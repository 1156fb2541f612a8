"""Everything that needs an accelerator, in order of worth, within a time limit: for who has one for ten minutes.

    python -m experiments.accelerator --data-dir DIR --output runs/accelerator

correctness  every layer and CRF function, values and gradients, against this machine's CPU (or a file from another one)
benchmarks   normalization, LSTMs, CRF and training steps beside PyTorch and cuDNN on the same device
epoch        an epoch of the study's networks, one seed and several at once
study        the report's image rows at their full size, their seeds under ``vmap``, most wanted first

Each command runs in a process of its own, and has ended or been stopped when its time is over; what it measured by then is in
files of the output directory, and ``accelerator.json`` there says how each ended. What a stage leaves of its time is the next
ones'. The records of the study go into another study by copying ``study/records``.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from colnorm import process
from colnorm.files import read_json, write_json
from colnorm.tasks import console
from experiments.pool import reason
from experiments.presets import PRESETS
from experiments.study import worth

Stage = Literal["correctness", "benchmarks", "epoch", "study"]

# The share of the time that a stage may take.
SHARES: dict[Stage, float] = {"correctness": 0.2, "benchmarks": 0.25, "epoch": 0.15, "study": 0.4}
BENCHMARKS = {
    "normalization": (["--repeats", "7"], ["--sizes", "4x8x8x16", "--kinds", "batch", "--repeats", "3"]),
    "recurrent": (
        ["--sizes", "128x104x150x128", "--repeats", "5"],
        ["--sizes", "2x3x4x5", "--kinds", "plain", "--repeats", "3"],
    ),
    "crf": (
        ["--shapes", "128", "104", "17", "32", "128", "64", "--repeats", "5"],
        ["--shapes", "2", "4", "3", "--repeats", "3"],
    ),
    "training": (["--repeats", "7"], ["--n", "1", "--batch-size", "8", "--repeats", "3"]),
}
"""Options at full size, and at toy size."""
REPORT = "accelerator.json"
PATIENCE = 10.0
"""Seconds that a command has to end after its time is over."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What to do, and for how long."""

    output: Path = Path("runs/accelerator")
    """Directory for all results. Those that are there are kept: what is done is not done again."""
    data_dir: str | None = None
    """Directory with CIFAR-10, and with ner_dataset.csv where taggers are to be timed."""
    reference: Path | None = None
    """What ``experiments.correctness --save`` wrote on a CPU; without it this machine's computes it first."""
    stages: tuple[Stage, ...] = tuple(SHARES)
    """Which, in this order."""
    minutes: float = 10
    """For all."""
    seeds: int = 3
    """Of each row of the study."""
    toy: bool = False
    """Embedded data and tiny sizes: whether everything runs, on any machine."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of a stage: what it writes, how it is called, and variables for its process."""

    result: str
    arguments: Sequence[str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def plan(command: Command) -> dict[Stage, Callable[[float], list[Step]]]:
    """Of each stage: seconds that it has -> its commands."""
    output = command.output

    def correctness(seconds: float) -> list[Step]:
        few = ["--cases", "viterbi", "BatchNorm"] if command.toy else []
        own = str(output / "reference.npz")
        reference = own if command.reference is None else str(command.reference)
        on_cpu = Step("reference.npz", ["experiments.correctness", "--save", own, *few], {"JAX_PLATFORMS": "cpu"})
        compared = str(output / "correctness.json")
        here = Step("correctness.json", ["experiments.correctness", "--reference", reference, "--output", compared, *few])
        return [here] if command.reference is not None else [on_cpu, here]

    def benchmarks(seconds: float) -> list[Step]:
        return [
            Step(
                f"{name}.json",
                [f"experiments.benchmarks.{name}", *sizes[command.toy], "--output", str(output / f"{name}.json")],
            )
            for name, sizes in BENCHMARKS.items()
        ]

    def epoch(seconds: float) -> list[Step]:
        arguments = ["experiments.benchmarks.epoch", "--output", str(output / "epoch.json")]
        if command.toy:
            return [
                Step("epoch.json", [*arguments, "--rows", "gn", "random", "--scale", "demo", "--seeds", "1", "--epochs", "1"])
            ]
        rows = ["bn", "gn"]
        if command.data_dir is not None:
            arguments += ["--data-dir", command.data_dir]
            if (sentences := Path(command.data_dir) / "ner_dataset.csv").exists():
                rows, arguments = [*rows, "crf"], [*arguments, "--data", str(sentences)]
        return [Step("epoch.json", [*arguments, "--seeds", "1", str(command.seeds), "--rows", *rows])]

    def study(seconds: float) -> list[Step]:
        rows = ["gn"] if command.toy else _image_rows()
        arguments = ["experiments.seeds", *rows, "--study", str(output / "study"), "--seeds", str(command.seeds)]
        arguments += ["--scale", "demo" if command.toy else "full", "--minutes", f"{(seconds - 2 * PATIENCE) / 60:.2f}"]
        return [Step("", arguments if command.data_dir is None else [*arguments, "--data-dir", command.data_dir])]

    return {"correctness": correctness, "benchmarks": benchmarks, "epoch": epoch, "study": study}


def _image_rows() -> list[str]:
    """Those of the report at its batch size first, then its small batches, then the rest, today's recipe last."""
    rows = [preset for preset in PRESETS.values() if preset.task == "images"]
    return [preset.name for preset in sorted(rows, key=lambda preset: worth(preset, 0))]


def run(command: Command) -> None:
    """Does all stages.

    Raises:
      RuntimeError: a command failed; the others have been run.
    """
    command.output.mkdir(parents=True, exist_ok=True)
    screen = console.make_console()
    began = time.monotonic()
    stages, left = plan(command), {stage: SHARES[stage] for stage in command.stages}
    unfinished = _unfinished(command.output)
    report: dict[str, Any] = {"minutes": command.minutes, "steps": []}
    for stage in command.stages:
        seconds = (60 * command.minutes - (time.monotonic() - began)) * left[stage] / sum(left.values())
        deadline = time.monotonic() + seconds
        del left[stage]
        for step in stages[stage](seconds):
            if step.result and (command.output / step.result).exists() and step.result not in unfinished:
                ended = {"status": "done before", "seconds": 0.0}
            else:
                screen.print(f"{stage}: python -m {' '.join(step.arguments)}", highlight=False, markup=False, soft_wrap=True)
                ended = run_step(step, deadline - time.monotonic(), command.output / "log")
            screen.print(f"{stage}: {ended['status']} after {ended['seconds']:.1f} s", highlight=False, soft_wrap=True)
            report["steps"].append({"stage": stage, "result": step.result, "arguments": list(step.arguments), **ended})
            write_json(command.output / REPORT, report)
    failed = [step for step in report["steps"] if step["status"] not in ("done", "done before")]
    if failed:
        raise RuntimeError("; ".join(f"{step['arguments'][0]}: {step['status']}" for step in failed))


def _unfinished(output: Path) -> set[str]:
    """The results of commands that did not come to their end when this was run before."""
    report = output / REPORT
    if not report.exists():
        return set()
    return {step["result"] for step in read_json(report)["steps"] if step["status"] not in ("done", "done before")}


def run_step(step: Step, seconds: float, log: Path) -> dict[str, Any]:
    """Runs a command for so long at most, its output into a log; says how it ended.

    A command that is stopped has a few seconds to leave its results in order.
    """
    began = time.monotonic()
    if seconds <= PATIENCE:
        return {"status": "no time was left", "seconds": 0.0}
    log.mkdir(exist_ok=True)
    name = f"{step.arguments[0].rpartition('.')[2]}{'-' + step.result.partition('.')[0] if step.result else ''}"
    with open(log / f"{name}.txt", "w", encoding="utf-8") as file:
        process_of_it = subprocess.Popen(
            [sys.executable, "-m", *step.arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **step.environment},
            start_new_session=True,
        )
        try:
            status = process_of_it.wait(seconds - PATIENCE)
            said = (log / f"{name}.txt").read_text(encoding="utf-8", errors="replace")
            ended = "done" if status == 0 else f"failed: {reason(status, said.strip())}"
        except subprocess.TimeoutExpired:
            ended = "stopped: its time was over"
        finally:
            _stop(process_of_it)
    return {"status": ended, "seconds": round(time.monotonic() - began, 1)}


def _stop(running: subprocess.Popen[bytes]) -> None:
    """Ends a command and all that it started, if it has not ended."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if running.poll() is not None:
            return
        os.killpg(running.pid, how)
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            continue


main = process.command_line(Command, run, "python -m experiments.accelerator", __doc__)

if __name__ == "__main__":
    sys.exit(main())
