"""Parameters of the recurrent layers: names, places and first values; and what the layers refuse."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_cases import KINDS, B, D, H, T, make, random_params

from colnorm import LSTM, Bidirectional, LayerNormLSTM

X = jnp.zeros((B, T, D))
ONE = jnp.zeros((B, H))

# ------------------------------------------------------------------------------------- parameters and initialization


@pytest.mark.parametrize("kind", KINDS)
def test_names_shapes_and_dtypes_of_parameters(kind):
    params = jax.eval_shape(make(kind, "forward").init, jax.random.key(0), X)["params"]
    expected = {"input_kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)}
    if kind == "gates":
        expected |= {"input_scale": (4 * H,), "recurrent_scale": (4 * H,), "cell_scale": (H,), "cell_bias": (H,)}
    if kind == "output":
        expected |= {"output_scale": (H,), "output_bias": (H,)}
    assert {name: leaf.shape for name, leaf in params.items()} == expected
    assert {leaf.dtype.name for leaf in params.values()} == {"float32"}
    both = jax.eval_shape(make(kind).init, jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, both) == {"forward": expected, "backward": expected}


def test_the_default_is_layer_norm_of_the_gates_forward_in_float32():
    layer = LayerNormLSTM(H)
    assert (layer.normalize, layer.reverse, layer.dtype, layer.param_dtype) == ("gates", False, None, jnp.float32)
    assert (LSTM(H).reverse, LSTM(H).dtype, LSTM(H).param_dtype) == (False, None, jnp.float32)


def test_initialization_decomposes_one_matrix_at_a_time():
    """Batched decompositions of two directions deadlock, now and then, on a CPU of two cores."""
    program = str(jax.make_jaxpr(make("plain").init)(jax.random.key(0), X))
    decomposed = re.findall(r":f32\[([\d,]+)\] = qr", program)
    assert decomposed
    assert set(decomposed) == {f"{H},{H}"}


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, jnp.float32) for kind in KINDS), ("plain", jnp.bfloat16)])
def test_initialization(kind, dtype):
    size, inputs = 64, 96
    layer = make(kind, features=size, param_dtype=dtype)
    params = jax.jit(layer.init)(jax.random.key(3), jnp.zeros((1, 1, inputs)))["params"]
    seen = []
    for p in params.values():
        p = {name: np.asarray(value, np.float64) for name, value in p.items()}
        np.testing.assert_array_equal(p["bias"], np.repeat([0, 1, 0, 0], size))
        for name, value in p.items():
            if name != "bias" and value.ndim == 1:
                np.testing.assert_array_equal(value, 1 if name.endswith("_scale") else 0)
        for gate in np.split(p["recurrent_kernel"], 4, axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(size), atol=1e-5 if dtype == jnp.float32 else 0.02)
            seen.append(gate)
        limit = np.sqrt(6 / (inputs + size))
        for gate in np.split(p["input_kernel"], 4, axis=1):
            assert 0.98 * limit < np.abs(gate).max() < 1.01 * limit
            np.testing.assert_allclose(gate.std(), limit / np.sqrt(3), rtol=0.05)
            seen.append(gate[:size])
    assert len({gate.tobytes() for gate in seen}) == 16  # no gate and no direction is another's copy


class InSetup(nn.Module):
    def setup(self):
        self.reader = Bidirectional(partial(LSTM, H))

    def __call__(self, x):
        return self.reader(x)


class InCompact(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Bidirectional(partial(LSTM, H), name="first")(x)
        return LSTM(2)(Bidirectional(partial(LayerNormLSTM, 3))(x))


def parameter_paths(module):
    params = jax.eval_shape(module.init, jax.random.key(0), X)["params"]
    return {"/".join(part.key for part in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}


def paths_of(prefix, *names):
    names = ("input_kernel", "recurrent_kernel", "bias", *names)
    return {f"{prefix}{direction}/{name}" for direction in ("forward", "backward") for name in names}


def test_parameter_paths_at_the_top():
    assert parameter_paths(Bidirectional(partial(LSTM, H))) == paths_of("")


def test_parameter_paths_in_setup():
    assert parameter_paths(InSetup()) == paths_of("reader/")


def test_parameter_paths_in_a_compact_parent():
    second = paths_of("Bidirectional_0/", "input_scale", "recurrent_scale", "cell_scale", "cell_bias")
    last = {f"LSTM_0/{name}" for name in ("input_kernel", "recurrent_kernel", "bias")}
    assert parameter_paths(InCompact()) == paths_of("first/") | second | last


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0],), r"expected an input of shape \(B, T, D\), got \(6, 3\)"),
        ((X[None],), r"expected an input of shape \(B, T, D\), got \(1, 5, 6, 3\)"),
        ((X.astype(jnp.int32),), "expected a floating-point input, got int32"),
        ((X, np.zeros(B - 1, int)), r"expected lengths of shape \(5,\) for an input of shape \(5, 6, 3\), got \(4,\)"),
        ((X, np.zeros((B, 1), int)), r"expected lengths of shape \(5,\) .* got \(5, 1\)"),
        ((X, np.zeros(B, np.float32)), "expected integer lengths, got float32"),
        ((X, np.zeros(B, bool)), "expected integer lengths, got bool"),
    ],
)
def test_wrong_inputs_and_lengths(direction, arguments, message):
    layer = make("plain", direction)
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), *arguments)
    with pytest.raises(ValueError, match=message):
        jax.jit(layer.apply)({"params": random_params(layer)}, *arguments)


@pytest.mark.parametrize(
    ("carry", "message"),
    [
        ((ONE, ONE[:, 1:]), r"expected a carry \(h, c\), each of shape \(5, 4\), got \(\(5, 4\), \(5, 3\)\)"),
        ((ONE[1:], ONE), r"each of shape \(5, 4\), got \(\(4, 4\), \(5, 4\)\)"),
        (ONE, r"each of shape \(5, 4\), got \(5, 4\)"),
        ((ONE, ONE, ONE), r"each of shape \(5, 4\), got \(\(5, 4\), \(5, 4\), \(5, 4\)\)"),
        (((ONE, ONE), (ONE, ONE)), r"each of shape \(5, 4\), got"),
        ((ONE, 0), r"each of shape \(5, 4\), got \(\(5, 4\), 0\)"),
        ((ONE.astype(int), ONE), r"expected a floating-point carry, got \['int32', 'float32'\]"),
    ],
)
def test_wrong_carries(carry, message):
    with pytest.raises(ValueError, match=f"LSTM: .*{message}"):
        make("plain", "forward").init(jax.random.key(0), X, None, carry)
    with pytest.raises(ValueError, match=f"Bidirectional: .*{message}"):
        make("plain").init(jax.random.key(0), X, None, ((ONE, ONE), carry))


@pytest.mark.parametrize("carry", [(ONE, ONE), ONE, ((ONE, ONE),)])
def test_a_carry_that_is_no_pair_of_carries(carry):
    with pytest.raises(ValueError, match=r"Bidirectional: expected a (pair of carries|carry) \(h, c\)"):
        make("plain").init(jax.random.key(0), X, None, carry)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LSTM(0), "LSTM: expected at least 1 feature, got 0"),
        (Bidirectional(partial(LayerNormLSTM, -2)), "Bidirectional: expected at least 1 feature, got -2"),
        (LSTM(H, dtype=jnp.complex64), "LSTM: expected a floating-point dtype, got complex64"),
        (LayerNormLSTM(H, normalize="input"), "LayerNormLSTM: expected normalize to be 'gates' or 'output', got 'input'"),
        (Bidirectional(partial(LayerNormLSTM, H, normalize="")), "expected normalize to be 'gates' or 'output', got ''"),
        (Bidirectional(partial(LSTM, H, reverse=True)), "Bidirectional: expected a layer with reverse=False"),
        (Bidirectional(LSTM(H)), "Bidirectional: expected a layer's constructor"),
        (Bidirectional(partial(nn.Dense, H)), "Bidirectional: expected a constructor of LSTM or LayerNormLSTM"),
    ],
)
def test_wrong_layers(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), X)
