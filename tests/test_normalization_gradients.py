"""Gradients of the layers, the gate's own gradient, and batches split over devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from normalization_cases import (
    KIND_AND_RANK,
    LAYERS,
    RUNNING,
    SHAPES,
    apply_and_differentiate,
    forward,
    gradients,
    numerical_gradient,
    random_input,
    random_mask,
    random_variables,
)

from colnorm import BatchInstanceNorm, BatchNorm
from colnorm.normalization import clip_gate

SMALL = {0: (4, 4), 1: (3, 3, 4), 2: (2, 2, 3, 4), 3: (2, 2, 1, 2, 4)}  # finite differences visit every entry


@pytest.mark.parametrize(
    ("kind", "rank", "masked"), [(*case, False) for case in KIND_AND_RANK] + [(kind, 1, True) for kind in LAYERS]
)
def test_gradients_are_the_loops_finite_differences(kind, rank, masked, x64):
    layer, x = LAYERS[kind](param_dtype=jnp.float64), random_input(SMALL[rank], np.float64)
    variables = random_variables(layer, x.shape, dtype=np.float64)
    mask = random_mask(x.shape) if masked else None
    cotangent = random_input(x.shape, np.float64, seed=5)
    params = {name: np.asarray(value) for name, value in variables["params"].items()}
    by_params, by_x = gradients(layer, variables, x, cotangent, mask)
    np.testing.assert_allclose(
        by_x, numerical_gradient(lambda x: np.sum(forward(kind, x, params, mask) * cotangent), x), rtol=1e-6, atol=1e-6
    )
    assert set(by_params) == set(params)
    for name, gradient in by_params.items():
        expected = numerical_gradient(
            lambda value, name=name: np.sum(forward(kind, x, {**params, name: value}, mask) * cotangent), params[name]
        )
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_float32_gradients_are_the_float64_ones_where_the_mean_is_large(kind):
    x = random_input(SHAPES[2], mean=3e3, std=1.0)
    variables = random_variables(LAYERS[kind](), x.shape)
    cotangent = random_input(x.shape, seed=5)
    single = gradients(LAYERS[kind](), variables, x, cotangent)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, x, cotangent))
        double = jax.device_get(gradients(LAYERS[kind](param_dtype=jnp.float64), *wide))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), single, double)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "masked"), [("bn", False), ("bn", True), ("bin", True), ("gn", True)])
def test_second_derivatives_are_right(kind, masked, x64):
    layer, x = LAYERS[kind](param_dtype=jnp.float64), random_input(SMALL[1], np.float64)
    variables = random_variables(layer, x.shape, dtype=np.float64)
    mask = random_mask(x.shape) if masked else None

    @jax.jit
    def f(params, x):
        return layer.apply({**variables, "params": params}, x, False, mask, mutable=["batch_stats"])[0]

    check_grads(f, (variables["params"], jnp.asarray(x)), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", RUNNING)
def test_evaluation_gradients_take_the_running_statistics_as_constants(kind, x64):
    layer, x = LAYERS[kind](param_dtype=jnp.float64), random_input(SMALL[1], np.float64)
    variables = random_variables(layer, x.shape, dtype=np.float64)
    cotangent = random_input(x.shape, np.float64, seed=5)
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))
    _, by_x = gradients(layer, variables, x, cotangent, evaluate=True)
    running = (stats["mean"], stats["var"])
    expected = numerical_gradient(lambda x: np.sum(forward(kind, x, params, None, running) * cotangent), x)
    np.testing.assert_allclose(by_x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("value", [0.0, 1e8])
def test_the_gradient_at_a_constant_input_is_finite(kind, value):
    x = np.full(SHAPES[1], value, np.float32)
    variables = random_variables(LAYERS[kind](), x.shape)
    for leaf in jax.tree.leaves(gradients(LAYERS[kind](), variables, x, random_input(x.shape))):
        assert np.isfinite(leaf).all()


# --------------------------------------------------------------------------------------------------------------- gate


@pytest.mark.parametrize(
    ("gate", "gradient", "expected"),
    [  # a descent step goes against the gradient
        (0.0, 1.0, 1.0),
        (0.0, -1.0, -1.0),
        (0.5, 1.0, 1.0),
        (0.5, -1.0, -1.0),
        (1.0, 1.0, 1.0),
        (1.0, -1.0, -1.0),
        (-0.3, 1.0, 0.0),  # would go further down
        (-0.3, -1.0, -1.0),  # comes back
        (1.3, 1.0, 1.0),  # comes back
        (1.3, -1.0, 0.0),  # would go further up
    ],
)
def test_the_gates_gradient_is_dropped_only_where_a_step_would_leave_further(gate, gradient, expected):
    value, vjp = jax.vjp(clip_gate, jnp.float32(gate))
    assert value == np.clip(np.float32(gate), 0, 1)
    assert vjp(jnp.float32(gradient)) == (expected,)


@pytest.mark.parametrize("gate", [0.0, 1.0, -0.4, 1.4])
def test_the_layers_gate_gradient_is_the_unclipped_one_at_the_nearest_end(gate):
    x, cotangent = random_input(SHAPES[1]), random_input(SHAPES[1], seed=3)
    variables = random_variables(BatchInstanceNorm(), x.shape)
    params = {**variables["params"], "gate": jnp.full(4, gate)}
    gradient = gradients(BatchInstanceNorm(), {**variables, "params": params}, x, cotangent)[0]["gate"]
    scale = np.asarray(params["scale"], np.float64)
    difference = forward("bn", x) - forward("in", x)  # the output is linear in the gate
    unclipped = np.sum(difference * scale * cotangent, axis=(0, 1))
    assert (unclipped > 0).any() and (unclipped < 0).any()
    leaves = (unclipped < 0) if gate > 1 else (unclipped > 0) if gate < 0 else False
    np.testing.assert_allclose(gradient, np.where(leaves, 0, unclipped), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("start", [1.0, 1.3, -0.3])
def test_descent_takes_a_gate_from_an_end_or_from_outside_to_its_target(start):
    x, target = random_input(SHAPES[2]), 0.4
    variables = random_variables(BatchInstanceNorm(), x.shape)
    wanted = forward("bin", x, {"gate": np.full(4, target)}).astype(np.float32)
    ones = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}

    @jax.jit
    @jax.grad
    def gradient(gate):
        params = {**ones, "gate": gate}
        y, _ = BatchInstanceNorm().apply({**variables, "params": params}, x, False, mutable=["batch_stats"])
        return jnp.mean((y - wanted) ** 2)

    gate = jnp.full(4, start)
    difference = np.mean((forward("bn", x) - forward("in", x)) ** 2, axis=(0, 1, 2))
    learning_rate = np.float32(1.0 / difference.max())  # below the inverse curvature: monotone
    path = [np.asarray(gate)]
    for _ in range(100):
        gate = gate - learning_rate * gradient(gate)
        path.append(np.asarray(gate))
    distance = np.abs(np.array(path) - target)
    assert (distance[1] < distance[0]).all() and (np.diff(distance, axis=0) <= 1e-6).all()
    np.testing.assert_allclose(path[-1], target, atol=0.05)


# ------------------------------------------------------------------------------------------------------------ devices


def split_loss(layer, variables, params, x, cotangent, mask):
    y, state = layer.apply({**variables, "params": params}, x, False, mask, mutable=["batch_stats"])
    return jnp.sum(y * cotangent), (y, state["batch_stats"])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("transform", ["pmap", "vmap"])
@pytest.mark.parametrize("kind", RUNNING)
def test_a_batch_split_over_devices_is_the_whole_batch(kind, transform, masked):
    shape = (8, 3, 4)
    whole, split = LAYERS[kind](), LAYERS[kind](axis_name="devices")
    x, cotangent = random_input(shape, mean=5.0), random_input(shape, seed=3)
    x += np.arange(8, dtype=np.float32)[:, None, None]  # the devices' own statistics differ
    mask = random_mask(shape)
    mask[2:4] = False  # all of the second device
    mask[4:] = True
    if masked:
        x[~mask] = np.nan
    variables = random_variables(whole, shape)
    pieces = [leaf.reshape(4, 2, *leaf.shape[1:]) for leaf in ((x, cotangent, mask) if masked else (x, cotangent))]

    def step(params, x, cotangent, mask=None):
        loss = partial(split_loss, split, variables)
        (by_params, by_x), (y, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, cotangent, mask)
        return y, stats, jax.lax.psum(by_params, "devices"), by_x

    in_axes = (None,) + (0,) * len(pieces)  # no argument may be None: pmap of jax 0.10 then mixes up its axes
    if transform == "pmap":
        assert jax.device_count() >= 4
        mapped = jax.pmap(step, axis_name="devices", in_axes=in_axes)
    else:
        mapped = jax.jit(jax.vmap(step, axis_name="devices", in_axes=in_axes))
    y, stats, by_params, by_x = jax.device_get(mapped(variables["params"], *pieces))

    mask = mask if masked else None
    results = apply_and_differentiate(whole, variables, x, cotangent, mask)
    (expected_y, expected_state), (expected_by_params, expected_by_x) = results
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(y.reshape(shape), expected_y)
    close(y.reshape(shape), forward(kind, np.nan_to_num(x), variables["params"], mask))
    close(by_x.reshape(shape), expected_by_x)
    for device in range(4):
        jax.tree.map(lambda a, b, i=device: close(a[i], b), stats, expected_state["batch_stats"])
        jax.tree.map(lambda a, b, i=device: close(a[i], b), by_params, expected_by_params)


@pytest.mark.parametrize("kind", RUNNING)
def test_a_batch_fully_masked_on_all_devices_leaves_the_statistics(kind):
    layer, x = LAYERS[kind](axis_name="devices"), np.full((4, 2, 3, 4), np.nan, np.float32)
    variables = random_variables(layer, x.shape[1:])
    step = jax.vmap(partial(layer.apply, variables, use_running_average=False, mutable=["batch_stats"]), axis_name="devices")
    y, after = jax.jit(step)(x, mask=np.zeros(x.shape[:-1], bool))
    np.testing.assert_array_equal(y, np.zeros(x.shape))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), after["batch_stats"], variables["batch_stats"])


def test_axis_name_may_be_several_axes():
    x = random_input((2, 2, 2, 3, 4))
    layer = BatchNorm(axis_name=("hosts", "devices"))
    variables = random_variables(layer, x.shape[2:])
    step = jax.vmap(lambda x: layer.apply(variables, x, False, mutable=["batch_stats"])[0], axis_name="devices")
    y = jax.jit(jax.vmap(step, axis_name="hosts"))(x)
    expected = forward("bn", x.reshape(8, 3, 4), variables["params"])
    np.testing.assert_allclose(y.reshape(8, 3, 4), expected, rtol=1e-5, atol=1e-5)


def test_initializing_and_evaluating_need_no_named_axis():
    x = jnp.asarray(random_input(SHAPES[1]))
    layer = BatchNorm(axis_name="devices")
    variables = layer.init(jax.random.key(0), x, False)
    np.testing.assert_allclose(layer.apply(variables, x, True), x, rtol=1e-4, atol=1e-5)
