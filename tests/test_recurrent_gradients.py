"""Derivatives of the recurrent layers: the hand-written rule against JAX's own on a plain scan."""

from functools import cache, partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from recurrent_cases import (
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
    run_scan,
)


@cache  # one object for equal arguments, so that what is compiled for one test serves the next
def layer_function(kind, direction, **options):
    return partial(apply, make(kind, direction, **options))


@cache
def plain_function(kind, direction):
    return partial(run_scan, kind, direction)


def loss(results):
    """Every output and every part of the carry, each with a weight of its own, curved."""
    leaves = [leaf.astype(jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32) for leaf in jax.tree.leaves(results)]
    weights = [random_array(leaf.shape, leaf.dtype, seed) for seed, leaf in enumerate(leaves)]
    return sum(jnp.vdot(weight, jnp.sin(leaf)) for weight, leaf in zip(weights, leaves, strict=True))


# Compiling is most of these tests' time, and an unoptimized function takes half of it.
compiled = partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


@compiled
def gradients(function, params, x, lengths, carry):
    """Of the loss of function(params, x, lengths, carry), by params, x and carry."""
    return jax.grad(lambda params, x, carry: loss(function(params, x, lengths, carry)), (0, 1, 2))(params, x, carry)


@compiled
def curvature(function, params, x, lengths, carry):
    """The gradient of |gradient|^2 / 2: the Hessian times the gradient, in reverse over reverse."""

    def half_square(*arguments):
        gradient = jax.grad(lambda params, x, carry: loss(function(params, x, lengths, carry)), (0, 1, 2))(*arguments)
        return sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)) / 2

    return jax.grad(half_square, (0, 1, 2))(params, x, carry)


def find(jaxpr, name):
    """The equations of one primitive, in nested jaxprs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from find(inner, name)


def draw(kind, direction, dtype, seed):
    params = random_params(make(kind, direction, param_dtype=dtype), dtype=dtype, seed=seed)
    return params, random_array((B, T, D), dtype, seed), random_lengths(seed), random_carry(direction, dtype, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_gradients_are_those_of_a_plain_scan(kind, x64):
    ours = layer_function(kind, "both", param_dtype=np.float64)
    for seed in range(3):
        case = draw(kind, "both", np.float64, seed)
        assert_close(gradients(ours, *case), gradients(plain_function(kind, "both"), *case), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "direction"), [("plain", "forward"), ("gates", "backward")])
def test_float64_hessian_vector_products_are_those_of_a_plain_scan(kind, direction, x64):
    ours = layer_function(kind, direction, param_dtype=np.float64)
    for seed in range(2):
        case = draw(kind, direction, np.float64, seed)
        assert_close(curvature(ours, *case), curvature(plain_function(kind, direction), *case), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_gradients_are_the_float64_ones(kind):
    """Seed 0 draws four outputs so alike that their layer norm multiplies rounding by 100, in any way to compute it."""
    for seed in (1, 2, 3):
        case = draw(kind, "both", np.float32, seed)
        ours = gradients(layer_function(kind, "both"), *case)
        with jax.enable_x64(True):
            params, x, carry = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float64), (case[0], case[1], case[3]))
            expected = gradients(plain_function(kind, "both"), params, x, case[2], carry)
        assert_close(ours, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_past_a_length_changes_no_result_and_no_gradient(kind):
    layer = layer_function(kind, "both")
    params, x, _, carry = draw(kind, "both", np.float32, 0)
    padding = (np.arange(T) >= LENGTHS[:, None])[..., None]
    expected = (layer(params, x, LENGTHS, carry), gradients(layer, params, x, LENGTHS, carry))
    np.testing.assert_array_equal(jnp.where(padding, expected[0][0], 0), 0)
    np.testing.assert_array_equal(jnp.where(padding, expected[1][1], 0), 0)
    for filling in (np.nan, np.inf, -1e30):
        filled = jnp.where(padding, np.float32(filling), x)
        ours = (layer(params, filled, LENGTHS, carry), gradients(layer, params, filled, LENGTHS, carry))
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), [*((kind, None) for kind in KINDS), ("gates", jnp.bfloat16)])
def test_extreme_inputs_stay_finite(kind, dtype):
    layer = layer_function(kind, "both") if dtype is None else layer_function(kind, "both", dtype=dtype)
    params, x, _, carry = draw(kind, "both", np.float32, 0)
    x = x if dtype is None else x.astype(dtype)
    for factor in (1e4, 1e15):
        for leaf in jax.tree.leaves(
            (layer(params, factor * x, LENGTHS, carry), gradients(layer, params, factor * x, LENGTHS, carry))
        ):
            assert np.isfinite(np.asarray(leaf, np.float32)).all()


def test_bfloat16_gradients_are_close_to_the_float32_ones():
    """Each leaf to a tenth of its largest entry, most of it lost in layer norms over 4 features; each keeps its own dtype."""
    params, x, lengths, carry = draw("gates", "both", np.float32, 1)
    ours = gradients(layer_function("gates", "both", dtype=jnp.bfloat16), params, x.astype(jnp.bfloat16), lengths, carry)
    assert ours[1].dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves((ours[0], ours[2]))} == {"float32"}
    expected = gradients(layer_function("gates", "both"), params, x, lengths, carry)
    for leaf, wide in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        difference = np.abs(np.asarray(leaf, np.float32) - np.asarray(wide)).max()
        assert difference < 0.1 * np.abs(wide).max()


def test_gradients_under_vmap():
    cases = [draw("plain", "both", np.float32, seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
    together = jax.vmap(partial(gradients, layer_function("plain", "both")))(*stacked)
    for i, case in enumerate(cases):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_close(one, gradients(layer_function("plain", "both"), *case), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_scans_over_the_gradients_of_h_and_c_alone(kind):
    """Two scans in all; no parameter's gradient is summed up step by step, and each step has one product a direction."""
    case = draw(kind, "both", np.float32, 0)
    jaxpr = jax.make_jaxpr(partial(gradients.__wrapped__, layer_function(kind, "both")))(*case)
    scans = list(find(jaxpr.jaxpr, "scan"))
    assert len(scans) == 2
    for scan in scans:
        carried = scan.invars[scan.params["num_consts"] :][: scan.params["num_carry"]]
        assert [sorted(variable.aval.shape) for variable in carried] == [sorted((B, H))] * 4
        assert len(list(find(scan.params["jaxpr"].jaxpr, "dot_general"))) == 2  # one a direction: the recurrent kernel's


def test_forward_mode_is_an_error():
    params, x, lengths, carry = draw("plain", "both", np.float32, 0)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: layer_function("plain", "both")(params, x, lengths, carry)[0], (x,), (x,))
