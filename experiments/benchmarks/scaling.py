"""Training steps over devices: measured on virtual ones, and on paper for 8 to 1,024 accelerators.

    python -m experiments.benchmarks.scaling --output scaling.json --picture scaling.png
    python -m experiments.benchmarks.scaling --mapped-gib 4    # besides, images in a file that stays with the host

Measured: a ResNet-14's step on 1, 2 and 4 devices, with one batch for all of them (strong scaling) and with one for each
(weak scaling), under ``jit`` and under ``pmap``, with the images on the device and streamed from the host. Their first losses
are compared. Virtual devices share the cores of a CPU: they show that the program is right and what the split itself costs,
not that it gets faster.

On paper: a step on N devices takes what one device takes for its part of the batch, and then, without any overlap, K sums
over devices of B bytes together::

    t(N) = t_1 * part + 2 (N - 1) / N * B / W + 2 K log2(N) L

with W bytes a second and L seconds of latency of the link (recursive halving and doubling; Thakur, Rabenseifner and Gropp,
2005, Optimization of collective communication operations in MPICH, section 4.4). B and K are counted in the compiled
program, t_1 is measured here or given by ``--step-ms``; rates of links are their makers', latencies are guesses. Batch
normalization's sums wait for each other, so that K is 40 with it and 1 with group normalization.
"""

import dataclasses
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm import process
from colnorm.data.images import Split
from colnorm.parallel import Parallel, Sharded
from colnorm.training import TrainState
from experiments import images, plotting
from experiments.benchmarks import harness, training
from experiments.presets import PRESETS

LINKS = {
    "NVLink 4, 450 GB/s, 3 us": (450e9, 3e-6),
    "InfiniBand NDR, 50 GB/s, 5 us": (50e9, 5e-6),
    "Ethernet, 12.5 GB/s, 20 us": (12.5e9, 20e-6),
}
"""Bytes a second of one device in one direction, and seconds of latency."""
MANY = tuple(2**power for power in range(11))
WORTH = 0.5
"""Where less than half of each device's time is of use, more of them don't pay."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What to measure."""

    devices: tuple[int, ...] = (1, 2, 4)
    """Virtual ones, the first of them 1."""
    batch_size: int = 128
    """Of all devices together (strong), or of each (weak)."""
    normalizations: tuple[str, ...] = ("bn", "gn")
    step_ms: tuple[float, ...] = (5.0,)
    """One device's step for the model on paper, besides the one measured here."""
    repeats: int = 7
    mapped_gib: float = 0.0
    """Size of a file of images that a training reads while it stays with the host."""
    output: Path | None = None
    """Write the measurements here as JSON."""
    picture: Path | None = None
    """Draw the efficiency on paper here."""


def run(command: Command) -> None:
    """Measures, shows and draws."""
    process.prepare(max(command.devices), cache=False)
    measured = measure(command)
    harness.finish(measured, command.output)
    if command.picture is not None:
        print(f"picture: {draw(measured, command.picture)}")


def measure(command: Command) -> dict[str, Any]:
    """Rows of measured steps, sizes of the sums, and the model's figures."""
    rows: dict[str, Any] = {}
    sums: dict[str, Any] = {}
    notes: list[str] = []
    paper: list[dict[str, Any]] = []
    for normalization in command.normalizations:
        for kind in ("strong", "weak"):
            sides = {}
            for devices in command.devices:
                size = command.batch_size * (devices if kind == "weak" else 1)
                sides[side_name(devices)] = make_side(normalization, devices, size)
            if kind == "strong":
                sides["1 device, streamed"] = make_side(normalization, 1, command.batch_size, partial(Sharded, stream=True))
                for devices in command.devices[1:]:
                    sides[f"{side_name(devices)}, pmap"] = make_side(normalization, devices, command.batch_size, Parallel)
                check = partial(check_losses, sides)
                rows[f"{normalization}, strong, {command.batch_size} in all"] = row = harness.measure(
                    sides, check=check, repeats=command.repeats
                )
                step_ms = row[side_name(1)]["median_ms"]
            else:
                rows[f"{normalization}, weak, {command.batch_size} each"] = harness.measure(sides, repeats=command.repeats)
        sums[normalization] = counted = count_sums(normalization, command.batch_size, max(command.devices))
        notes.append(
            f"{normalization}: {counted['parameters']:,} parameters; {counted['bytes']:,} bytes in {counted['sums']} sums"
        )
        for given in (step_ms, *command.step_ms):
            for link in LINKS:
                weak = [efficiency(given / 1e3, counted, devices, link) for devices in MANY]
                few = [devices for devices in MANY if devices <= command.batch_size]  # an example each
                strong = [efficiency(given / 1e3, counted, devices, link, part=1 / devices) for devices in few]
                told = {"normalization": normalization, "step_ms": given, "link": link, "weak": weak, "strong": strong}
                paper.append({**told, "pays_to": max(n for n, value in zip(few, strong, strict=True) if value >= WORTH)})
    for line in paper:
        notes.append(
            f"{line['normalization']}, {line['step_ms']:g} ms a step, {line['link']}: at {MANY[-1]:,} devices "
            f"{line['weak'][-1]:.0%} efficient with a batch each; with one batch for all it pays to {line['pays_to']:,}"
        )
    mapped = measure_mapped(command.mapped_gib, command.batch_size) if command.mapped_gib else None
    if mapped:
        notes.append(
            f"{mapped['gib']:g} GiB in a file: {mapped['ms_a_step']:.0f} ms a step, {mapped['resident_ms_a_step']:.0f} "
            f"with {command.batch_size} of them on the device; {mapped['own_mib']:,.0f} MiB more of the process's own memory"
        )
    return {
        "what": "ResNet-14, a training step over devices",
        "machine": process.describe(),
        "rows": rows,
        "sums": sums,
        "devices": list(MANY),
        "paper": paper,
        "mapped": mapped,
        "notes": notes,
    }


