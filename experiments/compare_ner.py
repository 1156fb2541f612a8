"""Puts taggers side by side: a table with the report's figures beside ours, and the curves of all together.

python -m experiments.compare_ner runs/ner_dataset-* --output runs/comparison
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True)
class Command:
    """Which runs, and where to put table and picture."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Evaluated run directories; those named like a preset, or ending in -PRESET, have the report's figures beside them."""
    output: Path = Path("runs") / "comparison"
    """Directory for curves.png, table.md, runs.json and evaluations.json."""
    title: str = "Taggers"
    """Heading of table and curves."""


HEADER = (
    "run",
    "best epoch",
    "train micro / macro F1",
    "validation micro / macro F1",
    "test micro / macro F1",
    "test accuracy",
    "report's test micro / macro F1",
    "median epoch",
    "tokens / s",
    "peak MiB",
)


def compare(command: Command) -> list[Path]:
    """Writes the picture, the table as Markdown and all records as JSON; prints the table. Returns what it wrote."""
    import numpy as np

    from colnorm.files import write_json, write_text
    from colnorm.run_directory import RunDirectory
    from experiments import console, plotting, published

    histories: dict[str, Any] = {}
    evaluations: dict[str, Any] = {}
    rows = []
    for path in command.runs:
        run = RunDirectory.open(path)
        history, evaluated = run.history(), run.evaluation()
        if not history or evaluated is None:
            raise ValueError(f"{path} is not evaluated yet: python -m experiments.evaluate_ner {path}")
        histories[path.name] = history
        evaluations[path.name] = evaluated
        theirs = published.figures()["report"]["taggers"].get(path.name.rsplit("-", 1)[-1], {})
        stated = [theirs.get(name, [math.nan] * 3)[2] for name in ("micro_f1", "macro_f1")]  # on test
        f1 = {name: f"{split['micro']['f1']:.2%} / {split['macro']['f1']:.2%}" for name, split in evaluated["splits"].items()}
        rows.append(
            (
                path.name,
                f"{evaluated['epoch']} of {len(history)}",
                *f1.values(),
                f"{evaluated['splits']['test']['accuracy']:.2%}",
                " / ".join("-" if math.isnan(figure) else f"{figure:.0%}" for figure in stated),
                f"{np.median([r['seconds'] for r in history]):.0f} s",
                f"{np.median([r['train_tokens_per_second'] for r in history]):,.0f}",
                f"{max(r['peak_memory_mib'] for r in history):,.0f}",
            )
        )
    command.output.mkdir(parents=True, exist_ok=True)
    screen = console.make_console()
    screen.print(console.plain_table(command.title, HEADER, rows))
    write_text(command.output / "table.md", console.markdown_table(HEADER, rows))
    write_text(command.output / "runs.json", console.histories_json(histories))
    write_json(command.output / "evaluations.json", evaluations)
    picture = plotting.draw_tagging_comparison(histories, command.output / "curves.png", command.title)
    written = [picture, *(command.output / name for name in ("table.md", "runs.json", "evaluations.json"))]
    screen.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.compare_ner", args=arguments, description=__doc__)
    from experiments.process import exit_status

    return exit_status(lambda: compare(command))


if __name__ == "__main__":
    sys.exit(main())
