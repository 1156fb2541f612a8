"""cuDNN's bidirectional LSTM, through ``jax.experimental.rnn``, with our parameters: what a GPU's benchmark compares with."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn


def apply(params: Mapping[str, Any], x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
    """``(B, T, D)`` -> ``(B, T, 2H)``, as ``Bidirectional(LSTM)`` of these params; float32, on an NVIDIA GPU only."""
    B, T, D = x.shape
    H = params["forward"]["bias"].shape[0] // 4
    lengths = jnp.full((B,), T, jnp.int32) if lengths is None else lengths
    zeros = jnp.zeros((2, B, H), x.dtype)
    # Full float32: by default cuDNN multiplies in TF32.
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    return rnn.lstm(x, zeros, zeros, _flat(params), lengths, D, H, 1, 0.0, True, highest)[0]


def _flat(params: Mapping[str, Any]) -> jax.Array:
    """All weights as one vector: the kernels of both directions, transposed, then their two biases, the second one zero."""
    directions = [params[name] for name in ("forward", "backward")]
    kernels = [values[name].T.ravel() for values in directions for name in ("input_kernel", "recurrent_kernel")]
    biases = [bias for values in directions for bias in (values["bias"], jnp.zeros_like(values["bias"]))]
    return jnp.concatenate(kernels + biases)
