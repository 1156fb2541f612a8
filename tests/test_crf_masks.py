"""Masks with gaps: every function gives what it gives for the sequences without the positions that are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import KINDS, B, K, T, random_problem

from colnorm import crf

KEY = jax.random.key(0)


# Name -> (chain, emissions, tags, **how) -> results, of which those with an axis of positions have it where AXES says.
FUNCTIONS = {
    "score": lambda c, e, y, **how: crf.score(c, e, y, **how),
    "log_partition": lambda c, e, y, **how: crf.log_partition(c, e, **how),
    "associative": lambda c, e, y, **how: crf.log_partition(c, e, method="associative", **how),
    "log_likelihood": lambda c, e, y, **how: crf.log_likelihood(c, e, y, **how),
    "entropy": lambda c, e, y, **how: crf.entropy(c, e, **how),
    "viterbi_score": lambda c, e, y, **how: crf.viterbi(c, e, **how)[1],
    "k_best_scores": lambda c, e, y, **how: crf.k_best(c, e, k=3, **how)[1],
    "expected_correct": lambda c, e, y, **how: crf.posterior_decode(c, e, **how)[1],
    "cross_entropy": lambda c, e, y, **how: crf.cross_entropy(c, e, c, 0.5 * e, **how),
    "kl_divergence": lambda c, e, y, **how: crf.kl_divergence(c, e, c, 0.5 * e, **how),
    "hinge_loss": lambda c, e, y, **how: crf.hinge_loss(c, e, y, **how),
    "marginal_log_likelihood": lambda c, e, y, **how: crf.marginal_log_likelihood(c, e, y, **how),
    "marginals": lambda c, e, y, **how: crf.marginals(c, e, **how),
    "viterbi": lambda c, e, y, **how: crf.viterbi(c, e, **how)[0],
    "posterior_decode": lambda c, e, y, **how: crf.posterior_decode(c, e, **how)[0],
    "k_best": lambda c, e, y, **how: jnp.swapaxes(crf.k_best(c, e, k=3, **how)[0], 1, 2),
    "pairwise": lambda c, e, y, **how: jnp.pad(crf.pairwise_marginals(c, e, **how), ((0, 0), (0, 1), (0, 0), (0, 0))),
}
WITH_POSITIONS = {"marginals", "viterbi", "posterior_decode", "k_best", "pairwise"}
SHAPE = (B, 9, K)  # with room for gaps


@jax.jit
def everything(chain, emissions, tags, **how):
    return {name: function(chain, emissions, tags, **how) for name, function in FUNCTIONS.items()}


def masked(problem, seed):
    """A mask over more positions, the arrays with garbage in its gaps, and where each position stands now."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE[:2], bool)
    emissions, tags = np.full(SHAPE, np.nan, problem.emissions.dtype), np.full(SHAPE[:2], 10**6, np.int32)
    for b, length in enumerate(problem.lengths):
        places = np.sort(rng.choice(SHAPE[1], length, replace=False))
        mask[b, places] = True
        emissions[b, places], tags[b, places] = problem.emissions[b, :length], problem.tags[b, :length]
    return mask, emissions, tags


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_change_nothing(kind):
    for seed in range(3):
        problem = random_problem(kind, seed)
        mask, emissions, tags = masked(problem, seed)
        plain = everything(problem.chain, problem.emissions, problem.tags, lengths=problem.lengths)
        gapped = everything(problem.chain, emissions, tags, mask=mask)
        for name, expected in plain.items():
            actual, expected = np.asarray(gapped[name]), np.asarray(expected)
            if name not in WITH_POSITIONS:
                np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6, err_msg=name)
                continue
            assert not actual[~mask].any(), name
            for b, length in enumerate(problem.lengths):
                np.testing.assert_allclose(actual[b, mask[b]], expected[b, :length], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"viterbi", "posterior_decode", "k_best"}))
