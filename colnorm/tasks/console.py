"""What people see while and after something runs: progress, epoch lines, tables."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from colnorm.metrics import AVERAGES, RATIOS


class EpochProgress:
    """A live bar over the steps of all epochs, and a line for each epoch that stays; lines alone where output is a file.

    ``quiet`` ones show nothing.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, name: str, quiet: bool = False):
        self._epochs, self._steps = epochs, steps_per_epoch
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(quiet=True) if quiet else make_console(),
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

    def epoch(self, line: Mapping[str, Any]) -> None:
        """An epoch is done and stored."""
        self._progress.update(self._task, completed=line["epoch"] * self._steps)
        shown = {"loss": "loss {:.4f}", "accuracy": "acc {:.2%}", "micro_f1": "micro F1 {:.2%}", "macro_f1": "macro F1 {:.2%}"}
        told = f"epoch {line['epoch']:3d}/{self._epochs}"
        for split in ("train", "validation"):
            parts = [text.format(line[f"{split}_{name}"]) for name, text in shown.items() if f"{split}_{name}" in line]
            told += f"  {split} {' '.join(parts)}"
        compiled = f" ({line['compile_seconds']:.1f} s of them compiling)" if line["compile_seconds"] >= 0.1 else ""
        self.note(f"{told}  lr {line['learning_rate']:.4g}  {line['seconds']:.1f} s{compiled}")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)


def make_console() -> Console:
    """Standard output; wide where it is a file, so that tables aren't cut."""
    console = Console(markup=False)  # names of runs may hold brackets
    return console if console.is_terminal else Console(width=140, markup=False)


def classes_table(metrics: Mapping[str, Any]) -> Table:
    """Precision, recall, F1 and support of each class and of the averages, out of the metrics of a split."""
    table = Table()
    table.add_column("")
    for column in ("precision", "recall", "F1", "support"):
        table.add_column(column, justify="right")
    rows = {**metrics["classes"], **{f"{name} average": metrics[name] for name in AVERAGES}}
    for number, (name, values) in enumerate(rows.items()):
        if number == len(metrics["classes"]):
            table.add_section()
        table.add_row(name, *(f"{values[key]:.2%}" for key in RATIOS), f"{values['support']:,}")
    return table


def plain_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of text, the first column left, the others right."""
    table = Table(title=title)
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown."""
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, ["---"] * len(header), *rows))


def histories_json(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The lines of several runs as JSON, a line an epoch, as in metrics.jsonl: readable, and small in a diff."""
    runs = (
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(line) for line in history) + "\n]"
        for name, history in histories.items()
    )
    return "{\n" + ",\n".join(runs) + "\n}\n"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as suits."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
