"""Values, carries, padding and dtypes of the recurrent layers, against float64 NumPy loops."""

from functools import partial

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

from colnorm import LSTM

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_the_cell_state_and_its_carry_do_not_lose_small_steps_in_bfloat16():
    """1,000 steps that each add sigmoid(0) tanh(2^-9): c in bfloat16 would stay where a step is below half a unit."""
    kernel = jnp.zeros((1, 4)).at[0, 2].set(1.0)
    bias = jnp.array([0.0, 100.0, 0.0, 0.0])  # the forget gate is open
    params = {"input_kernel": kernel, "recurrent_kernel": jnp.zeros((1, 4)), "bias": bias}
    x, layer = jnp.full((1, 1000, 1), 2.0**-9), LSTM(1, dtype=jnp.bfloat16)
    _, carry = apply(layer, params, x[:, :301])
    _, (_, c) = apply(layer, params, x[:, 301:], carry=carry)
    np.testing.assert_allclose(c, 1000 * 0.5 * np.tanh(2.0**-9), rtol=1e-4)


def test_pre_activations_are_summed_in_float32_in_bfloat16():
    """4 + 2^-7 has more bits than bfloat16: summed there, nothing would be left of it beside a bias of -4."""
    params = {
        "input_kernel": jnp.zeros((2, 4)).at[:, 2].set(1.0),
        "recurrent_kernel": jnp.zeros((1, 4)).at[0, 2].set(1.0),
        "bias": jnp.array([0.0, 0.0, -4.0, 0.0]),
    }
    x, carry = jnp.array([[[4.0, 2.0**-7]]]), (jnp.full((1, 1), 2.0**-8), jnp.zeros((1, 1)))
    _, (_, c) = apply(LSTM(1, dtype=jnp.bfloat16), params, x, None, carry)
    np.testing.assert_allclose(c, [[0.5 * np.tanh(3 * 2.0**-8)]], rtol=1e-5)


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
