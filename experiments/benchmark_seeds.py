"""Times a training step of several seeds at once, under ``vmap``, beside the same steps one after another, interleaved.

    python -m experiments.benchmark_seeds --output results/speed/seeds.json

Every seed has parameters and optimizer state of its own, all see batches of the same size, and both sides' losses after an
update are compared before anything is timed. This decides whether ``experiments.reproduce --seeds`` should train the seeds
of a row together; ``--jobs``, a process and a core for each, is what they are up against on a CPU. On an accelerator a
call is a ``lax.scan`` over steps, as in training.

On two cores of an AMD EPYC: images 2.3 times (two seeds) and 2.5 times (four) as long together as one after another, since
``vmap`` over kernels makes grouped convolutions, which XLA's CPU backend does slowly; taggers 1.04 and 0.81 times.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import tyro

from experiments import benchmarking

STEPS_IN_SCAN = 50


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    seeds: tuple[int, ...] = (2, 4)
    """How many train together; a case each."""
    batch_size: int = 128
    """Images, or sentences, in a step of each seed."""
    repeats: int = 7
    """Timed visits to each side."""
    output: Path | None = None
    """Write the measurements here as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    command = tyro.cli(Command, prog="python -m experiments.benchmark_seeds", args=arguments, description=__doc__)
    from colnorm.files import write_json
    from experiments import process

    process.prepare(1, cache=False)
    measured = measure(command)
    benchmarking.show(measured)
    if command.output is not None:
        write_json(command.output, measured)
    return 0


def measure(command: Command) -> dict[str, Any]:
    """Both tasks, each number of seeds."""
    from experiments import process

    rows: dict[str, Any] = {}
    for name, make in (("ResNet-14 bn", make_images), ("BiLSTM tagger", make_tagger)):
        loss_fn, states, data = make(command.batch_size, max(command.seeds))
        for count in command.seeds:
            sides = make_sides(loss_fn, states[:count], data, command.batch_size)
            check = functools.partial(check_losses, sides)
            rows[f"{name}, {count} seeds"] = benchmarking.measure(sides, check=check, repeats=command.repeats)
    return {"what": "a training step of each of several seeds", "machine": process.describe(), "rows": rows}


def make_images(batch_size: int, seeds: int) -> tuple[Any, list[Any], Any]:
    """Loss, states and data of a ResNet on random images."""
    import numpy as np

    from colnorm.data.images import ImageData, Split
    from experiments import cifar
    from experiments.configs import CIFAR_PRESETS

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * batch_size, 32, 32, 3), np.uint8)
    split = Split(pixels, rng.integers(0, 10, len(pixels)).astype(np.int32))
    half = np.full(3, 0.5, np.float32)
    config = dataclasses.replace(CIFAR_PRESETS["bn"][1], learning_rate=0.01, schedule="constant")
    loss_fn = cifar.make_loss(config, ImageData("random", tuple("0123456789"), split, split, split, half, half))(None)
    states = [cifar.make_state(dataclasses.replace(config, seed=seed), 10, 1) for seed in range(seeds)]
    return loss_fn, states, cifar.split_arrays(split)


def make_tagger(batch_size: int, seeds: int) -> tuple[Any, list[Any], Any]:
    """Loss, states and data of the ``random`` tagger on sentences of the grammar, all of one padded length."""
    import jax

    from colnorm import tagger
    from colnorm.data import conll
    from experiments import ner
    from experiments.configs import NER_PRESETS

    config = dataclasses.replace(NER_PRESETS["random"][1], data="sample", learning_rate=0.001)
    data = conll.load(config.data, config.seed)
    encoder = ner.make_encoder(config, data)
    model = tagger.build(ner.tagger_fields(config, encoder, config.word_features))
    schedule = ner.make_schedule(config, 1)
    states = [ner.make_state(dataclasses.replace(config, seed=seed), model, encoder, schedule) for seed in range(seeds)]
    split = ner.Split.make(data.train[: 2 * batch_size], encoder, 1)
    return ner.make_loss(config, model), states, jax.tree.map(lambda values: values[: 2 * batch_size], split.arrays[0])


def make_sides(loss_fn: Any, states: Sequence[Any], data: Any, batch_size: int) -> dict[str, Callable[[], Any]]:
    """The sides by name, each a step of all seeds that returns their losses."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from colnorm.training import scan_steps, train_step

    data = jax.tree.map(jnp.asarray, dict(data))
    orders = [np.random.default_rng(seed).permutation(2 * batch_size)[:batch_size] for seed in range(len(states))]
    step: Callable[..., Any] = functools.partial(train_step, loss_fn=loss_fn)
    many = jax.vmap(step, in_axes=(0, None, 0))
    indices = np.stack(orders).astype(np.int32)
    steps = 1
    if jax.default_backend() != "cpu":
        steps, step, many = STEPS_IN_SCAN, scan_steps(step), scan_steps(many)
    one_by_one, together = jax.jit(step, donate_argnums=0), jax.jit(many, donate_argnums=0)

    def put(order: np.ndarray) -> jax.Array:
        return jnp.asarray(order if steps == 1 else np.tile(order, (steps, *[1] * order.ndim)))

    states = [state.replace(apply_fn=states[0].apply_fn, tx=states[0].tx) for state in states]  # so that they stack
    separate = [(jax.tree.map(jnp.array, state), put(order)) for state, order in zip(states, indices, strict=True)]
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *states)
    all_indices = put(indices)

    def step_separate() -> np.ndarray:
        losses = []
        for number, (state, batch) in enumerate(separate):
            state, sums = one_by_one(state, data, batch)
            separate[number] = (state, batch)
            losses.append(sums["loss"])
        return np.stack(jax.device_get(losses), -1)

    def step_together() -> np.ndarray:
        nonlocal stacked
        stacked, sums = together(stacked, data, all_indices)
        return cast(np.ndarray, jax.device_get(sums["loss"]))

    return {"one after another": step_separate, "together, vmap": step_together}


def check_losses(sides: dict[str, Callable[[], Any]], first: dict[str, Any]) -> dict[str, float]:
    """Raises ``AssertionError`` where the two sides' losses differ, before the first update or after it."""
    import numpy as np

    one, other = ([losses, sides[name]()] for name, losses in first.items())
    np.testing.assert_allclose(other, one, rtol=1e-3, err_msg="seeds together compute something else than alone")
    return {}


if __name__ == "__main__":
    sys.exit(main())
