"""Inside other people's sharded programs: layers and CRF functions, values and gradients, over four devices as on one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from colnorm import LSTM, Bidirectional, LayerNormLSTM, crf

B, T, K = 8, 5, 3
RNG = np.random.default_rng(0)
EMISSIONS = jnp.asarray(RNG.standard_normal((B, T, K)), jnp.float32)
TAGS = jnp.asarray(RNG.integers(0, K, (B, T)), jnp.int32)
LENGTHS = jnp.arange(B, dtype=jnp.int32) % (T + 1)
CHAIN = crf.Chain(*(jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((K, K), (K,), (K,))))
BATCH = PartitionSpec("data")
WHOLE = PartitionSpec()

CRF = {
    "score": lambda chain, e, tags, n: crf.score(chain, e, tags, n),
    "log_partition": lambda chain, e, tags, n: crf.log_partition(chain, e, n),
    "log_likelihood": lambda chain, e, tags, n: crf.log_likelihood(chain, e, tags, n),
    "log_likelihood, gaps": lambda chain, e, tags, n: crf.log_likelihood(chain, e, tags, mask=e[..., 0] > -0.5),
    "partial_log_likelihood": lambda chain, e, tags, n: crf.partial_log_likelihood(chain, e, jnp.abs(e) < 1.5, n),
    "marginals": lambda chain, e, tags, n: crf.marginals(chain, e, n),
    "pairwise_marginals": lambda chain, e, tags, n: crf.pairwise_marginals(chain, e, n),
    "entropy": lambda chain, e, tags, n: crf.entropy(chain, e, n),
    "viterbi": lambda chain, e, tags, n: crf.viterbi(chain, e, n),
    "k_best": lambda chain, e, tags, n: crf.k_best(chain, e, n, k=2),
    "posterior_decode": lambda chain, e, tags, n: crf.posterior_decode(chain, e, n),
    "cross_entropy": lambda chain, e, tags, n: crf.cross_entropy(chain, e, chain, 2 * e, n),
    "kl_divergence": lambda chain, e, tags, n: crf.kl_divergence(chain, e, chain, 2 * e, n),
    "hinge_loss": lambda chain, e, tags, n: crf.hinge_loss(chain, e, tags, n),
    "expected_cost": lambda chain, e, tags, n: crf.expected_cost(chain, e, jnp.abs(e), n),
    "marginal_log_likelihood": lambda chain, e, tags, n: crf.marginal_log_likelihood(chain, e, tags, n),
}
LAYERS = {
    "LSTM": LSTM(4),
    "LayerNormLSTM, gates": LayerNormLSTM(4),
    "LayerNormLSTM, output": LayerNormLSTM(4, normalize="output"),
    "Bidirectional": Bidirectional(partial(LSTM, 4)),
}


def cases():
    """By name, a function of parameters and batch-major arrays, and these."""
    for name, function in CRF.items():
        yield name, function, CHAIN, (EMISSIONS, TAGS, LENGTHS)
    for name, layer in LAYERS.items():
        params = layer.init(jax.random.key(0), EMISSIONS, LENGTHS)
        yield name, layer.apply, params, (EMISSIONS, LENGTHS)


CASES = {name: case for name, *case in cases()}
# Of every kind one; the rest is a minute and a half of compilation.
QUICK = ("LSTM", "log_likelihood", "viterbi")


def total(results):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(results) if jnp.issubdtype(leaf.dtype, jnp.floating))


def with_gradients(function, over=None):
    """Results, and the gradients of their sum by parameters and by the first array; ``over`` an axis to add up over."""

    def loss(params, *arrays):
        results = function(params, *arrays)
        return total(results) if over is None else jax.lax.psum(total(results), over), results

    def call(params, *arrays):
        gradients, results = jax.grad(loss, (0, 1), has_aux=True)(params, *arrays)
        return results, gradients

    return call


def explicit(function, params, arrays):
    """On the axes that ``jax.make_mesh`` makes."""
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        arrays = jax.device_put(arrays, NamedSharding(mesh, BATCH))
        return jax.jit(with_gradients(function))(jax.device_put(params, NamedSharding(mesh, WHOLE)), *arrays)


def automatic(function, params, arrays):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    arrays = jax.device_put(arrays, NamedSharding(mesh, BATCH))
    return jax.jit(with_gradients(function))(jax.device_put(params, NamedSharding(mesh, WHOLE)), *arrays)


def shard_map(function, params, arrays):
    """With its default checks."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    places = (WHOLE, *[BATCH] * len(arrays))
    inner = jax.shard_map(with_gradients(function, "data"), mesh=mesh, in_specs=places, out_specs=(BATCH, (WHOLE, BATCH)))
    return jax.jit(inner)(params, *arrays)


@pytest.mark.parametrize("how", [explicit, automatic, shard_map])
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_over_four_devices_as_on_one(name, how):
    function, params, arrays = CASES[name]
    expected = with_gradients(function)(params, *arrays)
    found = how(function, params, arrays)
    jax.tree.map(lambda ours, one: np.testing.assert_allclose(ours, one, rtol=1e-4, atol=2e-5), found, expected)


def test_results_on_explicit_axes_lie_as_the_batch_does():
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        emissions, lengths = jax.device_put((EMISSIONS, LENGTHS), NamedSharding(mesh, BATCH))
        tags, score = crf.viterbi(CHAIN, emissions, lengths)
        assert jax.typeof(tags).sharding.spec[0] == jax.typeof(score).sharding.spec[0] == "data"
        y = LAYERS["LSTM"].apply(CASES["LSTM"][1], emissions, lengths)
        assert jax.typeof(y).sharding.spec[0] == "data"
