"""Our LSTM and JAX's reference of cuDNN's, through the same weights: an oracle of both, where there is no GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from recurrent_cases import assert_close, random_array

from colnorm import LSTM, Bidirectional
from experiments.benchmarks.peers import cudnn_lstm

B, T, D, H = 5, 7, 3, 4


def reference(x, h, c, weights, lengths, inputs, features, layers, dropout, bidirectional, precision):
    """What cuDNN computes, as JAX's own tests have it."""
    assert precision == (jax.lax.Precision.HIGHEST,) * 2
    unpacked = rnn.unpack_lstm_weights(weights, inputs, features, layers, bidirectional)
    return rnn.lstm_ref(x, h, c, *unpacked, lengths, inputs, features, layers, dropout, bidirectional)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [None, [7, 1, 3, 6, 2]])
def test_outputs_and_gradients_are_ours(lengths, monkeypatch):
    monkeypatch.setattr(rnn, "lstm", reference)
    layer = Bidirectional(partial(LSTM, H))
    params = layer.init(jax.random.key(0), jnp.zeros((1, 1, D)))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * random_array(leaf.shape), params)
    x, cotangent = random_array((B, T, D), seed=1), random_array((B, T, 2 * H), seed=2)
    lengths = None if lengths is None else np.array(lengths, np.int32)

    def read(apply):
        outputs, pull_back = jax.vjp(apply, params, x)
        return outputs, *pull_back(cotangent)

    theirs = read(lambda params, x: cudnn_lstm.apply(params, x, lengths))
    ours = read(lambda params, x: layer.apply({"params": params}, x, lengths))
    assert_close(ours, theirs, 1e-5)
