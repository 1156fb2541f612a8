"""Times whole training steps of the ResNet beside the same network in PyTorch, in one process, interleaved.

    python -m experiments.benchmarks.training --output benchmark.json
    python -m experiments.benchmarks.training --plain                 # both sides with the allocator as it comes
    python -m experiments.benchmarks.training --curve curve.png       # over batch sizes

All sides start from the same parameters and see the same batch; their losses before and after an update are compared before
anything is timed. A step is forward, backward and SGD with momentum and weight decay, in float32. PyTorch shares the
process, so that what ``experiments/process.py`` prepares serves it too; it runs in both memory layouts and, with
``--compiled``, through ``torch.compile``, which takes a C++ compiler and a minute.

On an accelerator bfloat16, an epoch as one compiled scan and the device's own rates of copying and of matrix products are
timed too; PyTorch takes part where it has a GPU of its own.

Where the time goes on two virtual devices of one core, of 260 ms: 149 convolutions and sums in YNNPACK, 16 transposes of
weight gradients, 20 to 30 all-reduces (batch statistics, gradients; mostly one device waiting for the other), the rest norm,
relu and sums. The convolutions do 20.5e9 operations, a third more where 16 channels are paired (``colnorm/convolution.py``):
at 150 GFLOP/s together they are near what the cores can do; PyTorch's 16-channel kernels need no pairing. Tried without gain:
huge pages for the allocator's memory, all gradients in one all-reduce.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import process
from colnorm.data.images import ImageData, Split
from colnorm.parallel import Sharded
from colnorm.training import TrainState, create_state
from experiments import images, plotting
from experiments.benchmarks import harness
from experiments.configs import ImageConfig
from experiments.presets import PRESETS

CURVE = (16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    n: int = 2
    """Blocks in a stage: ResNet-(6n+2)."""
    batch_size: int = 128
    """Images in a step."""
    repeats: int = 11
    """Timed visits to each side."""
    devices: int | None = None
    """Our data-parallel step is timed on this many virtual CPU devices too; one a core by default, 1 leaves it out."""
    plain: bool = False
    """Leave the allocator as it comes, on both sides."""
    compiled: bool = False
    """PyTorch through torch.compile too."""
    output: Path | None = None
    """Write the measurements here as JSON."""
    curve: Path | None = None
    """Measure over batch sizes and draw the times here."""


def run(command: Command) -> None:
    """Measures, shows and draws."""
    harness.check_peers()
    process.prepare(command.devices, command.batch_size, keep_memory=not command.plain, cache=False)
    measured = measure(command)
    harness.finish(measured, command.output)
    if command.curve is not None:
        print(f"picture: {draw(measured, command.curve)}")


def measure(command: Command) -> dict[str, Any]:
    """Builds the sides, compares their first steps, times them in turn, at each batch size."""
    machine = harness.machine()
    rows: dict[str, Any] = {}
    for batch_size in CURVE if command.curve is not None else (command.batch_size,):
        sides = make_sides(command, batch_size)
        check = functools.partial(check_losses, sides) if harness.peers_ready() else None
        rows[f"batch {batch_size}"] = harness.measure(sides, check=check, repeats=command.repeats)
    allocator = "the allocator as it comes" if command.plain else "freed memory kept"
    return {"what": f"ResNet-{6 * command.n + 2} bn, a step, {allocator}", "machine": machine, "rows": rows}


def make_sides(command: Command, batch_size: int) -> dict[str, Callable[[], Any]]:
    """The sides by name, each a step that returns its loss."""
    config = dataclasses.replace(
        PRESETS["bn"].config, n=command.n, norm_placement="before_addition", learning_rate=0.01, schedule="constant"
    )
    data, state = make_task(config, batch_size)
    pixels, labels = data.train
    loss_fn = functools.partial(images.make_loss, config, data)
    indices = np.arange(batch_size, dtype=np.int32)[None]

    def our_step(engine: Any, batches: np.ndarray = indices) -> Callable[[], float]:
        return engine_step(engine, state, data.train, batches)

    one = jax.local_devices()[:1]
    sides: dict[str, Callable[[], Any]] = {"colnorm, 1 device": our_step(Sharded(loss_fn, one))}
    devices = jax.local_devices()[: command.devices]
    if len(devices) > 1 and batch_size % len(devices) == 0:
        sides[f"colnorm, {len(devices)} devices"] = our_step(Sharded(loss_fn, devices))
    if jax.default_backend() != "cpu":
        half_width = functools.partial(images.make_loss, dataclasses.replace(config, dtype="bfloat16"), data)
        epoch = np.tile(indices, (40_000 // batch_size, 1))
        sides |= {
            "colnorm, bfloat16": our_step(Sharded(half_width, one)),
            "colnorm, 40,000 images as one scan": our_step(Sharded(loss_fn, one), epoch),
            "colnorm, the same in bfloat16": our_step(Sharded(half_width, one), epoch),
            **ceilings(),
        }
    if not harness.peers_ready():
        return sides

    import torch

    layouts = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
    for name, layout in layouts.items():
        sides[f"torch, {name}"] = torch_step(command.n, state.params, config, pixels, labels, layout)
    if command.compiled:
        step = torch_step(command.n, state.params, config, pixels, labels, torch.channels_last, compiled=True)
        sides["torch, channels last, compiled"] = step
    return sides


def make_task(config: ImageConfig, batch_size: int) -> tuple[ImageData, TrainState]:
    """Random images, one batch of them, and a state to train on them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch_size, 32, 32, 3), np.uint8)
    split = Split(pixels, rng.integers(0, 10, batch_size).astype(np.int32))
    half = np.full(3, 0.5, np.float32)
    data = ImageData("random", tuple("0123456789"), split, split, split, half, half)
    tx = images.make_optimizer(config, images.make_schedule(config, 1))
    state = create_state(images.make_model(config, 10), tx, config.seed, np.zeros((1, 32, 32, 3), np.float32))
    return data, state