def side_name(devices: int) -> str:
    return f"{devices} device{'s' if devices > 1 else ''}"


def make_task(normalization: str, batch_size: int) -> tuple[Callable[[str | None], Any], TrainState, Split]:
    """Axis name -> loss, a state, and the images."""
    config = dataclasses.replace(PRESETS[normalization].config, learning_rate=0.01, schedule="constant")
    data, state = training.make_task(config, batch_size)
    return partial(images.make_loss, config, data), state, data.train


def make_side(normalization: str, devices: int, batch_size: int, kind: Callable[..., Any] = Sharded) -> Callable[[], float]:
    """A step on an engine, which returns its loss."""
    loss_fn, state, split = make_task(normalization, batch_size)
    engine = kind(loss_fn, jax.local_devices()[:devices], scan=False)
    return training.engine_step(engine, state, split, np.arange(batch_size, dtype=np.int32)[None])


def check_losses(sides: dict[str, Callable[[], float]], first: dict[str, float]) -> dict[str, float]:
    """Raises ``AssertionError`` where the loss before or after the first update is not that of one device."""
    for name, loss in first.items():
        after = sides[name]()
        if name == side_name(1):
            expected = [loss, after]
        np.testing.assert_allclose([loss, after], expected, rtol=2e-4, err_msg=f"{name} computes something else than one")
    return {}


def count_sums(normalization: str, batch_size: int, devices: int) -> dict[str, int]:
    """The all-reduces of a compiled step and their bytes, beside the number of parameters."""
    loss_fn, state, split = make_task(normalization, batch_size)
    engine = Sharded(loss_fn, jax.local_devices()[:devices], scan=False)
    data, batches = engine.put_data(images.split_arrays(split)), np.arange(batch_size, dtype=np.int32)[None]
    inputs = next(engine._batches(data, batches))
    step: Any = engine._train
    program = step.lower(engine.put_state(state), *inputs).compile().as_text()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {"parameters": parameters, **all_reduces(program)}


def all_reduces(program: str) -> dict[str, int]:
    """How many all-reduces a compiled program has, and the bytes of their results."""
    widths = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "pred": 1, "u8": 1, "s8": 1}
    shapes = re.findall(r"= (.*?) all-reduce(?:-start)?\(", program)
    total = 0
    for kind, sizes in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", " ".join(shapes)):
        total += widths[kind] * int(np.prod([int(size) for size in sizes.split(",") if size]))
    return {"bytes": total, "sums": len(shapes)}


def efficiency(step_s: float, sums: dict[str, int], devices: int, link: str, part: float = 1.0) -> float:
    """The share of a device's time that is its part of the batch, by the formula above."""
    rate, latency = LINKS[link]
    computing = step_s * part
    adding = 2 * (devices - 1) / devices * sums["bytes"] / rate + 2 * sums["sums"] * np.log2(devices) * latency
    return float(computing / (computing + adding))


def measure_mapped(gib: float, batch_size: int, steps: int = 20) -> dict[str, float]:
    """A training over images of a file that is larger than what is on the device at any time."""
    count = int(gib * 2**30) // (32 * 32 * 3)
    loss_fn, state, split = make_task("bn", batch_size)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        file = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 32, 32, 3))
        for first in range(0, count, 2**16):
            file[first : first + 2**16] = rng.integers(0, 256, (min(2**16, count - first), 32, 32, 3), np.uint8)
        file.flush()
        del file
        labels = rng.integers(0, 10, count).astype(np.int32)
        batches = rng.choice(count, (steps + 1, batch_size), replace=False).astype(np.int32)
        times = {}
        before = harness.resident_kib("RssAnon")
        for stream in (True, False):
            engine = Sharded(loss_fn, jax.local_devices()[:1], scan=False, stream=stream)
            whole = {"images": np.load(path, mmap_mode="r"), "labels": labels}
            data = engine.put_data(whole if stream else images.split_arrays(split))
            chosen = batches if stream else np.tile(np.arange(batch_size, dtype=np.int32), (steps + 1, 1))
            current, _ = engine.train_epoch(engine.put_state(state), data, chosen[:1])
            began = time.perf_counter()
            current, _ = engine.train_epoch(current, data, chosen[1:])
            times[stream] = (time.perf_counter() - began) / steps
            if stream:
                own = (harness.resident_kib("RssAnon") - before) / 1024
    return {"gib": gib, "ms_a_step": times[True] * 1e3, "resident_ms_a_step": times[False] * 1e3, "own_mib": own}


def draw(measured: dict[str, Any], path: Path) -> Path:
    """Efficiency over devices, with a batch for each, of the largest step time: a curve a link and a normalization."""
    given = min(line["step_ms"] for line in measured["paper"])
    curves = {
        f"{line['normalization']}, {line['link'].split(',')[0]}": line["weak"]
        for line in measured["paper"]
        if line["step_ms"] == given
    }
    title = f"{measured['what']}, on paper, {given:g} ms on one"
    return plotting.draw_lines(measured["devices"], curves, path, title, "devices", "efficiency, a batch each")


main = process.command_line(Command, run, "python -m experiments.benchmarks.scaling", __doc__)

if __name__ == "__main__":
    sys.exit(main())
