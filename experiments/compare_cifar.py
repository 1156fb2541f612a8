"""Puts image runs side by side: a table, curves of all together, and the feature distributions of each (1.2.5, 1.2.7).

python -m experiments.compare_cifar runs/cifar10-* --output results/cifar10
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True)
class Command:
    """Which runs, and where to put the pictures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories; those that were evaluated have test figures."""
    output: Path = Path("runs") / "comparison"
    """Directory for curves.png, feature_percentiles.png, table.md and runs.json."""
    title: str = "Image runs"
    """Heading of table and curves."""


HEADER = (
    "run",
    "learning rate",
    "best epoch",
    "train acc",
    "validation acc",
    "test acc",
    "test macro F1",
    "first epoch",
    "median epoch",
    "peak MiB",
)


def compare(command: Command) -> list[Path]:
    """Writes the pictures, the table as Markdown and all records as JSON; prints the table. Returns what it wrote."""
    import numpy as np

    from colnorm.files import write_text
    from colnorm.run_directory import RunDirectory
    from colnorm.training import Monitor
    from experiments import cifar, console, plotting

    histories: dict[str, Any] = {}
    rows = []
    for path in command.runs:
        run = RunDirectory.open(path)
        history = run.history()
        best = Monitor("validation_accuracy").best_epoch(history)
        if best is None:
            raise ValueError(f"{path} has no finished epoch")
        histories[path.name] = history
        evaluated = run.evaluation()
        splits = None if evaluated is None else evaluated["splits"]
        record = history[best - 1]
        rows.append(
            (
                path.name,
                f"{run.config['learning_rate']:g} {run.config['schedule']}",
                f"{best} of {len(history)}",
                # Of the best epoch in evaluation mode, where that was measured; "~": averaged over the epoch while it trained.
                f"{splits['train']['accuracy']:.2%}" if splits else f"~{record['train_accuracy']:.2%}",
                f"{record['validation_accuracy']:.2%}",
                f"{splits['test']['accuracy']:.2%}" if splits else "",
                f"{splits['test']['macro_f1']:.2%}" if splits else "",
                f"{history[0]['seconds']:.0f} s",
                f"{np.median([r['seconds'] for r in history]):.0f} s",
                f"{max(r['peak_memory_mib'] for r in history):,.0f}",
            )
        )
    command.output.mkdir(parents=True, exist_ok=True)
    screen = console.make_console()
    screen.print(console.plain_table(command.title, HEADER, rows))
    write_text(command.output / "table.md", console.markdown_table(HEADER, rows))
    write_text(command.output / "runs.json", console.histories_json(histories))
    written = [
        plotting.draw_comparison(histories, command.output / "curves.png", command.title),
        plotting.draw_quantiles(histories, cifar.PERCENTILES, command.output / "feature_percentiles.png"),
        command.output / "table.md",
        command.output / "runs.json",
    ]
    screen.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.compare_cifar", args=arguments, description=__doc__)
    from experiments.process import exit_status

    return exit_status(lambda: compare(command))


if __name__ == "__main__":
    sys.exit(main())
