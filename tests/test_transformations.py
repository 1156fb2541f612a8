"""Inside other people's sharded programs: layers and CRF functions, values and gradients, over four devices as on one."""

from functools import partial
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from colnorm import (
    LSTM,
    BatchInstanceNorm,
    BatchNorm,
    Bidirectional,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LayerNormLSTM,
    ResNet,
    crf,
)
from colnorm.resnet import Normalization

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
SEGMENT_CHAIN = crf.segments.SegmentChain(
    *(jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((K, K), (K,), (K,), (3, K)))
)
SEGMENTS = {
    "segments.log_partition": lambda chain, e, n: crf.segments.log_partition(chain, e, n),
    "segments.marginals": lambda chain, e, n: crf.segments.marginals(chain, e, n),
    "segments.token_marginals": lambda chain, e, n: crf.segments.token_marginals(chain, e, n),
    "segments.entropy": lambda chain, e, n: crf.segments.entropy(chain, e, n),
    "segments.viterbi": lambda chain, e, n: crf.segments.viterbi(chain, e, n),
}
IMAGES = jnp.asarray(RNG.standard_normal((B, 8, 8, 4)), jnp.float32)
PIXELS = jnp.asarray(RNG.random((B, 8, 8)) < 0.7)
NORMS = {
    "BatchNorm": lambda axis: BatchNorm(use_running_average=False, axis_name=axis),
    "BatchInstanceNorm": lambda axis: BatchInstanceNorm(use_running_average=False, axis_name=axis),
    "InstanceNorm": lambda axis: InstanceNorm(),
    "LayerNorm": lambda axis: LayerNorm(),
    "GroupNorm": lambda axis: GroupNorm(2),
}
LAYERS = {
    "LSTM": LSTM(4),
    "LayerNormLSTM, gates": LayerNormLSTM(4),
    "LayerNormLSTM, output": LayerNormLSTM(4, normalize="output"),
    "Bidirectional": Bidirectional(partial(LSTM, 4)),
}


def with_statistics(make, axis, **arguments):
    """A layer or a network as a function of parameters and arrays; its new statistics are told for every example."""

    def call(params, x, *arrays):
        y, updated = make(axis).apply(params, x, **dict(zip(arguments, arrays, strict=True)), mutable=["batch_stats"])
        return y, jax.tree.map(lambda part: jnp.broadcast_to(part, (len(x), *part.shape)), updated)

    return call


def cases():
    """By name: axis -> a function of parameters and batch-major arrays; its parameters; the arrays."""
    for name, function in CRF.items():
        yield name, lambda axis, function=function: function, CHAIN, (EMISSIONS, TAGS, LENGTHS)
    for name, function in SEGMENTS.items():
        yield name, lambda axis, function=function: function, SEGMENT_CHAIN, (EMISSIONS, LENGTHS)
    for name, layer in LAYERS.items():
        params = layer.init(jax.random.key(0), EMISSIONS, LENGTHS)
        yield name, lambda axis, layer=layer: layer.apply, params, (EMISSIONS, LENGTHS)
    for name, make in NORMS.items():
        params = make(None).init(jax.random.key(0), IMAGES)
        for more, arrays in (("", ()), (", mask", (PIXELS,))):
            function = partial(with_statistics, make, **dict.fromkeys(("mask",)[: len(arrays)]))
            yield name + more, function, params, (IMAGES, *arrays)
    for name in get_args(Normalization):

        def network(axis, name=name):
            return Training(ResNet(n=1, num_classes=K, normalization=name, num_groups=4, axis_name=axis))

        params = jax.jit(network(None).init)(jax.random.key(0), IMAGES)
        yield f"ResNet, {name}", partial(with_statistics, network), params, (IMAGES,)


class Training(NamedTuple):
    """A network in training."""

    model: ResNet

    def init(self, key, x):
        return self.model.init(key, x, train=False)

    def apply(self, params, x, **how):
        return self.model.apply(params, x, train=True, **how)


CASES = {name: case for name, *case in cases()}
# Of every kind one; the rest is minutes of compilation.
QUICK = ("LSTM", "BatchNorm, mask", "log_likelihood", "viterbi")


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
    with jax.set_mesh(mesh):
        emissions, lengths = jax.device_put((EMISSIONS, LENGTHS), NamedSharding(mesh, BATCH))
        tags, score = crf.viterbi(CHAIN, emissions, lengths)
        assert jax.typeof(tags).sharding.spec[0] == jax.typeof(score).sharding.spec[0] == "data"
        y = LAYERS["LSTM"].apply(CASES["LSTM"][1], emissions, lengths)
        assert jax.typeof(y).sharding.spec[0] == "data"
