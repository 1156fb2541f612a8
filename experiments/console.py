"""What people see while and after something runs: progress, epoch lines, tables."""

import json
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
            TextColumn("{task.description}", markup=False),
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
        shown = {"loss": "loss {:.4f}", "accuracy": "acc {:.2%}", "micro_f1": "micro F1 {:.2%}", "macro_f1": "macro F1 {:.2%}"}
        line = f"epoch {record['epoch']:3d}/{self._epochs}"
        for split in ("train", "validation"):
            parts = [text.format(record[f"{split}_{name}"]) for name, text in shown.items() if f"{split}_{name}" in record]
            line += f"  {split} {' '.join(parts)}"
        compiled = f" ({record['compile_seconds']:.1f} s of them compiling)" if record["compile_seconds"] >= 0.1 else ""
        self.note(f"{line}  lr {record['learning_rate']:.4g}  {record['seconds']:.1f} s{compiled}")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)


def make_console() -> Console:
    """Standard output; wide where it is a file, so that tables aren't cut."""
    console = Console(markup=False)  # names of runs may hold brackets
    return console if console.is_terminal else Console(width=140, markup=False)


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


def entities_table(figures: Mapping[str, Any]) -> Table:
    """Precision, recall, F1 and support of each entity type and of the averages, out of tagging figures."""
    table = Table()
    table.add_column("")
    for column in ("precision", "recall", "F1", "support"):
        table.add_column(column, justify="right")
    rows = {**figures["types"], **{f"{name} average": figures[name] for name in ("micro", "macro", "weighted")}}
    for number, (name, values) in enumerate(rows.items()):
        if number == len(figures["types"]):
            table.add_section()
        ratios = (f"{values[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.add_row(name, *ratios, f"{values['support']:,}")
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
    """The records of several runs as JSON, a line an epoch, as in metrics.jsonl: readable, and small in a diff."""
    runs = (
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(record) for record in history) + "\n]"
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
