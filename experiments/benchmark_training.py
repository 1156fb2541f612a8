"""Times whole training steps of the ResNet beside the same network in PyTorch, in one process, interleaved.

    python -m experiments.benchmark_training --output benchmark.json

Both sides start from the same parameters and see the same batch; their losses before and after an update are compared
before anything is timed. A step is forward, backward and SGD with momentum and weight decay, in float32, on the same number
of threads. Compilation and warm-up are timed apart. PyTorch runs in its two memory layouts.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    n: int = 2
    """Blocks in a stage: ResNet-(6n+2)."""
    batch_size: int = 128
    """Images in a step."""
    repeats: int = 15
    """Timed steps of each side."""
    devices: int = 2
    """Our data-parallel step is timed on this many virtual CPU devices too; 1 leaves it out."""
    output: Path | None = None
    """Write the measurements here as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.benchmark_training", args=arguments, description=__doc__)
    try:
        import torch
    except ImportError:
        print("error: the peer is missing: pip install 'colnorm[bench]' (the README names a CPU build)", file=sys.stderr)
        return 1
    from experiments import process

    process.prepare(command.devices)
    measured = measure(command, torch)
    show(measured)
    if command.output is not None:
        from colnorm.checkpoint import write_json

        write_json(command.output, measured)
    return 0


def measure(command: Command, torch: Any) -> dict[str, Any]:
    """Builds both sides, compares a step, times them in turn."""
    import jax
    import numpy as np

    from colnorm.data.images import ImageData, Split
    from colnorm.parallel import AXIS, Parallel
    from colnorm.training import SingleDevice
    from experiments import cifar, process
    from experiments.configs import CIFAR_PRESETS
    from experiments.torch_resnet import TorchResNet

    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (command.batch_size, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, command.batch_size).astype(np.int32)
    split = Split(pixels, labels)
    half = np.full(3, 0.5, np.float32)
    data = ImageData("random", tuple("0123456789"), split, split, split, half, half)
    config = dataclasses.replace(CIFAR_PRESETS["bn"][1], n=command.n, learning_rate=0.01, schedule="constant")
    state = cifar.make_state(config, 10, 1)
    loss_fn = cifar.make_loss(config, data)
    indices = np.arange(command.batch_size, dtype=np.int32)[None]

    def our_step(engine: Any) -> Callable[[], float]:
        current = engine.put_state(state)
        device_data = engine.put_data(cifar.split_arrays(split))

        def step() -> float:
            nonlocal current
            current, sums = engine.train_epoch(current, device_data, indices)
            jax.block_until_ready(current.params)
            return float(sums["loss"][0] / sums["count"][0])

        return step

    def torch_step(layout: Any) -> Callable[[], float]:
        model: Any = TorchResNet(command.n, 10)
        model.load_flax(state.params)
        model = model.to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay)
        images, targets = torch.tensor(pixels).permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.long)

        def step() -> float:
            inputs = ((images.float() / 255 - 0.5) / 0.5).contiguous(memory_format=layout)
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    sides = {"colnorm, 1 device": our_step(SingleDevice(loss_fn(None)))}
    if command.devices > 1:
        engine = Parallel(loss_fn(AXIS), jax.local_devices()[: command.devices])
        sides[f"colnorm, {command.devices} devices"] = our_step(engine)
    sides["torch, channels last"] = torch_step(torch.channels_last)
    sides["torch, contiguous"] = torch_step(torch.contiguous_format)

    first: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for name, step in sides.items():
        began = time.perf_counter()
        losses[name] = [step()]
        first[name] = time.perf_counter() - began
        losses[name].append(step())
    reference = losses["torch, channels last"]
    for name, values in losses.items():
        # The loss before the first update, and after it: forward, backward and optimizer agree.
        np.testing.assert_allclose(values, reference, rtol=2e-4, err_msg=f"{name} computes something else than PyTorch")

    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(command.repeats):
        for name, step in sides.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    best_peer = min(float(np.median(times[name])) for name in sides if name.startswith("torch"))
    rows = {
        name: {
            "first_call_s": round(first[name], 3),
            "median_ms": round(1e3 * float(np.median(values)), 1),
            "quartiles_ms": [round(1e3 * float(q), 1) for q in np.percentile(values, (25, 75))],
            "ratio_to_best_torch": round(float(np.median(values)) / best_peer, 2),
        }
        for name, values in times.items()
    }
    machine = {**process.describe(), "torch": torch.__version__, "threads": threads}
    what = f"ResNet-{6 * command.n + 2} bn, batch {command.batch_size}, float32, {command.repeats} steps each"
    return {"what": what, "machine": machine, "rows": rows}


def show(measured: dict[str, Any]) -> None:
    """Prints the table."""
    from experiments import report

    rows = [
        (
            name,
            f"{row['first_call_s']:.2f} s",
            f"{row['median_ms']:.1f} ms",
            "{:.1f} to {:.1f}".format(*row["quartiles_ms"]),
            f"{row['ratio_to_best_torch']:.2f}",
        )
        for name, row in measured["rows"].items()
    ]
    console = report.make_console()
    header = ("", "first call", "median", "quartiles", "time / best torch")
    console.print(report.plain_table(measured["what"], header, rows))
    console.print(", ".join(f"{key} {value}" for key, value in measured["machine"].items()), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