def engine_step(engine: Any, state: TrainState, split: Split, batches: np.ndarray) -> Callable[[], float]:
    """Training on ``batches``, from one call to the next; returns the loss of their first."""
    current, data = engine.put_state(state), engine.put_data(images.split_arrays(split))

    def step() -> float:
        nonlocal current
        current, sums = engine.train_epoch(current, data, batches)
        jax.block_until_ready(current.params)
        return float(sums["loss"][0] / sums["count"][0])

    return step


def check_losses(sides: dict[str, Callable[[], Any]], first: dict[str, float]) -> dict[str, float]:
    """Raises ``AssertionError`` where the loss before the first update, or that after it, is not PyTorch's."""
    exact = [name for name in first if name.startswith("torch") or "device" in name]  # float32, one step a call
    losses = {name: [first[name], sides[name]()] for name in exact}
    for name, values in losses.items():
        reference = losses["torch, channels last"]
        np.testing.assert_allclose(values, reference, rtol=2e-4, err_msg=f"{name} computes something else than PyTorch")
    return {}


def torch_step(
    n: int, params: Any, config: Any, pixels: Any, labels: Any, layout: Any, compiled: bool = False
) -> Callable[[], float]:
    """A step of the peer, on the same parameters and the same batch."""
    import torch

    from experiments.benchmarks.peers.resnet import TorchResNet

    model: Any = TorchResNet(n, 10)
    model.load_flax(params)
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay)
    inputs_nchw, targets = torch.tensor(pixels).permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.long)
    run = torch.compile(model) if compiled else model

    def step() -> float:
        inputs = ((inputs_nchw.float() / 255 - 0.5) / 0.5).contiguous(memory_format=layout)
        loss = torch.nn.functional.cross_entropy(run(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def ceilings() -> dict[str, Callable[[], Any]]:
    """What no step can be faster than: copying a gibibyte on the device, and 1.1e12 operations of matrix products."""
    block = jnp.ones((2**28,), jnp.float32)
    single, half = jnp.ones((8192, 8192), jnp.float32), jnp.ones((8192, 8192), jnp.bfloat16)
    copy, product = jax.jit(lambda x: x + 1), jax.jit(jnp.matmul)
    return {
        "copy of 1 GiB": lambda: copy(block).block_until_ready(),
        "8192^3 product, float32": lambda: product(single, single).block_until_ready(),
        "8192^3 product, bfloat16": lambda: product(half, half).block_until_ready(),
    }


def draw(measured: dict[str, Any], path: Path) -> Path:
    """Milliseconds an image over batch sizes, a curve a side."""
    sizes = [int(case.removeprefix("batch ")) for case in measured["rows"]]
    names = next(iter(measured["rows"].values()))
    curves = {name: [measured["rows"][f"batch {size}"][name]["median_ms"] / size for size in sizes] for name in names}
    return plotting.draw_lines(sizes, curves, path, measured["what"], "batch size", "ms an image")


main = process.command_line(Command, run, "python -m experiments.benchmarks.training", __doc__)

if __name__ == "__main__":
    sys.exit(main())
