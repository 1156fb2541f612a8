"""Inside other people's sharded programs: layers and CRF functions, values and gradients, over four devices as on one."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from colnorm import crf
from experiments.correctness import Sizes, make_cases, with_gradients

BATCH = PartitionSpec("data")
WHOLE = PartitionSpec()
CASES = make_cases(Sizes(batch=8, steps=5, tags=3, side=8, features=4))
# Of every kind one; the rest is minutes of compilation.
QUICK = ("LSTM", "BatchNorm, mask", "viterbi")


def explicit(make, params, arrays):
    """On the axes that ``jax.make_mesh`` makes."""
    function = make(None)
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        arrays = jax.device_put(arrays, NamedSharding(mesh, BATCH))
        return jax.jit(with_gradients(function))(jax.device_put(params, NamedSharding(mesh, WHOLE)), *arrays)


def automatic(make, params, arrays):
    function = make(None)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    arrays = jax.device_put(arrays, NamedSharding(mesh, BATCH))
    return jax.jit(with_gradients(function))(jax.device_put(params, NamedSharding(mesh, WHOLE)), *arrays)


def shard_map(make, params, arrays):
    """With its default checks."""
    function = make("data")
    mesh = Mesh(np.array(jax.devices()), ("data",))
    places = (WHOLE, *[BATCH] * len(arrays))
    inner = jax.shard_map(with_gradients(function, "data"), mesh=mesh, in_specs=places, out_specs=(BATCH, (WHOLE, BATCH)))
    return jax.jit(inner)(params, *arrays)


def pmap(make, params, arrays):
    """Gradients of the parameters are those of each part, added up."""

    def call(params, *arrays):
        results, (of_params, of_array) = with_gradients(make("data"))(params, *arrays)
        return results, of_array, jax.lax.psum(of_params, "data")

    parts = jax.tree.map(lambda array: array.reshape(4, -1, *array.shape[1:]), arrays)
    results, of_array, of_params = jax.pmap(call, axis_name="data", in_axes=(None, *[0] * len(arrays)))(params, *parts)
    results, of_array = jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:]), (results, of_array))
    return results, (jax.tree.map(lambda part: part[0], of_params), of_array)


@pytest.mark.parametrize("how", [explicit, automatic, shard_map, pmap])
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_over_four_devices_as_on_one(name, how):
    make, params, arrays = CASES[name]
    expected = jax.jit(with_gradients(make(None)))(params, *arrays)
    found = how(make, params, arrays)
    jax.tree.map(lambda ours, one: np.testing.assert_allclose(ours, one, rtol=1e-4, atol=2e-5), found, expected)


def test_results_on_explicit_axes_lie_as_the_batch_does():
    mesh = jax.make_mesh((4,), ("data",))
    chain, (emissions, lengths) = CASES["viterbi"].params, CASES["LSTM"].arrays
    with jax.set_mesh(mesh):
        emissions, lengths = jax.device_put((emissions, lengths), NamedSharding(mesh, BATCH))
        tags, score = crf.viterbi(chain, emissions, lengths)
        assert jax.typeof(tags).sharding.spec[0] == jax.typeof(score).sharding.spec[0] == "data"
        y = CASES["LSTM"].make(None)(CASES["LSTM"].params, emissions, lengths)
        assert jax.typeof(y).sharding.spec[0] == "data"
