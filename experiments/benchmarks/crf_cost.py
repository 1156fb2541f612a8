"""Times the CRF's training step over the number of tags C: does it grow with C^2, as N C^2 operations say (2.2)?

python -m experiments.benchmarks.crf_cost --output crf_cost.json
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from colnorm import crf, process
from colnorm.files import write_json
from colnorm.tasks import console
from experiments.benchmarks import harness


@dataclasses.dataclass(frozen=True)
class Command:
    """What to time."""

    tags: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Numbers of tags."""
    sequences: int = 32
    """Sequences in a batch."""
    steps: int = 32
    """Steps of each."""
    repeats: int = 7
    """Visits to each size."""
    output: Path | None = None
    """Write the measurements here as JSON."""


def measure(command: Command) -> dict[str, Any]:
    """Milliseconds of loss and gradient at each number of tags, and from each to the next the power of it they grow with."""
    rng = np.random.default_rng(0)

    def side(tags: int) -> Any:
        parts: Any = [0.1 * rng.standard_normal(shape).astype(np.float32) for shape in ((tags, tags), tags, tags)]
        chain = crf.Chain(*parts)
        emissions = rng.standard_normal((command.sequences, command.steps, tags)).astype(np.float32)
        gold = rng.integers(0, tags, (command.sequences, command.steps)).astype(np.int32)

        @jax.jit
        def step(chain: crf.Chain, emissions: jax.Array, gold: jax.Array) -> Any:
            def loss(chain: crf.Chain, emissions: jax.Array) -> jax.Array:
                return -crf.log_likelihood(chain, emissions, gold).mean()

            return jax.value_and_grad(loss, (0, 1))(chain, emissions)

        arguments = jax.device_put((chain, emissions, gold))
        return lambda: jax.block_until_ready(step(*arguments))

    rows = harness.measure({str(tags): side(tags) for tags in command.tags}, repeats=command.repeats)
    times = [rows[str(tags)]["median_ms"] for tags in command.tags]
    # Products of 2 C^2 operations: forward, backward, the gradient of the transitions.
    operations = [6 * command.sequences * command.steps * tags**2 for tags in command.tags]
    growth = [
        float(np.log(later / earlier) / np.log(more / fewer))
        for earlier, later, fewer, more in zip(times, times[1:], command.tags, command.tags[1:], strict=False)
    ]
    return {
        "what": f"CRF loss + gradient, {command.sequences} sequences of {command.steps} steps, float32",
        "tags": list(command.tags),
        "milliseconds": times,
        "gigaflops": [round(count / (1e6 * time), 2) for count, time in zip(operations, times, strict=True)],
        "growth": [round(power, 2) for power in growth],
        "machine": process.describe(),
    }


def run(command: Command) -> None:
    """Measures, shows and writes."""
    process.prepare()
    measured = measure(command)
    columns = ("tags", "ms", "GFLOP/s", "grows with tags to the")
    powers = ["", *(f"{power:.2f}" for power in measured["growth"])]
    rows = [
        (str(tags), f"{time:.2f}", f"{rate:.1f}", power)
        for tags, time, rate, power in zip(
            measured["tags"], measured["milliseconds"], measured["gigaflops"], powers, strict=True
        )
    ]
    console.make_console().print(console.plain_table(measured["what"], columns, rows))
    if command.output is not None:
        write_json(command.output, measured)


main = process.command_line(Command, run, "python -m experiments.benchmarks.crf_cost", __doc__)

if __name__ == "__main__":
    sys.exit(main())
