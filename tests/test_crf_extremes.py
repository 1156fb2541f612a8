"""The CRF where float32 is short of digits: large scores, thousands of steps, half precision; and what is not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import KINDS, B, K, T, gradients, loop_forward_backward, loop_viterbi, random_problem, values
from hypothesis import given
from hypothesis import strategies as st

from colnorm import crf

LONG = 10_000


@jax.jit
def partition_and_gradient(chain, emissions, lengths):
    return jax.value_and_grad(lambda *varied: crf.log_partition(*varied, lengths).sum(), (0, 1))(chain, emissions)


@jax.jit
def likelihood_and_posterior(chain, emissions, tags, lengths):
    total, (by_chain, by_emissions) = partition_and_gradient(chain, emissions, lengths)
    return {
        "log_partition": total,
        "by_emissions": by_emissions,
        "by_transitions": by_chain.transitions,
        "log_likelihood": crf.log_likelihood(chain, emissions, tags, lengths),
        "marginals": crf.marginals(chain, emissions, lengths),
        "entropy": crf.entropy(chain, emissions, lengths),
    }


@pytest.fixture(scope="module")
def leaves_of():
    """All results and gradients of a problem, as NumPy arrays by name."""

    def compute(problem):
        results = (values(*problem), gradients(*problem, np.ones(B, np.float32)))
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(results)}

    return compute


def loop_score(chain, emissions, tags, length):
    """In float64."""
    chain, tags = crf.Chain(*(np.asarray(part, np.float64) for part in chain)), np.asarray(tags)[:length]
    emitted = np.asarray(emissions, np.float64)[np.arange(length), tags].sum()
    return chain.start[tags[0]] + emitted + chain.transitions[tags[:-1], tags[1:]].sum() + chain.end[tags[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("some", [2, 3, 9, 17])
def test_float32_keeps_probabilities_and_entropy_at_scores_of_a_thousand(some):
    """Of ``some`` of 17 tags; emissions forbid the others."""
    B, T, K = 16, 100, 17
    rng = np.random.default_rng(some)
    shapes = ((K, K), K, K, (B, T, K))
    transitions, start, end, emissions = ((1e3 * rng.normal(size=shape)).astype(np.float32) for shape in shapes)
    emissions[:, :, some:] = -np.inf
    chain, lengths = crf.Chain(transitions, start, end), rng.integers(1, T + 1, B).astype(np.int32)
    tags, _ = crf.viterbi(chain, emissions, lengths)
    actual = likelihood_and_posterior(chain, emissions, tags, lengths)
    part = crf.Chain(transitions[:some, :some], start[:some], end[:some])
    total, expected_moves = 0, np.zeros((K, K))
    for b, n in enumerate(lengths):
        log_partition, marginals, pairwise, entropy = loop_forward_backward(part, emissions[b, :, :some], n)
        np.testing.assert_allclose(actual["marginals"][b, :n, :some], marginals, rtol=0, atol=2e-4)
        np.testing.assert_allclose(actual["by_emissions"][b, :n, :some], marginals, rtol=0, atol=2e-4)
        np.testing.assert_allclose(actual["entropy"][b], entropy, rtol=0, atol=2e-3)
        # The score and the log-partition are about 10^5, where float32 numbers are 0.008 apart.
        likelihood = loop_score(chain, emissions[b], tags[b], n) - log_partition
        np.testing.assert_allclose(actual["log_likelihood"][b], likelihood, rtol=0, atol=2e-3)
        total += log_partition
        expected_moves[:some, :some] += pairwise.sum(0)
    np.testing.assert_allclose(actual["log_partition"], total, rtol=1e-6)
    np.testing.assert_allclose(actual["by_transitions"], expected_moves, rtol=1e-5, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "level"), [(0, 0), (1, 0), (0, 100.1), (30, 0)])
def test_ten_thousand_steps_in_float32(scale, level):
    rng = np.random.default_rng(1)
    shapes = ((5, 5), 5, 5, (1, LONG, 5))
    transitions, start, end, emissions = ((scale * rng.normal(size=size) + level).astype(np.float32) for size in shapes)
    chain, lengths = crf.Chain(transitions, start, end), np.array([LONG])
    tags, best = crf.viterbi(chain, emissions)
    actual = likelihood_and_posterior(chain, emissions, tags, lengths)
    log_partition, marginals, pairwise, entropy = loop_forward_backward(chain, emissions[0], LONG)
    np.testing.assert_allclose(actual["log_partition"], log_partition, rtol=1e-6)
    np.testing.assert_allclose(actual["entropy"], [entropy], rtol=1e-5)
    np.testing.assert_allclose(actual["by_emissions"][0], marginals, rtol=0, atol=1e-5)
    np.testing.assert_allclose(actual["by_transitions"], pairwise.sum(0), rtol=1e-5, atol=1e-2)
    exact = loop_score(chain, emissions[0], tags[0], LONG)
    np.testing.assert_allclose(crf.score(chain, emissions, tags), [exact], rtol=1e-6)
    np.testing.assert_allclose(best, [exact], rtol=1e-6)
    np.testing.assert_allclose(exact, loop_viterbi(chain, emissions[0], LONG)[1], rtol=1e-9)
    np.testing.assert_allclose(actual["log_likelihood"], [exact - log_partition], rtol=1e-5)


@pytest.mark.slow
def test_hundreds_of_steps_associatively():
    """All equal: the rounding errors of all factors have the same sign."""
    chain, length = crf.Chain.zeros(3), 200
    emissions = np.full((1, length, 3), 100.1, np.float32)

    @jax.jit
    def partition_and_gradient(*arguments):
        return jax.value_and_grad(lambda *varied: crf.log_partition(*varied, method="associative")[0], (0, 1))(*arguments)

    value, (by_chain, by_emissions) = partition_and_gradient(chain, emissions)
    np.testing.assert_allclose(value, length * (np.float64(emissions[0, 0, 0]) + np.log(3)), rtol=1e-6)
    np.testing.assert_allclose(by_emissions, np.full(emissions.shape, 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(by_chain.transitions, np.full((3, 3), (length - 1) / 9), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_comes_out_as_float32(dtype):
    problem = random_problem("normal", 0)
    half = jax.tree.map(lambda part: jnp.asarray(part).astype(dtype), (problem.chain, problem.emissions))
    results = jax.eval_shape(values, *half, *problem[2:])
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(results)} == {"float32", "int32"}
    _, by_half = jax.eval_shape(partition_and_gradient, *half, problem.lengths)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(by_half))


def test_half_precision_accumulates_in_float32():
    problem = random_problem("normal", 0)
    half = jax.tree.map(lambda part: jnp.asarray(part).astype(jnp.bfloat16), (problem.chain, problem.emissions))
    exact = jax.tree.map(lambda part: part.astype(jnp.float32), half)
    (value, by_half), (expected, by_exact) = (partition_and_gradient(*x, problem.lengths) for x in (half, exact))
    np.testing.assert_array_equal(value, expected)
    jax.tree.map(lambda a, e: np.testing.assert_array_equal(a, e.astype(jnp.bfloat16)), by_half, by_exact)


def test_one_float64_argument_is_enough_for_float64(x64):
    problem = random_problem("normal", 1)
    wide = problem.astype(np.float64)
    for chain, emissions in ((problem.chain, wide.emissions), (wide.chain, problem.emissions)):
        assert jax.eval_shape(crf.log_partition, chain, emissions, problem.lengths).dtype == jnp.float64


@given(
    kind=st.sampled_from(["normal", "forbidding", "huge"]),
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(0, T), min_size=B, max_size=B),
    past=st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 3e38]),
    tag=st.sampled_from([-1, -(2**31), 2**31 - 1, K, 0]),
)
def test_what_lies_past_a_length_never_matters(leaves_of, kind, seed, lengths, past, tag):
    problem = random_problem(kind, seed, lengths=lengths)
    outside = np.arange(T) >= problem.lengths[:, None]
    other = problem._replace(
        emissions=np.where(outside[..., None], np.float32(past), problem.emissions),
        tags=np.where(outside, tag, problem.tags).astype(np.int32),
    )
    first, second = leaves_of(problem), leaves_of(other)
    for name, value in first.items():
        assert not np.isnan(value).any(), name
        np.testing.assert_array_equal(value, second[name], name)
    assert not first["[1]['log_likelihood'][1]"][outside].any()
    empty = problem.lengths == 0
    for name in ("score", "log_partition", "associative", "log_likelihood", "entropy", "viterbi_score"):
        assert not first[f"[0]['{name}']"][empty].any(), name
    np.testing.assert_array_equal(first["[0]['k_best_scores']"][empty], np.tile([0] + [-np.inf] * 4, (empty.sum(), 1)))


def test_lengths_and_tags_out_of_range_are_clipped():
    problem = random_problem("normal", 2, lengths=[T, T, T, T, 0, 0, 0])
    lengths = problem.lengths + np.array([0, 1, 90, 2**20, 0, -1, -(2**20)], np.int32)
    tags = np.where(problem.tags == K - 1, 10**6, np.where(problem.tags == 0, -7, problem.tags)).astype(np.int32)
    expected, actual = values(*problem), values(problem.chain, problem.emissions, tags, lengths)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, name)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_integers_of_any_width(dtype):
    problem = random_problem("normal", 2, lengths=[0, 1, 2, 3, 4, 5, 6])
    tags = np.where(np.arange(T) < problem.lengths[:, None], problem.tags, 0).astype(dtype)
    actual = crf.log_likelihood(problem.chain, problem.emissions, tags, problem.lengths.astype(dtype))
    np.testing.assert_array_equal(actual, crf.log_likelihood(*problem))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_is_ever_nan(leaves_of, kind):
    for seed in range(10, 20):
        for name, value in leaves_of(random_problem(kind, seed)).items():
            assert not np.isnan(value).any(), (seed, name)
            assert np.isfinite(value).all() or name.startswith("[0]"), (seed, name)  # gradients are finite


@pytest.mark.parametrize("part", ["transitions", "start", "end", "emissions"])
def test_no_legal_path_but_the_empty_one(leaves_of, part):
    problem = random_problem("normal", 4, lengths=[T, T, 2, 2, 3, 4, 0])
    if part == "emissions":
        problem.emissions[:, 1] = -np.inf
    else:
        getattr(problem.chain, part)[:] = -np.inf
    leaves = leaves_of(problem)
    for name in ("score", "log_partition", "associative", "log_likelihood", "viterbi_score"):
        np.testing.assert_array_equal(leaves.pop(f"[0]['{name}']"), [-np.inf] * 6 + [0], name)
    best, *others = leaves.pop("[0]['k_best_scores']").T
    np.testing.assert_array_equal(best, [-np.inf] * 6 + [0])
    assert (np.array(others) == -np.inf).all()
    for name, value in leaves.items():
        assert not value.any(), name
