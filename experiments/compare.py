"""Puts runs of one task side by side: a table, with the report's figures where it has some, and the curves of all together.

python -m experiments.compare runs/cifar10-* --output runs/comparison
"""

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from colnorm import process
from colnorm.files import write_json, write_text
from colnorm.metrics import headline
from colnorm.run_directory import RunDirectory
from colnorm.tasks import console
from colnorm.tasks.task import Task, task_of
from colnorm.training import Monitor
from experiments import published
from experiments.presets import PRESETS
from experiments.summary import upgraded
from experiments.task import TASKS

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Command:
    """Which runs, and where to put table and pictures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories. Those that were evaluated have test figures; beside those that are named like a preset, or end in
    -PRESET, stand the report's."""
    output: Path = Path("runs") / "comparison"
    """Directory for the pictures, table.md, runs.json and evaluations.json."""
    title: str = "Runs"
    """Heading of table and curves."""


def compare(command: Command) -> list[Path]:
    """Writes the pictures, the table as Markdown and all metrics as JSON; prints the table. Returns what it wrote."""
    runs = [RunDirectory.open(path) for path in command.runs]
    kinds = {task_of(run, TASKS) for run in runs}
    if len(kinds) != 1:
        raise ValueError(f"expected runs of one task, got {' and '.join(sorted(kind.name for kind in kinds)) or 'none'}")
    (kind,) = kinds
    rows, histories, evaluations = [], {}, {}
    for path, run in zip(command.runs, runs, strict=True):
        history, stored = run.history(), run.evaluation()
        best = Monitor(kind.metric).best_epoch(history)
        if best is None:
            raise ValueError(f"{path} has no finished epoch")
        histories[path.name] = history
        evaluated = None if stored is None else upgraded(stored)
        if evaluated is not None:
            evaluations[path.name] = evaluated
        rows.append(_row(path.name, kind, run.config, history, best, evaluated))
    title = f"{command.title} ({' / '.join(name.replace('_f1', ' F1') for name in kind.columns)})"
    header: tuple[str, ...] = (
        "run",
        "learning rate",
        "best epoch",
        *SPLITS,
        "report's test",
        "first epoch",
        "median epoch",
        "peak MiB",
    )
    filled = [any(row[place] for row in rows) for place in range(len(header))]  # where no row has a figure there is no column
    header, *rows = (tuple(itertools.compress(cells, filled)) for cells in (header, *rows))

    command.output.mkdir(parents=True, exist_ok=True)
    screen = console.make_console()
    screen.print(console.plain_table(title, header, rows))
    table, metrics, evaluated_file = (command.output / name for name in ("table.md", "runs.json", "evaluations.json"))
    write_text(table, console.markdown_table(header, rows))
    write_text(metrics, console.histories_json(histories))
    write_json(evaluated_file, evaluations)
    written = [*kind.draw_comparison(histories, command.output, command.title), table, metrics, evaluated_file]
    screen.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    return written


def _row(name: str, kind: type[Task], config: Any, history: Any, best: int, evaluated: Any) -> tuple[str, ...]:
    def percents(metrics: Any, prefix: str = "", mark: str = "") -> str:
        values = (metrics.get(f"{prefix}{column}") for column in kind.columns)
        return " / ".join("-" if value is None else f"{mark}{value:.2%}" for value in values)

    if evaluated is not None:
        splits = [percents(headline(evaluated["splits"][split])) for split in SPLITS]
    else:  # "~": averaged over the epoch while it trained
        line = history[best - 1]
        splits = [percents(line, "train_", "~"), percents(line, "validation_"), ""]
    preset = PRESETS.get(name.rsplit("-", 1)[-1])
    known = preset is not None and preset.task == kind.name and published.is_their_data(config["data"])
    theirs = published.of_row(preset).report if preset is not None and known else {}
    return (
        name,
        f"{config['learning_rate']:g} {config['schedule']}",
        f"{best if evaluated is None else evaluated['epoch']} of {len(history)}",
        *splits,
        percents(theirs, "test_") if theirs else "",
        f"{history[0]['seconds']:.0f} s",
        f"{np.median([line['seconds'] for line in history]):.0f} s",
        f"{max(line['peak_memory_mib'] for line in history):,.0f}",
    )


main = process.command_line(Command, compare, "python -m experiments.compare", __doc__)

if __name__ == "__main__":
    sys.exit(main())
