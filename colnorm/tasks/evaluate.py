"""The evaluation of a run on its training, validation and test data: tables, JSON, pictures."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from colnorm import process
from colnorm.files import write_json
from colnorm.run_directory import CONFIG, COUNTS, EVALUATION, MISTAKES, PREDICTIONS, RunDirectory
from colnorm.tasks import console
from colnorm.tasks.configs import from_stored
from colnorm.tasks.task import Task, task_of
from colnorm.training import Monitor


@dataclasses.dataclass(frozen=True)
class Command:
    """What to evaluate."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory; its config, its checkpoint and a tagger's vocabularies say everything else."""
    checkpoint: str = "best"
    """best (by the validation metric), latest, or the number of an epoch that is still stored."""
    data: Annotated[str | None, tyro.conf.arg(aliases=["--data-dir"])] = None
    """Where the data is now, if it has moved since training."""
    devices: int | None = None
    """Devices to evaluate images on; all by default."""


def evaluate(kinds: Mapping[str, type[Task]], command: Command, quiet: bool = False) -> dict[str, Any]:
    """Restores, evaluates, writes ``evaluation.json``, pictures and a tagger's predictions into the run; returns the first.

    Prints the tables as well, unless ``quiet``. The run must be of one of the tasks ``kinds``.
    """
    run = RunDirectory.open(command.run)
    kind = task_of(run, kinds)
    process.prepare(command.devices or kind.cpu_devices)
    config: Any = from_stored(kind.config_type, run.config, str(run.file(CONFIG)))
    if command.data is not None:
        config = dataclasses.replace(config, **{kind.data_path: command.data})
    epoch = run.choose(command.checkpoint, Monitor(kind.metric))
    task = kind(config, run)
    evaluated = {"epoch": epoch, **task.evaluate(run, epoch, command.devices), "machine": process.describe()}
    write_json(run.file(EVALUATION), evaluated)
    title = f"{run.path.name}, epoch {epoch}"
    pictures = task.draw_evaluation(evaluated, run, title)
    if not quiet:
        screen = console.make_console()
        for name, split in evaluated["splits"].items():
            about = (
                f"{title}, {name}: {split['examples']:,} examples, loss {split['loss']:.4f}, accuracy {split['accuracy']:.2%}"
            )
            if "accuracy_mirrored" in split:
                about += f"; of both ways of each image together {split['accuracy_mirrored']:.2%}"
            screen.print(about, highlight=False, soft_wrap=True)
            screen.print(console.classes_table(split))
        if "mode" in evaluated:
            screen.print(f"entities by {evaluated['mode']}", highlight=False)
        if "temperature" in evaluated:
            test = evaluated["splits"]["test"]
            before, after = (test[key]["error"] for key in ("calibration_before", "calibration"))
            screen.print(
                f"posteriors at temperature {evaluated['temperature']:.2f}, fitted on validation data: expected calibration "
                f"error of the test entities {after:.1%}, {before:.1%} without it",
                highlight=False,
                soft_wrap=True,
            )
        written = [file for name in (EVALUATION, PREDICTIONS, COUNTS, MISTAKES) if (file := run.file(name)).exists()]
        screen.print(f"written: {', '.join(map(str, [*written, *pictures]))}", highlight=False, soft_wrap=True)
    return evaluated