def test_gradients_come_back_to_their_positions(name):
    problem = random_problem("normal", 0, lengths=[6, 5, 1, 3, 0, 2, 4])
    mask, emissions, tags = masked(problem, 1)
    weights = np.random.default_rng(2).normal(size=(100,)).astype(np.float32)

    def total(chain, emissions, tags, **how):
        values = FUNCTIONS[name](chain, emissions, tags, **how)
        if name in WITH_POSITIONS:  # no weight may depend on the position
            values = values.sum(1)
        values = values.reshape(B, -1)
        return jnp.sum(values * weights[None, : values.shape[1]] * weights[10 : 10 + B, None])

    gradient = jax.jit(jax.grad(total, (0, 1)))
    of_chain, of_emissions = gradient(problem.chain, problem.emissions, problem.tags, lengths=problem.lengths)
    of_chain_gapped, of_emissions_gapped = gradient(problem.chain, emissions, tags, mask=mask)
    for ours, theirs in zip(of_chain_gapped, of_chain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    of_emissions_gapped = np.asarray(of_emissions_gapped)
    assert not of_emissions_gapped[~mask].any()
    for b, length in enumerate(problem.lengths):
        np.testing.assert_allclose(of_emissions_gapped[b, mask[b]], of_emissions[b, :length], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_second_derivatives_go_through_gaps(x64):
    problem = random_problem("normal", 3, (2, 4, 3), lengths=[4, 2], dtype=np.float64)
    mask = np.array([[False, True, True, False, True, True], [True, False, False, True, False, False]])
    emissions = np.zeros((2, 6, 3))
    for b, length in enumerate(problem.lengths):
        emissions[b, mask[b]] = problem.emissions[b, :length]
    plain = jax.hessian(lambda e: crf.log_partition(problem.chain, e, problem.lengths).sum())(problem.emissions)
    gapped = jax.hessian(lambda e: crf.log_partition(problem.chain, e, mask=mask).sum())(emissions)
    for b, length in enumerate(problem.lengths):
        inner = np.asarray(gapped)[b][mask[b]][:, :, b][:, :, mask[b]]
        np.testing.assert_allclose(inner, np.asarray(plain)[b, :length, :, b, :length], rtol=1e-9, atol=1e-12)


def test_a_prefix_is_lengths_bit_for_bit():
    problem = random_problem("normal", 4)
    mask = np.arange(T) < problem.lengths[:, None]
    by_mask = everything(problem.chain, problem.emissions, problem.tags, mask=mask)
    by_lengths = everything(problem.chain, problem.emissions, problem.tags, lengths=problem.lengths)
    jax.tree.map(np.testing.assert_array_equal, by_mask, by_lengths)


def test_vmap_over_masks():
    problem = random_problem("normal", 5)
    masks = np.random.default_rng(0).random((3, B, T)) < 0.6
    emissions = np.nan_to_num(problem.emissions)
    together = jax.vmap(lambda mask: crf.log_partition(problem.chain, emissions, mask=mask))(masks)
    for mask, values in zip(masks, together, strict=True):
        np.testing.assert_allclose(values, crf.log_partition(problem.chain, emissions, mask=mask), rtol=1e-6)


def test_samples_stand_where_the_mask_is():
    chain = crf.Chain(
        np.full((2, 2), [[-np.inf, 0], [0, -np.inf]], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    )
    mask = np.array([[False, True, False, True, True]])
    draws = np.asarray(crf.sample(KEY, chain, np.zeros((1, 5, 2), np.float32), mask=mask))[0]
    assert draws[0] == draws[2] == 0 and draws[1] != draws[3] != draws[4]  # they alternate across the gap


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"mask": np.ones((B, T), bool), "lengths": np.full(B, T)}, "expected lengths or a mask, got both"),
        ({"mask": np.ones((B, T), np.int32)}, r"expected a bool mask of shape \(7, 6\), got int32 of shape \(7, 6\)"),
        ({"mask": np.ones((B, T - 1), bool)}, r"expected a bool mask of shape \(7, 6\), got bool of shape \(7, 5\)"),
        ({"allowed": np.ones((B, T), bool)}, r"expected a bool allowed of shape \(7, 6, 4\), got bool of shape \(7, 6\)"),
        ({"allowed": np.ones((B, T, K), np.uint8)}, r"expected a bool allowed of shape .*, got uint8"),
    ],
)
def test_what_is_no_mask_is_an_error_when_traced(how, message):
    problem = random_problem("normal", 0)
    for name, function in {
        "score": lambda **how: crf.score(problem.chain, problem.emissions, problem.tags, **how),
        "viterbi": lambda **how: crf.viterbi(problem.chain, problem.emissions, **how),
        "sample": lambda **how: crf.sample(KEY, problem.chain, problem.emissions, **how),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            function(**how)
