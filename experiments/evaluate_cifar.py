"""Evaluates a trained run on its training, validation and test images: table, JSON and confusion matrices.

python -m experiments.evaluate_cifar runs/cifar10-bn
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.configs import CifarConfig, from_stored


@dataclasses.dataclass(frozen=True)
class Command:
    """What to evaluate."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory; its config and checkpoint say everything else."""
    checkpoint: str = "best"
    """best (by validation accuracy), latest, or the number of an epoch that is still stored."""
    data_dir: str | None = None
    """Where the data is now, if it has moved since training."""
    devices: int | None = None
    """Devices to evaluate on; all by default."""


def evaluate(command: Command, quiet: bool = False) -> dict[str, Any]:
    """Restores, evaluates, writes ``evaluation.json`` and ``confusion.png`` into the run; returns the former.

    Prints the tables as well, unless ``quiet``.
    """
    from experiments import process

    process.prepare(command.devices)

    import numpy as np

    from colnorm.data import images
    from colnorm.files import write_json
    from colnorm.metrics import classification_figures
    from colnorm.parallel import make_engine
    from colnorm.run_directory import CONFIG, CONFUSION, EVALUATION, RunDirectory
    from colnorm.training import Monitor
    from experiments import cifar, console, plotting

    run = RunDirectory.open(command.run)
    run.check_task("cifar")
    config = from_stored(CifarConfig, run.config, str(run.file(CONFIG)))
    epoch = run.choose(command.checkpoint, Monitor("validation_accuracy"))

    data = images.load(config.data, command.data_dir or config.data_dir, config.seed)
    state = run.restore(cifar.make_state(config, data.num_classes, 1), epoch)
    engine = make_engine(cifar.make_loss(config, data), command.devices)
    state = engine.put_state(state)

    results: dict[str, Any] = {}
    confusions: dict[str, np.ndarray] = {}
    for name, split in data.splits.items():
        batches = cifar.evaluation_batches(len(split.labels), engine.num_devices)
        sums = engine.evaluate(state, engine.put_data(cifar.split_arrays(split)), batches)
        confusions[name] = sums["confusion"]
        results[name] = {
            "examples": int(sums["count"]),
            "loss": float(sums["loss"] / sums["count"]),
            **classification_figures(sums["confusion"]),
            "confusion": sums["confusion"].astype(int).tolist(),
        }
    written = {"epoch": epoch, "class_names": list(data.class_names), "splits": results, "machine": process.describe()}
    write_json(run.file(EVALUATION), written)
    title = f"{run.path.name}, epoch {epoch}"
    picture = plotting.draw_confusions(confusions, data.class_names, run.file(CONFUSION), title)
    if quiet:
        return written

    screen = console.make_console()
    shown = ("accuracy", "macro_f1", "micro_f1")
    table = {f"{name} ({result['examples']:,})": {key: result[key] for key in shown} for name, result in results.items()}
    screen.print(console.figures_table(f"{title} (micro F1 equals accuracy: one label an image)", table))
    by_class = {
        class_name: {f"{split} F1": results[split]["f1"][number] for split in results}
        for number, class_name in enumerate(data.class_names)
    }
    screen.print(console.figures_table("F1 by class", by_class))
    screen.print(f"written: {run.file(EVALUATION)}, {picture}", highlight=False, soft_wrap=True)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.evaluate_cifar", args=arguments, description=__doc__)
    from experiments.process import exit_status

    return exit_status(lambda: evaluate(command))


if __name__ == "__main__":
    sys.exit(main())
