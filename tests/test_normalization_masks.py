"""Masks: masked is sliced, what lies behind a mask is never seen, and where nothing counts nothing breaks."""

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
    apply_and_differentiate,
    forward,
    random_input,
    random_mask,
    random_variables,
    updated,
)

LENGTHS = np.array([6, 1, 3, 0, 4])  # of the five sequences of SHAPES[1]
MASK = np.arange(6) < LENGTHS[:, None]


def before_and_after(variables, after):
    return [[np.asarray(state["batch_stats"][name], np.float64) for name in ("mean", "var")] for state in (variables, after)]


def poisoned(x, mask):
    """x with NaN, inf and -inf by turns behind the mask."""
    x = x.copy()
    x[~mask] = np.resize(np.array([np.nan, np.inf, -np.inf], x.dtype), x[~mask].shape)
    return x


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
def test_float32_masked_output_and_statistics_are_the_loops(kind, rank):
    layer, x = LAYERS[kind](), random_input(SHAPES[rank])
    variables, mask = random_variables(layer, x.shape), random_mask(x.shape)
    if rank == 0:
        mask[3] = False  # all of one example, and BatchNorm has one element less
    y, after = apply(layer, variables, x, mask)
    np.testing.assert_allclose(y, forward(kind, x, variables["params"], mask), rtol=1e-5, atol=1e-5)
    if kind in RUNNING:
        before, after = before_and_after(variables, after)
        np.testing.assert_allclose(after, updated(before, x, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
def test_float64_masked_output_is_the_loops(kind, rank, x64):
    layer, x = LAYERS[kind](param_dtype=jnp.float64), random_input(SHAPES[rank], np.float64)
    variables, mask = random_variables(layer, x.shape, dtype=np.float64), random_mask(x.shape)
    y, after = apply(layer, variables, x, mask)
    np.testing.assert_allclose(y, forward(kind, x, variables["params"], mask), rtol=1e-10, atol=1e-10)
    if kind in RUNNING:
        before, after = before_and_after(variables, after)
        np.testing.assert_allclose(after, updated(before, x, mask), rtol=1e-10)


@pytest.mark.parametrize("kind", RUNNING)
def test_masked_evaluation_is_the_loops(kind):
    layer, x = LAYERS[kind](), random_input(SHAPES[1])
    variables = random_variables(layer, x.shape)
    y, after = apply(layer, variables, poisoned(x, MASK), MASK, evaluate=True)
    running, unchanged = before_and_after(variables, after)
    expected = forward(kind, x, variables["params"], MASK, running)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(running, unchanged)


@given(lengths=st.lists(st.integers(0, 6), min_size=5, max_size=5).filter(any), seed=st.integers(0, 99))
def test_masked_batch_norm_is_batch_norm_of_the_joined_sequences(lengths, seed):
    x, layer = random_input(SHAPES[1], seed=seed), LAYERS["bn"]()
    mask = np.arange(6) < np.array(lengths)[:, None]
    variables = random_variables(layer, x.shape)
    y, state = apply(layer, variables, x, mask)
    joined = forward("bn", x[mask], variables["params"])  # (sum of lengths, C)
    np.testing.assert_allclose(np.asarray(y)[mask], joined, rtol=1e-5, atol=1e-5)
    before, after = before_and_after(variables, state)
    np.testing.assert_allclose(after, updated(before, x[mask]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["in", "ln", "gn"])
def test_a_masked_sequence_is_the_sequence_cut_short(kind):
    x, layer = random_input(SHAPES[1]), LAYERS[kind]()
    variables = random_variables(layer, x.shape)
    y, _ = apply(layer, variables, x, MASK)
    for i, length in enumerate(LENGTHS):
        alone, _ = apply(layer, variables, x[i : i + 1, : max(length, 1)])
        np.testing.assert_allclose(y[i, :length], alone[0, :length], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y[i, length:], 0)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_full_mask_is_no_mask(kind):
    x, layer = random_input(SHAPES[2]), LAYERS[kind]()
    variables = random_variables(layer, x.shape)
    masked, unmasked = (apply(layer, variables, x, mask) for mask in (np.ones(x.shape[:-1], bool), None))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), masked, unmasked)


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
def test_nan_and_infinity_behind_a_mask_change_nothing(kind, rank):
    layer, x = LAYERS[kind](), random_input(SHAPES[rank])
    variables, mask = random_variables(layer, x.shape), random_mask(x.shape)
    mask[-1] = False
    cotangent = random_input(x.shape, seed=7)
    clean = np.where(mask[..., None], x, 0)
    results = [apply_and_differentiate(layer, variables, value, cotangent, mask) for value in (clean, poisoned(x, mask))]
    jax.tree.map(np.testing.assert_array_equal, *results)
    for output, (_, input_gradient) in ((result[0][0], result[1]) for result in results):
        assert np.isfinite(output).all() and np.isfinite(input_gradient).all()
        np.testing.assert_array_equal(np.asarray(output)[~mask], 0)
        np.testing.assert_array_equal(np.asarray(input_gradient)[~mask], 0)
        if (kind, rank) != ("gn", 0):  # there two elements become -1 and 1 whatever they are
            assert np.abs(np.asarray(input_gradient)[mask]).max() > 1e-3


@pytest.mark.parametrize(("kind", "rank"), KIND_AND_RANK)
def test_a_fully_masked_batch_gives_zeros_no_gradient_and_leaves_the_statistics(kind, rank):
    layer, x = LAYERS[kind](), np.full(SHAPES[rank], np.nan, np.float32)
    variables, mask = random_variables(layer, x.shape), np.zeros(x.shape[:-1], bool)
    (y, after), by_params_and_x = apply_and_differentiate(layer, variables, x, np.ones_like(x), mask)
    np.testing.assert_array_equal(y, np.zeros(x.shape))
    if kind in RUNNING:
        jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], variables["batch_stats"])
    for leaf in jax.tree.leaves(by_params_and_x):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_fully_masked_example_is_as_good_as_absent(kind):
    layer, x = LAYERS[kind](), random_input(SHAPES[2])
    variables, mask = random_variables(layer, x.shape), random_mask(x.shape)
    mask[1] = False
    kept = [0, 2, 3]
    y, state = apply(layer, variables, x, mask)
    fewer, fewer_state = apply(layer, variables, x[kept], mask[kept])
    np.testing.assert_array_equal(y[1], 0)
    np.testing.assert_allclose(np.asarray(y)[kept], fewer, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, fewer_state)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_mask_under_jit_may_change_without_compiling_again(kind):
    layer, traces = LAYERS[kind](), []
    variables, x = random_variables(layer, SHAPES[1]), random_input(SHAPES[1])

    @jax.jit
    def step(x, mask):
        traces.append(mask.shape)
        return layer.apply(variables, x, False, mask, mutable=["batch_stats"])[0]

    for seed in range(3):
        mask = random_mask(x.shape, seed)
        np.testing.assert_allclose(step(x, mask), forward(kind, x, variables["params"], mask), rtol=1e-5, atol=1e-5)
    assert len(traces) == 1
