"""Times epochs of the study's networks, as they are trained: images with one seed and several at once, and a tagger.

    python -m experiments.benchmarks.epoch --data-dir DIR --data ner_dataset.csv --output epoch.json

What several seeds at once cost says whether ``experiments.seeds`` pays on this device.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax

from colnorm import process
from colnorm.files import write_json
from colnorm.parallel import make_engine
from colnorm.tasks import console
from colnorm.tasks.tagging import TaggingTask
from experiments.configs import ImageConfig
from experiments.presets import PRESETS
from experiments.seeds import Seeds
from experiments.study import Scale, at_scale


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    rows: tuple[str, ...] = ("bn", "gn", "crf")
    """Rows of the study."""
    seeds: tuple[int, ...] = (1, 3)
    """Numbers of seeds at once, of images."""
    scale: Scale = "full"
    """full, or demo for embedded data."""
    epochs: int = 3
    """The first one compiles and is timed apart."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of images; statistics and parameters stay float32."""
    data_dir: str | None = None
    """Directory with CIFAR-10."""
    data: str | None = None
    """GMB's ner_dataset.csv."""
    output: Path | None = None
    """Write the measurements here as JSON, after every row."""


def measure_images(config: Any, count: int, epochs: int) -> dict[str, Any]:
    """Seconds of the epochs of ``count`` seeds at once."""
    seeds = Seeds(config, range(count))
    return _row(seeds.train_epoch, epochs, count * seeds.steps)


def measure_tagger(config: Any, epochs: int) -> dict[str, Any]:
    """Seconds of a tagger's epochs."""
    task = TaggingTask(config)
    engine = make_engine(task.loss, 1, config.batch_size)
    data = [engine.put_data(arrays) for arrays in task.train_data]
    steps = sum(len(batches) for _, batches in task.plan(1))
    state = engine.put_state(task.init_state(task.schedule(steps)))

    def epoch(number: int) -> None:
        nonlocal state
        for part, batches in task.plan(number):
            state, _ = engine.train_epoch(state, data[part], batches)
        jax.block_until_ready(state.params)

    return _row(epoch, epochs, steps)


def _row(run_epoch: Any, epochs: int, steps: int) -> dict[str, Any]:
    times = []
    for number in range(1, epochs + 1):
        began = time.perf_counter()
        run_epoch(number)
        times.append(time.perf_counter() - began)
    best = min(times[1:] or times)
    return {"first_s": round(times[0], 3), "epoch_s": round(best, 4), "ms_a_step": round(1e3 * best / steps, 4), "steps": steps}


def run(command: Command) -> None:
    """Measures and shows."""
    process.prepare(1)
    machine = process.describe()
    rows: dict[str, Any] = {}
    for name in command.rows:
        config = at_scale(PRESETS[name], command.scale)
        if isinstance(config, ImageConfig):
            config = dataclasses.replace(config, dtype=command.dtype, data_dir=command.data_dir)
            for count in command.seeds:
                rows[f"{name}, {count} seed{'s' * (count > 1)} at once"] = measure_images(config, count, command.epochs)
        else:
            config = config if command.data is None else dataclasses.replace(config, data=command.data)
            rows[name] = measure_tagger(config, command.epochs)
        if command.output is not None:
            write_json(command.output, {"what": f"an epoch, {command.dtype}", "machine": machine, "rows": rows})
    header = ("", "first epoch", "an epoch", "a step of a seed", "steps")
    lines = [
        (name, f"{row['first_s']:.1f} s", f"{row['epoch_s']:.2f} s", f"{row['ms_a_step']:.3f} ms", str(row["steps"]))
        for name, row in rows.items()
    ]
    console.make_console().print(console.plain_table(f"epochs on {machine['device']}", header, lines))


main = process.command_line(Command, run, "python -m experiments.benchmarks.epoch", __doc__)

if __name__ == "__main__":
    sys.exit(main())
