"""Times whole training steps of the BiLSTM-CRF beside the same tagger in PyTorch, in one process, interleaved.

    python -m experiments.benchmarks.tagger --data ner_dataset.csv --output benchmark.json

Both sides start from the same parameters and see the same ragged batches of real sentences; their losses over the first
steps are compared before anything is timed. A step is forward, backward, clipping and SGD with momentum and weight decay, in
float32 without dropout, on the same number of threads. PyTorch packs its sequences (``nn.LSTM``) and uses pytorch-crf.
Compilation and warm-up are timed apart.

Without characters three quarters of our step are the LSTM over words (``benchmark_recurrent``), a twelfth the update of all
parameters, 3 % the CRF. Tried without gain: two virtual devices (0.9 of one's speed: each updates all embeddings).
"""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm import process
from colnorm.data.batching import epoch_plan
from colnorm.files import write_json
from colnorm.parallel import Sharded
from colnorm.tasks import console
from colnorm.tasks.tagging import Split, TaggingTask
from experiments.benchmarks import harness
from experiments.presets import PRESETS

CLIP = 5.0


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    data: str = "sample"
    """sample, GMB's ner_dataset.csv, or a directory of CoNLL files."""
    characters: bool = True
    """Read characters too."""
    batch_size: int = 128
    """Sentences in a step."""
    hidden: int = 100
    """Features of the LSTM over words in each direction."""
    buckets: int = 6
    """Padded lengths."""
    steps: int = 60
    """Timed steps of each side, drawn from one epoch."""
    threads: int | None = None
    """Threads of PyTorch; all cores by default. Ours are set by the process: taskset, or XLA_FLAGS."""
    output: Path | None = None
    """Write the measurements here as JSON."""


def measure(command: Command) -> dict[str, Any]:
    """Builds both sides, compares their first steps, times them in turn."""
    import torch

    from experiments.benchmarks.peers.tagger import TorchTagger

    threads = command.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    # The report's rate, smaller: summed over a sentence, the first steps of two float32 programs part quickly at 0.01.
    config = dataclasses.replace(
        PRESETS["crf"].config,
        data=command.data,
        characters=command.characters,
        hidden=command.hidden,
        batch_size=command.batch_size,
        buckets=command.buckets,
        constrained=False,  # pytorch-crf has no forbidden moves
        dropout=0.0,
        learning_rate=0.001,
        clip_global_norm=CLIP,
    )
    task = TaggingTask(config)
    state = task.init_state(task.schedule(1))
    split = Split.make(task.data.train, task.encoder, config.buckets)
    plan = epoch_plan(split.buckets, config.batch_size, config.seed, 1, chunk=1)
    full = [(bucket, indices) for bucket, indices in plan if indices.min() >= 0]

    engine = Sharded(task.loss, jax.local_devices()[:1])
    ours = engine.put_state(state)
    device_data = [engine.put_data(arrays) for arrays in split.arrays]

    def our_step(bucket: int, indices: np.ndarray) -> float:
        nonlocal ours
        ours, sums = engine.train_epoch(ours, device_data[bucket], indices)
        jax.block_until_ready(ours.params)
        return float(sums["loss"][0] / sums["count"][0])

    peer: Any = TorchTagger(task.fields)
    peer.load_flax(state.params)
    trained = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, config.learning_rate, config.momentum, weight_decay=config.weight_decay)
    torch_data = [{name: torch.tensor(values.astype(np.int64)) for name, values in arrays.items()} for arrays in split.arrays]

    def torch_step(bucket: int, indices: np.ndarray) -> float:
        chosen = torch.tensor(indices[0], dtype=torch.long)
        batch = {name: values[chosen] for name, values in torch_data[bucket].items()}
        loss = peer(batch) / len(chosen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        return loss.item()

    sides = {"colnorm": our_step, "PyTorch": torch_step}
    began = dict.fromkeys(sides, 0.0)
    first: dict[str, list[float]] = {name: [] for name in sides}
    shapes = {bucket: (bucket, indices) for bucket, indices in reversed(full)}
    for bucket, indices in shapes.values():
        for name, step in sides.items():
            start = time.perf_counter()
            first[name].append(step(bucket, indices))
            began[name] += time.perf_counter() - start
    np.testing.assert_allclose(first["colnorm"], first["PyTorch"], rtol=1e-3, err_msg="the two sides compute different losses")

    times: dict[str, list[float]] = {name: [] for name in sides}
    tokens = []
    for bucket, indices in full[: command.steps]:
        tokens.append(int(split.arrays[bucket]["lengths"][indices[0]].sum()))
        for name, step in sides.items():
            start = time.perf_counter()
            step(bucket, indices)
            times[name].append(time.perf_counter() - start)
    rows = {
        name: {
            "first_steps_s": round(began[name], 3),
            "tokens_per_second": round(sum(tokens) / sum(values)),
            "median_ms": round(1e3 * float(np.median(values)), 1),
            "quartiles_ms": [round(1e3 * float(q), 1) for q in np.percentile(values, (25, 75))],
            "speed_to_torch": round(sum(times["PyTorch"]) / sum(values), 2),
        }
        for name, values in times.items()
    }
    machine = {
        **process.describe(),
        "torch": torch.__version__,
        "threads": threads,
        "usable_cores": len(os.sched_getaffinity(0)),
    }
    what = (
        f"BiLSTM-CRF{' with characters' if command.characters else ''}, {task.data.name}, batch {command.batch_size}, "
        f"{command.hidden} features a direction, {len(tokens)} steps, {np.mean(tokens):.0f} tokens a step"
    )
    return {"what": what, "machine": machine, "rows": rows}


def show(measured: dict[str, Any]) -> None:
    """Prints the table."""
    rows = [
        (
            name,
            f"{row['first_steps_s']:.2f} s",
            f"{row['median_ms']:.1f} ms",
            "{:.1f} to {:.1f}".format(*row["quartiles_ms"]),
            f"{row['tokens_per_second']:,}",
            f"{row['speed_to_torch']:.2f}",
        )
        for name, row in measured["rows"].items()
    ]
    screen = console.make_console()
    header = ("", "first steps", "median step", "quartiles", "tokens / s", "speed / PyTorch's")
    screen.print(console.plain_table(measured["what"], header, rows))
    screen.print(", ".join(f"{key} {value}" for key, value in measured["machine"].items()), soft_wrap=True, highlight=False)


def run(command: Command) -> None:
    """Measures, shows and writes."""
    harness.check_peers("torch", "torchcrf")
    process.prepare(cache=False)
    measured = measure(command)
    show(measured)
    if command.output is not None:
        write_json(command.output, measured)


main = process.command_line(Command, run, "python -m experiments.benchmarks.tagger", __doc__)

if __name__ == "__main__":
    sys.exit(main())
