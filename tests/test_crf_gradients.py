"""Gradients of what is itself a gradient: of marginals and entropy, and Hessians of the log-partition.

The gradient of an expectation is the covariance of its path function with the path's counts, so that every path gives it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import KINDS, all_paths, random_problem, total

from colnorm import crf

SHAPE = B, T, K = 5, 4, 3  # with lengths 0 to 4


def random_direction(rng):
    """(chain, emissions) of random numbers."""
    return crf.Chain(rng.normal(size=(K, K)), rng.normal(size=K), rng.normal(size=K)), rng.normal(size=SHAPE)


def inner(left, right):
    return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@jax.jit
def second_derivatives(chain, emissions, lengths, direction, pair_weights):
    """By name, gradients by (chain, emissions) of scalars that the recursions' own gradients enter."""

    def slope(method, *arguments):
        by = jax.grad(lambda *varied: jnp.sum(crf.log_partition(*varied, lengths, method)), (0, 1))(*arguments)
        return inner(by, direction)

    scalars = {
        "scan": partial(slope, "scan"),
        "associative": partial(slope, "associative"),
        "marginals": lambda *varied: jnp.sum(crf.marginals(*varied, lengths) * direction[1]),
        "pairwise": lambda *varied: jnp.sum(crf.pairwise_marginals(*varied, lengths) * pair_weights),
        "entropy": lambda *varied: jnp.sum(crf.entropy(*varied, lengths)),
    }
    return {name: jax.grad(scalar, (0, 1))(chain, emissions) for name, scalar in scalars.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_second_derivatives_are_covariances_over_every_path(x64, kind):
    rng = np.random.default_rng(0)
    for seed in range(5):
        problem = random_problem(kind, seed, SHAPE, dtype=np.float64)
        chain, emissions, _, lengths = problem
        direction = random_direction(rng)
        pair_weights = rng.normal(size=(B, T - 1, K, K))
        actual = second_derivatives(chain, emissions, lengths, direction, pair_weights)
        expected = {name: [] for name in actual}
        for b, paths in enumerate(all_paths(problem)):
            slopes = paths.score(direction[0], direction[1][b])
            expected["scan"].append(paths.covariances(slopes))
            expected["marginals"].append(paths.covariances(paths.emitted(direction[1][b])))
            expected["pairwise"].append(paths.covariances(paths.moved(pair_weights[b])))
            expected["entropy"].append(paths.covariances(-paths.log_p))
        expected["associative"] = expected["scan"]
        for name, parts in expected.items():
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), actual[name], total(parts))


def test_scores_of_paths_have_no_curvature():
    problem = random_problem("forbidding", 0, SHAPE)
    chain, emissions, tags, lengths = problem

    @jax.jit
    @jax.grad
    def curvature(emissions):
        def scores(emissions):
            best, (_, others) = crf.viterbi(chain, emissions, lengths)[1], crf.k_best(chain, emissions, lengths, k=2)
            paths = (best, others, crf.score(chain, emissions, tags, lengths))
            return sum(jnp.sum(jnp.where(score == -jnp.inf, 0, score)) for score in paths)

        return jnp.sum(jax.grad(scores)(emissions) ** 2)

    np.testing.assert_array_equal(curvature(emissions), np.zeros(SHAPE))


def test_the_hessian_is_symmetric_and_positive_semidefinite():
    """Forward over reverse, as ``jax.hessian`` does it; the Hessian is a covariance matrix."""
    problem = random_problem("normal", 6, (2, 4, 3), lengths=[4, 2])
    size = problem.emissions.size

    def function(flat):
        return jnp.sum(crf.log_partition(problem.chain, flat.reshape(problem.emissions.shape), problem.lengths))

    hessian = jax.jit(jax.hessian(function))(problem.emissions.reshape(size))
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-6)
    assert np.linalg.eigvalsh(hessian).min() > -1e-6
    assert np.linalg.eigvalsh(hessian).max() > 0.1
    assert not hessian[:, np.isnan(problem.emissions.reshape(size))].any()


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_differentiable_where_no_path_is_legal(x64, part):
    chain, emissions, _, lengths = random_problem("normal", 0, SHAPE, lengths=[4, 4, 3, 2, 2], dtype=np.float64)
    arguments = [*chain, emissions]
    arguments[part] = np.full_like(arguments[part], -np.inf)
    ones = (crf.Chain(np.ones((K, K)), np.ones(K), np.ones(K)), np.ones(SHAPE))
    actual = second_derivatives(crf.Chain(*arguments[:3]), arguments[3], lengths, ones, np.ones((B, T - 1, K, K)))
    for leaf in jax.tree.leaves(actual):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
