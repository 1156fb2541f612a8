"""The benchmark over devices: what is counted in a compiled program, and the model on paper against its limits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import scaling


def test_the_sums_of_a_program_are_counted():
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    add = partial(jax.lax.psum, axis_name="d")

    def step(x):
        total = add(x)  # (3, 5)
        return add(x * jnp.sum(total)), add(jnp.sum(total**2 * x).astype(jnp.bfloat16))

    mapped = jax.shard_map(step, mesh=mesh, in_specs=P("d"), out_specs=P())
    counted = scaling.all_reduces(jax.jit(mapped).lower(jnp.ones((12, 5))).compile().as_text())
    # The CPU computes in float32 what is bfloat16, and may join the last two.
    assert counted["sums"] in (2, 3) and counted["bytes"] in (2 * 60 + 2, 2 * 60 + 4)


@pytest.mark.parametrize("link", scaling.LINKS)
def test_efficiency(link):
    rate, latency = scaling.LINKS[link]
    sums = {"bytes": 10**9, "sums": 3}
    assert scaling.efficiency(1.0, sums, 1, link) == 1
    values = [scaling.efficiency(1.0, sums, devices, link) for devices in (2, 4, 8, 1024)]
    assert values == sorted(values, reverse=True)
    # Two devices: each sends half of the bytes and gets half of the sums.
    assert values[0] == pytest.approx(1 / (1 + 10**9 / rate + 6 * latency))
    half = scaling.efficiency(1.0, sums, 2, link, part=0.5)
    assert half == pytest.approx(0.5 / (0.5 + 10**9 / rate + 6 * latency))


def test_another_loss_is_refused():
    first = {"1 device": 1.0, "2 devices": 1.0}
    scaling.check_losses({name: lambda: 0.5 for name in first}, first)
    with pytest.raises(AssertionError, match="2 devices computes something else"):
        scaling.check_losses({name: lambda: 0.5 for name in first}, {**first, "2 devices": 1.01})
