"""Values, carries, padding, initialization and errors of the recurrent layers, against float64 NumPy loops."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_cases import (
    DIRECTIONS,
    KINDS,
    LENGTHS,
    B,
    D,
    H,
    T,
    apply,
    assert_close,
    make,
    random_array,
    random_carry,
    random_lengths,
    random_params,
    run,
)

from colnorm import LSTM, Bidirectional, LayerNormLSTM

X = jnp.zeros((B, T, D))
EVERY = [(kind, direction) for kind in KINDS for direction in DIRECTIONS]


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("kind", "direction"), EVERY)
def test_float64_outputs_and_carries_are_the_loops(kind, direction, x64):
    layer = make(kind, direction, param_dtype=np.float64)
    for seed in range(4):
        params, lengths = random_params(layer, dtype=np.float64, seed=seed), random_lengths(seed)
        x, carry = random_array((B, T, D), np.float64, seed), random_carry(direction, np.float64, seed)
        ours = apply(layer, params, x, lengths, carry)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(ours)} == {"float64"}
        assert_close(ours, run(kind, direction, params, x, lengths, carry), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_outputs_and_carries_are_the_loops(kind):
    layer = make(kind)
    for seed in range(4):
        params, lengths = random_params(layer, seed=seed), random_lengths(seed)
        x, carry = random_array((B, T, D), seed=seed), random_carry("both", seed=seed)
        ours = apply(layer, params, x, lengths, carry)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(ours)} == {"float32"}
        assert_close(ours, run(kind, "both", params, x, lengths, carry), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_every_sequence_is_whole_and_starts_from_zero(kind):
    layer, x = make(kind), random_array((B, T, D))
    params = random_params(layer)
    ours = apply(layer, params, x)
    assert_close(ours, run(kind, "both", params, x), 1e-5)
    assert jax.eval_shape(layer.apply, {"params": params}, x) == jax.eval_shape(lambda: ours[0])  # no carry unless asked for
    zero = jax.tree.map(jnp.zeros_like, random_carry("both"))
    assert_close(apply(layer, params, x, np.full(B, T), zero), ours, 1e-6)


SIZES = [(kind, shape, 1) for kind in KINDS for shape in ((B, T, D), (1, 1, 1))] + [
    ("plain", (1, T, D), H),
    ("plain", (B, 1, D), H),
]


@pytest.mark.parametrize(("kind", "shape", "features"), SIZES)
def test_a_size_of_1(kind, shape, features):
    layer = make(kind, features=features)
    params, lengths = random_params(layer, shape[-1]), random_lengths(3, shape[0], shape[1])
    x, carry = random_array(shape), random_carry("both", batch=shape[0], features=features)
    assert_close(apply(layer, params, x, lengths, carry), run(kind, "both", params, x, lengths, carry), 1e-5)


def test_no_steps_give_no_output_and_the_initial_carry():
    layer, carry = make("plain"), random_carry("both")
    y, last = apply(layer, random_params(layer), jnp.zeros((B, 0, D)), np.zeros(B, int), carry)
    assert y.shape == (B, 0, 2 * H)
    jax.tree.map(np.testing.assert_array_equal, last, carry)


def test_the_two_directions_are_an_lstm_and_a_reversed_one():
    params, x, carry = random_params(make("gates")), random_array((B, T, D)), random_carry("both")
    y, last = apply(make("gates"), params, x, LENGTHS, carry)
    for i, direction in enumerate(("forward", "backward")):
        part = apply(make("gates", direction), params[direction], x, LENGTHS, carry[i])
        assert_close(part, (y[..., i * H : (i + 1) * H], last[i]), 1e-6)


# -------------------------------------------------------------------------------------------------- padding and lengths


@pytest.mark.parametrize("kind", KINDS)
def test_each_sequence_of_a_batch_is_as_if_alone(kind):
    layer, x, lengths, carry = make(kind), random_array((3, 4, D)), np.array([4, 2, 2]), random_carry("both", batch=3)
    params = random_params(layer)
    y, last = apply(layer, params, x, lengths, carry)
    for b, length in enumerate(lengths):
        rows, own = jax.tree.map(lambda part, b=b: part[b : b + 1], ((y, last), carry))
        assert_close(apply(layer, params, x[b : b + 1, :length], carry=own), (rows[0][:, :length], rows[1]), 1e-6)
        np.testing.assert_array_equal(y[b, length:], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_length_0_returns_zeros_and_its_initial_carry(kind):
    layer, carry = make(kind), random_carry("both")
    y, last = apply(layer, random_params(layer), random_array((B, T, D)), LENGTHS, carry)
    empty = LENGTHS == 0
    np.testing.assert_array_equal(y[empty], 0)
    jax.tree.map(lambda after, before: np.testing.assert_array_equal(after[empty], before[empty]), last, carry)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, list])
def test_lengths_of_any_integer_dtype(dtype):
    """Steps beyond 127, where an int8 ends, included."""
    layer, x = make("plain", features=1), random_array((3, 200, 1))
    params, lengths = random_params(layer, 1), [127, 0, 5]
    expected = apply(layer, params, x, np.array(lengths, np.int32))
    ours = apply(layer, params, x, lengths if dtype is list else np.array(lengths, dtype))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_read_in_two_parts_is_as_if_in_one(kind, direction):
    layer, x, carry, cut = make(kind, direction), random_array((B, T, D)), random_carry(direction), T // 2
    params = random_params(layer)
    expected = run(kind, direction, params, x, LENGTHS, carry)
    parts = [(x[:, :cut], np.minimum(LENGTHS, cut)), (x[:, cut:], np.maximum(LENGTHS - cut, 0))]
    outputs = []
    for part, lengths in parts if direction == "forward" else reversed(parts):
        y, carry = apply(layer, params, part, lengths, carry)
        outputs.append(y)
    assert_close((jnp.concatenate(outputs if direction == "forward" else outputs[::-1], 1), carry), expected, 1e-5)


# ------------------------------------------------------------------------------------------------------ transformations


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_parameters_and_input(kind):
    layer = make(kind)
    params = [random_params(layer, seed=seed) for seed in range(3)]
    x, lengths = random_array((3, B, T, D)), np.stack([random_lengths(seed) for seed in range(3)])
    together = jax.vmap(partial(apply, layer))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), x, lengths)
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_close(one, run(kind, "both", params[i], x[i], lengths[i]), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_call_with_equal_shapes_does_not_compile_again(kind):
    layer, traces = make(kind, dtype=jnp.bfloat16), []

    @jax.jit
    def step(params, x, lengths, carry):
        traces.append(x.shape)
        return apply(layer, params, x, lengths, carry)

    params, carry = random_params(layer), ((jnp.zeros((B, H), jnp.bfloat16), jnp.zeros((B, H))),) * 2
    for seed in range(3):
        _, carry = step(params, random_array((B, T, D), seed=seed), random_lengths(seed).astype(np.int32), carry)
    assert traces == [(B, T, D)]


def test_both_directions_run_in_one_scan():
    layer = make("gates")
    params, x = random_params(layer), random_array((B, T, D))
    assert str(jax.make_jaxpr(partial(apply, layer))(params, x, LENGTHS)).count(" scan[") == 1


# ----------------------------------------------------------------------------------------------------- dtypes and extremes


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, jnp.bfloat16) for kind in KINDS), ("plain", jnp.float16)])
def test_half_precision_is_close_to_float32(kind, dtype):
    """Products and h are rounded to 8 or 11 bits; c and the statistics are not. Values here reach 1 (plain) and 4 (output)."""
    x, carry = random_array((B, T, D)), random_carry("both")
    params = random_params(make(kind))
    y, last = apply(make(kind, dtype=dtype), params, x, LENGTHS, carry)
    expected = apply(make(kind), params, x, LENGTHS, carry)
    assert y.dtype == dtype
    assert [(h.dtype, c.dtype) for h, c in last] == [(dtype, jnp.float32)] * 2
    worst = max(
        np.abs(np.asarray(ours, np.float32) - np.asarray(wide)).max()
        for ours, wide in zip(jax.tree.leaves((y, last)), jax.tree.leaves(expected), strict=True)
    )
    assert 1e-5 < worst < (0.06 if dtype == jnp.bfloat16 else 0.008)


def test_the_cell_state_does_not_lose_small_steps_in_bfloat16():
    """1,000 steps that each add sigmoid(0) tanh(0.002): c in bfloat16 would stay where a step is below half a unit."""
    kernel = jnp.zeros((1, 4)).at[0, 2].set(1.0)
    bias = jnp.array([0.0, 100.0, 0.0, 0.0])  # the forget gate is open
    params = {"input_kernel": kernel, "recurrent_kernel": jnp.zeros((1, 4)), "bias": bias}
    x = jnp.full((1, 1000, 1), 0.002)
    _, (_, c) = apply(LSTM(1, dtype=jnp.bfloat16), params, x)
    np.testing.assert_allclose(c, 1000 * 0.5 * np.tanh(0.002), rtol=5e-3)


@pytest.mark.parametrize(
    ("x", "param", "dtype", "expected"),
    [
        ("bfloat16", "bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", None, "float32"),
        ("float32", "bfloat16", None, "float32"),
        ("bfloat16", "float16", None, "float32"),
        ("float16", "float32", "bfloat16", "bfloat16"),
        ("float64", "float32", None, "float64"),
        ("float32", "float64", None, "float64"),
        ("float64", "float64", "float32", "float32"),
    ],
)
def test_dtype_none_promotes_input_and_parameters(x, param, dtype, expected, x64):
    layer = make("output", param_dtype=param, dtype=dtype)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((B, T, D), x))["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {param}
    y, last = jax.eval_shape(partial(apply, layer), params, jnp.zeros((B, T, D), x), LENGTHS)
    wide = "float64" if expected == "float64" else "float32"
    assert [leaf.dtype.name for leaf in (y, *jax.tree.leaves(last))] == [expected] + [expected, wide] * 2


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

ONE = jnp.zeros((B, H))


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
