"""Flax NNX: the chain as a module of it, and our layers through its bridge, under its own jit and grad."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from colnorm import LSTM, BatchNorm, Bidirectional, LinearChainCRF, crf
from colnorm.nnx import LinearChainCRF as NNXLinearChainCRF

B, T, D, K = 3, 5, 4, 3
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((B, T, D)), jnp.float32)
TAGS = jnp.asarray(RNG.integers(0, K, (B, T)), jnp.int32)
LENGTHS = jnp.array([5, 2, 0])


def test_the_chain_is_that_of_the_linen_module():
    layer, linen = NNXLinearChainCRF(K), LinearChainCRF(K)
    params = linen.init(jax.random.key(0))["params"]
    emissions = X[..., :K]

    @nnx.jit
    def gradient(layer, emissions):
        return nnx.grad(lambda layer: crf.log_likelihood(layer(), emissions, TAGS, LENGTHS).sum())(layer)

    ours = gradient(layer, emissions)
    theirs = jax.grad(lambda params: crf.log_likelihood(linen.apply({"params": params}), emissions, TAGS, LENGTHS).sum())(
        params
    )
    for name in ("transitions", "start", "end"):
        np.testing.assert_allclose(ours[name][...], theirs[name], rtol=1e-6, atol=1e-6)
    assert NNXLinearChainCRF(2, param_dtype=jnp.bfloat16).start[...].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="num_tags of at least 1, got 0"):
        NNXLinearChainCRF(0)


def test_statistics_go_through_the_bridge():
    """Two training steps: outputs and running statistics are Linen's; then evaluation."""
    linen = BatchNorm()
    variables = linen.init(jax.random.key(0), X, use_running_average=False)
    layer = nnx.bridge.ToNNX(BatchNorm(), rngs=nnx.Rngs(0)).lazy_init(X, use_running_average=False)

    @nnx.jit
    def step(layer, x):
        return layer(x, use_running_average=False, mutable=["batch_stats"])

    for scale in (1.0, 3.0):
        y, updated = linen.apply(variables, scale * X, use_running_average=False, mutable=["batch_stats"])
        variables = {**variables, **updated}
        np.testing.assert_allclose(step(layer, scale * X), y, rtol=1e-6, atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(getattr(layer, name)[...], variables["batch_stats"][name], rtol=1e-6)
    expected = linen.apply(variables, X, use_running_average=True)
    np.testing.assert_allclose(layer(X, use_running_average=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_tagger_of_bridged_layers_learns():
    class Tagger(nnx.Module):
        def __init__(self, rngs):
            lstm = nnx.bridge.ToNNX(Bidirectional(partial(LSTM, 8)), rngs=rngs)
            self.lstm = lstm.lazy_init(X, LENGTHS)
            self.emission = nnx.Linear(16, K, rngs=rngs)
            self.crf = NNXLinearChainCRF(K)

        def __call__(self, x, lengths):
            return self.emission(self.lstm(x, lengths)), self.crf()

    model = Tagger(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            emissions, chain = model(X, LENGTHS)
            return -crf.log_likelihood(chain, emissions, TAGS, LENGTHS).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam promotes its count
        losses = [float(step(model, optimizer)) for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]
    emissions, chain = model(X, LENGTHS)
    found = crf.viterbi(chain, emissions, LENGTHS)[0]
    inside = np.arange(T) < np.asarray(LENGTHS)[:, None]
    np.testing.assert_array_equal(np.asarray(found)[inside], np.asarray(TAGS)[inside])
