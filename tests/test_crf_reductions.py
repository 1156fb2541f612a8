"""The reductions under the CRF's recursions, at large scores and where everything is -inf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colnorm.crf import reductions

INF = np.inf
# Columns: ordinary, large, far apart, one forbidden, all forbidden.
X = np.array([[0, 1e5, -3e4, -INF, -INF], [1, 1e5 + 1, 3e4, 2, -INF], [-2, 1e5, 0, 2, -INF]], np.float32)
P = np.exp(X[:, 0]) / np.exp(X[:, 0]).sum()
Q = np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum()
SOFTMAX = np.stack([P, Q, [0, 1, 0], [0, 0.5, 0.5], [0, 0, 0]], axis=1)


NORMALIZED = {
    "log_sum_exp": np.array([np.log(np.exp(X[:, 0]).sum()), 1e5 + np.log(2 + np.e), 3e4, 2 + np.log(2), -INF]),
    "softmax": SOFTMAX,
    "log_softmax": np.where(SOFTMAX > 0, np.log(np.where(SOFTMAX > 0, SOFTMAX, 1)), X - [0, 0, 3e4, 0, 0]),
}


@jax.jit
def results_and_gradients(x):
    """By name, the reduction over axis 0, and the gradient of a sum of what is finite of it."""

    def scalar(reduction, x):
        y = reduction(x, 0)
        return jnp.sum(jnp.where(y == -INF, 0, y) * jnp.arange(1.0, 1.0 + y.size).reshape(y.shape)), y

    gradients = {name: jax.grad(scalar, 1, has_aux=True)(getattr(reductions, name), x) for name in NORMALIZED}
    return {name: (y, gradient) for name, (gradient, y) in gradients.items()}


@pytest.mark.parametrize("name", NORMALIZED)
def test_normalized_exponentials_and_their_gradients(name):
    y, gradient = results_and_gradients(X)[name]
    np.testing.assert_allclose(y, NORMALIZED[name], rtol=1e-6, atol=1e-6)
    assert np.isfinite(gradient).all() and np.any(gradient)
    assert not np.asarray(gradient)[X == -INF].any()


def test_a_maximum_that_can_be_subtracted():
    np.testing.assert_array_equal(jax.jit(reductions.finite_max, static_argnums=1)(X, 0), [[1, 1e5 + 1, 3e4, 2, 0]])


def test_safe_log_and_denominators():
    x = np.array([0, 1, np.e], np.float32)

    @jax.jit
    def log_and_slope(x):
        slope = jax.grad(lambda x: jnp.sum(jnp.where(x > 0, reductions.safe_log(x), 0)))(x)
        return reductions.safe_log(x), slope, reductions.one_where_zero(x)

    log, slope, denominator = log_and_slope(x)
    np.testing.assert_allclose(log, [-INF, 0, 1], atol=1e-7)
    np.testing.assert_allclose(slope, [0, 1, 1 / np.e], rtol=1e-6)
    np.testing.assert_array_equal(denominator, np.array([1, 1, np.e], np.float32))


def test_the_larger_number_is_shifted_first():
    a, b = np.array([(1e5, 0.125), (0.125, 1e5), (-1e5, 1e5 + 0.0078125), (-INF, 3), (3, -INF)], np.float32).T
    shift = np.nan_to_num(a, neginf=0) + np.nan_to_num(b, neginf=0)
    exact = a.astype(np.float64) + b.astype(np.float64) - shift.astype(np.float64)
    np.testing.assert_array_equal(jax.jit(reductions.sum_less_shift)(a, b, shift), exact)


def test_best_moves():
    alpha, transitions = np.array([[0, -INF], [1, -INF]], np.float32), np.array([[0, 5], [-INF, 3]], np.float32)
    np.testing.assert_array_equal(jax.jit(reductions.best_move)(alpha, transitions), [[0, -INF], [5, -INF]])


@pytest.mark.parametrize("tags", [64, 65, 96])
def test_best_moves_of_many_tags_are_found_in_groups(tags):
    rng = np.random.default_rng(tags)
    alpha, transitions = rng.standard_normal((tags, 3)), rng.standard_normal((tags, tags))
    alpha[:, 2], transitions[:, 1] = -INF, -INF
    alpha, transitions = alpha.astype(np.float32), transitions.astype(np.float32)
    expected = (alpha[:, None] + transitions[:, :, None]).max(0)
    np.testing.assert_array_equal(jax.jit(reductions.best_move)(alpha, transitions), expected)
