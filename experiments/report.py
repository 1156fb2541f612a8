"""What people see while and after something runs: progress, epoch lines, tables."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class EpochProgress:
    """A live bar over the steps of all epochs, and a line for each epoch that stays; lines alone where output is a file."""

    def __init__(self, epochs: int, steps_per_epoch: int, name: str):
        self._epochs, self._steps = epochs, steps_per_epoch
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=make_console(),
        )
        self._task = self._progress.add_task(name, total=epochs * steps_per_epoch)
        self._name = name
        self._shown = 0.0

    def __enter__(self) -> "EpochProgress":
        if self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, epoch: int, number: int, loss: float | None = None) -> None:
        """``number`` steps of ``epoch`` are done."""
        now = time.monotonic()
        if number and now - self._shown < 0.1:
            return
        self._shown = now
        described = f"epoch {epoch}/{self._epochs}" + ("" if loss is None else f"  loss {loss:.4f}")
        self._progress.update(self._task, completed=(epoch - 1) * self._steps + number, description=described)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done and stored."""
        self._progress.update(self._task, completed=record["epoch"] * self._steps)
        self.note(
            f"epoch {record['epoch']:3d}/{self._epochs}"
            f"  train loss {record['train_loss']:.4f} acc {record['train_accuracy']:.2%}"
            f"  validation loss {record['validation_loss']:.4f} acc {record['validation_accuracy']:.2%}"
            f"  lr {record['learning_rate']:.4g}  {record['seconds']:.1f} s"
        )

    def note(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)


def make_console() -> Console:
    """Standard output; wide where it is a file, so that tables aren't cut."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def figures_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """A table of fractions as percentages: a row for each key of ``rows``, a column for each figure."""
    table = Table(title=title)
    table.add_column("")
    columns = list(next(iter(rows.values())))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, values in rows.items():
        table.add_row(name, *(f"{values[column]:.2%}" for column in columns))
    return table


def plain_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of text, the first column left, the others right."""
    table = Table(title=title)
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table
