"""Values, running statistics, precision, dtypes and errors of the normalization layers, against float64 NumPy loops."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normalization_cases import (
    KIND_AND_RANK,
    LAYERS,
    RUNNING,
    SHAPES,
    apply,
    batch_statistics,
    forward,
    random_input,
    random_variables,
    updated,
)

from colnorm import BatchInstanceNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm

# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
def test_float32_output_is_the_loops(kind, rank):
    layer, x = LAYERS[kind](), random_input(SHAPES[rank])
    variables = random_variables(layer, x.shape)
    expected = forward(kind, x, variables["params"])
    np.testing.assert_allclose(apply(layer, variables, x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
def test_float64_output_is_the_loops(kind, rank, x64):
    layer, x = LAYERS[kind](param_dtype=jnp.float64), random_input(SHAPES[rank], np.float64)
    variables = random_variables(layer, x.shape, dtype=np.float64)
    y, _ = apply(layer, variables, x)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, forward(kind, x, variables["params"]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("rank", [1, 2])
def test_evaluation_uses_the_running_statistics_and_leaves_them(kind, rank):
    layer, x = LAYERS[kind](), random_input(SHAPES[rank])
    variables = random_variables(layer, x.shape)
    y, after = apply(layer, variables, x, evaluate=True)
    running = [np.asarray(variables["batch_stats"][name], np.float64) for name in ("mean", "var")]
    np.testing.assert_allclose(y, forward(kind, x, variables["params"], running=running), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], variables["batch_stats"])
    np.testing.assert_array_equal(layer.apply(variables, x, True), layer.apply(variables, x, use_running_average=True))


def test_group_norm_of_one_group_is_layer_norm_and_of_all_is_instance_norm():
    x = random_input(SHAPES[2])
    variables = random_variables(LayerNorm(), x.shape)
    for groups, other in ((1, LayerNorm()), (x.shape[-1], InstanceNorm())):
        y = apply(GroupNorm(groups), variables, x)[0]
        np.testing.assert_allclose(y, apply(other, variables, x)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("evaluate", [False, True])
def test_gate_0_is_instance_norm_and_gate_1_is_batch_norm(evaluate):
    x = random_input(SHAPES[2])
    variables = random_variables(BatchNorm(), x.shape)
    for gate, other in ((0.0, InstanceNorm()), (1.0, BatchNorm())):
        params = {**variables["params"], "gate": jnp.full(x.shape[-1], gate)}
        y, state = apply(BatchInstanceNorm(), {**variables, "params": params}, x, evaluate=evaluate)
        np.testing.assert_allclose(y, apply(other, variables, x, evaluate=evaluate)[0], rtol=1e-6, atol=1e-6)
        batch_norm_state = apply(BatchNorm(), variables, x, evaluate=evaluate)[1]
        jax.tree.map(np.testing.assert_array_equal, state, batch_norm_state)


@pytest.mark.parametrize("gate", [-0.7, 1.8])
def test_a_gate_outside_0_and_1_is_clipped_going_forward(gate):
    x = random_input(SHAPES[1])
    variables = random_variables(BatchInstanceNorm(), x.shape)
    for value in (gate, np.clip(gate, 0, 1)):
        params = {**variables["params"], "gate": np.full(x.shape[-1], value, np.float32)}
        y, _ = apply(BatchInstanceNorm(), {**variables, "params": params}, x)
        np.testing.assert_allclose(y, forward("bin", x, params), rtol=1e-5, atol=1e-5)


@given(
    batch=st.integers(2, 5),
    spatial=st.sampled_from([(), (1,), (4,), (2, 3)]),
    channels=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_batch_norm_output_has_mean_bias_and_deviation_scale(batch, spatial, channels, seed):
    x = random_input((batch, *spatial, channels), seed=seed)
    variables = random_variables(BatchNorm(), x.shape, seed)
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    mean, var, _ = batch_statistics(apply(BatchNorm(), variables, x)[0])
    batch_var = batch_statistics(x)[1]
    np.testing.assert_allclose(mean, bias, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(var), np.abs(scale) * np.sqrt(batch_var / (batch_var + 1e-5)), rtol=1e-4, atol=1e-5)


@given(
    shape=st.sampled_from([(2, 5), (1, 4, 3), (3, 2, 2, 2)]),
    seed=st.integers(0, 999),
    factor=st.sampled_from([0.25, 8.0]),
)
def test_layer_norm_ignores_each_examples_shift_and_factor(shape, seed, factor):
    x = random_input(shape, seed=seed)
    shift = np.random.default_rng(seed).standard_normal((shape[0],) + (1,) * (len(shape) - 1)).astype(np.float32)
    layer = LayerNorm(epsilon=0.0)
    variables = random_variables(layer, shape, seed)
    expected = apply(layer, variables, x)[0]
    np.testing.assert_allclose(apply(layer, variables, x * np.float32(factor) + shift)[0], expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("mean", "std"), [(3e3, 1.0), (-1e6, 100.0)])
def test_statistics_are_exact_where_the_mean_is_thousands_of_deviations(kind, mean, std):
    # A float32 sum of 10^5 squares may round by 1e-5 of itself; a one-pass variance would be wrong in its first digit.
    x = random_input((10, 100, 100, 2), mean=mean, std=std)
    layer = LAYERS[kind]()
    variables = random_variables(layer, x.shape)
    y, after = apply(layer, variables, x)
    np.testing.assert_allclose(y, forward(kind, x, variables["params"]), rtol=2e-5, atol=2e-5)
    if kind in RUNNING:
        before = [np.asarray(variables["batch_stats"][name], np.float64) for name in ("mean", "var")]
        for name, expected in zip(("mean", "var"), updated(before, x), strict=True):
            np.testing.assert_allclose(after["batch_stats"][name], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, 3.3, 1e8, -1e8])
def test_a_constant_input_gives_the_bias(kind, value):
    layer, x = LAYERS[kind](), np.full((3, 7, 4), value, np.float32)
    variables = random_variables(layer, x.shape)
    y, after = apply(layer, variables, x)
    bias = np.broadcast_to(variables["params"]["bias"], x.shape)
    np.testing.assert_allclose(y, bias, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
@pytest.mark.parametrize("size", ["one example", "one element", "tiny values"])
def test_small_inputs_are_the_loops(kind, rank, size):
    shape = SHAPES[rank]
    if size != "tiny values":
        shape = (1, *shape[1:]) if size == "one example" else (1,) + (1,) * rank + shape[-1:]
    x = random_input(shape, std=1e-6 if size == "tiny values" else 1.0, mean=0.0)
    layer = LAYERS[kind]()
    variables = random_variables(layer, shape)
    np.testing.assert_allclose(apply(layer, variables, x)[0], forward(kind, x, variables["params"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_bfloat16_in_and_out_with_float32_statistics(kind):
    layer = LAYERS[kind](dtype=jnp.bfloat16)
    x = jnp.asarray(random_input((6, 5, 5, 4), mean=10.0), jnp.bfloat16)
    variables = random_variables(layer, x.shape)
    y, after = apply(layer, variables, x)
    assert y.dtype == jnp.bfloat16
    rounded = np.asarray(x, np.float64)
    # A bfloat16 has 8 significant bits: rounding the right float32 result to it costs at most 2^-8 of the value.
    np.testing.assert_allclose(np.asarray(y, np.float64), forward(kind, rounded, variables["params"]), rtol=2**-8, atol=2e-5)
    if kind in RUNNING:
        before = [np.asarray(variables["batch_stats"][name], np.float64) for name in ("mean", "var")]
        for name, expected in zip(("mean", "var"), updated(before, rounded), strict=True):
            np.testing.assert_allclose(after["batch_stats"][name], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
def test_the_dtype_of_the_result_is_flaxs(kind, dtype):
    flax_layer = nn.LayerNorm(dtype=dtype)
    key, layer = jax.random.key(0), LAYERS[kind](dtype=dtype)
    with jax.numpy_dtype_promotion("standard"):  # Flax's own promotion is implicit
        for input_dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
            x = jax.ShapeDtypeStruct((2, 3, 4), input_dtype)
            result, _ = jax.eval_shape(partial(layer.init_with_output, use_running_average=False), key, x)
            expected, _ = jax.eval_shape(flax_layer.init_with_output, key, x)
            assert result.dtype == expected.dtype


# ------------------------------------------------------------------------------------------ parameters and statistics


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_initial_variables(kind, param_dtype):
    x = jnp.asarray(random_input(SHAPES[2]))
    variables = LAYERS[kind](param_dtype=param_dtype, dtype=jnp.float32).init(jax.random.key(0), x, False)
    ones, zeros = np.ones(4), np.zeros(4)
    expected = {"params": {"scale": ones, "bias": zeros}}
    if kind == "bin":
        expected["params"]["gate"] = ones
    if kind in RUNNING:
        expected["batch_stats"] = {"mean": zeros, "var": ones}
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype(param_dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables.get("batch_stats", {}))} <= {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("use_scale", "use_bias"), [(False, True), (True, False), (False, False)])
def test_scale_and_bias_can_be_left_out(kind, use_scale, use_bias):
    layer, x = LAYERS[kind](use_scale=use_scale, use_bias=use_bias), random_input(SHAPES[1])
    variables = random_variables(layer, x.shape)
    params = variables.get("params", {})
    assert ("scale" in params, "bias" in params) == (use_scale, use_bias)
    np.testing.assert_allclose(apply(layer, variables, x)[0], forward(kind, x, params), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_scale_begins_as_it_is_told(kind):
    layer = LAYERS[kind](scale_init=jax.nn.initializers.constant(0.25))
    with jax.numpy_dtype_promotion("standard"):
        params = layer.init(jax.random.key(0), random_input(SHAPES[1]), use_running_average=False)["params"]
    np.testing.assert_array_equal(params["scale"], np.full_like(params["scale"], 0.25))
    assert not np.any(params["bias"])


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("momentum", [0.9, 0.6])
def test_running_statistics_keep_momentum_of_the_old_value(kind, momentum):
    layer = LAYERS[kind](momentum=momentum)
    variables = random_variables(layer, SHAPES[2])
    variables["batch_stats"] = {"mean": jnp.zeros(4), "var": jnp.ones(4)}
    running = (np.zeros(4), np.ones(4))
    for step in range(20):
        x = random_input(SHAPES[2], seed=step, mean=step)
        variables = {**variables, **apply(layer, variables, x)[1]}
        running = updated(running, x, momentum=momentum)
        if step in (0, 19):
            for name, expected in zip(("mean", "var"), running, strict=True):
                np.testing.assert_allclose(variables["batch_stats"][name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", RUNNING)
def test_the_mode_is_given_in_one_place_and_cannot_be_forgotten(kind):
    x = jnp.asarray(random_input(SHAPES[1]))
    variables = random_variables(LAYERS[kind](), x.shape)
    for evaluate in (False, True):
        in_field = apply(LAYERS[kind](use_running_average=evaluate), variables, x, evaluate=None)
        jax.tree.map(np.testing.assert_array_equal, in_field, apply(LAYERS[kind](), variables, x, evaluate=evaluate))
    with pytest.raises(ValueError, match="use_running_average"):
        LAYERS[kind]().apply(variables, x)


# ------------------------------------------------------------------------------------------------- errors, transforms


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("shape", "dtype", "mask", "message"),
    [
        ((2, 3, 4), np.int32, None, "floating-point input, got int32"),
        ((4,), np.float32, None, r"shape \(N, \*spatial, C\), got \(4,\)"),
        ((2, 3, 4), np.float32, np.ones((2, 3, 4), bool), r"mask of shape \(2, 3\).*got \(2, 3, 4\)"),
        ((2, 3, 4), np.float32, np.ones((2,), bool), r"mask of shape \(2, 3\).*got \(2,\)"),
        ((2, 3, 4), np.float32, np.ones((2, 3), np.float32), "boolean mask .*got float32"),
    ],
)
def test_a_wrong_input_or_mask_is_a_value_error(kind, shape, dtype, mask, message):
    with pytest.raises(ValueError, match=message):
        LAYERS[kind]().init(jax.random.key(0), jnp.ones(shape, dtype), False, mask)


@pytest.mark.parametrize("kind", ["in", "bin"])
def test_instance_statistics_without_a_spatial_axis_are_a_value_error(kind):
    with pytest.raises(ValueError, match=r"at least one spatial axis.*got \(2, 4\)"):
        LAYERS[kind]().init(jax.random.key(0), jnp.ones((2, 4)), False)


@pytest.mark.parametrize("groups", [0, -1, 3, 8])
def test_groups_that_do_not_divide_the_channels_are_a_value_error(groups):
    with pytest.raises(ValueError, match=f"got {groups} groups for 4 channels"):
        GroupNorm(groups).init(jax.random.key(0), jnp.ones((2, 3, 4)))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_second_call_with_equal_shapes_does_not_compile_again(kind):
    layer, traces = LAYERS[kind](), []

    @jax.jit
    def step(variables, x):
        traces.append(x.shape)
        return layer.apply(variables, x, False, mutable=["batch_stats"])

    variables = random_variables(layer, SHAPES[1])
    for seed in range(3):
        _, state = step(variables, random_input(SHAPES[1], seed=seed))
        variables = {**variables, **state}
    assert traces == [SHAPES[1]]


@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_over_models_is_each_model_alone(kind):
    layer, models = LAYERS[kind](), range(3)
    variables = [random_variables(layer, SHAPES[1], seed) for seed in models]
    x = np.stack([random_input(SHAPES[1], seed=seed) for seed in models])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    together = jax.jit(jax.vmap(lambda v, x: layer.apply(v, x, False, mutable=["batch_stats"])))(stacked, x)
    for i in models:
        alone = apply(layer, variables[i], x[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-6), together, alone)
