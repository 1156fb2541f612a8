"""Partial labels, restricted and least-risk decoding, divergences and losses against every path of short sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import KINDS, B, K, Paths, T, random_problem, total

from colnorm import crf

EXACT = ["normal", "forbidding", "tied"]  # kinds whose probabilities float32 holds to 1e-5


def draw_allowed(seed):
    return np.random.default_rng([seed, 7]).random((B, T, K)) < 0.6


def draw_cost(seed):
    return np.random.default_rng([seed, 8]).random((B, T, K)).astype(np.float32)


def paths_of(problem, allowed=None):
    """The paths of each sequence; what is not allowed is forbidden."""
    emissions = problem.emissions if allowed is None else np.where(allowed, problem.emissions, -np.inf)
    return [Paths(problem.chain, *sequence) for sequence in zip(emissions, problem.lengths, strict=True)]


def costs_of(paths, cost):
    return sum((cost[t, paths.tags[:, t]] for t in range(paths.length)), np.zeros(len(paths.tags)))


@jax.jit
def restricted(chain, emissions, tags, lengths, allowed):
    how = {"lengths": lengths, "allowed": allowed}
    best, score = crf.viterbi(chain, emissions, **how)
    return {
        "partial": crf.partial_log_likelihood(chain, emissions, allowed, lengths),
        "log_partition": crf.log_partition(chain, emissions, **how),
        "log_likelihood": crf.log_likelihood(chain, emissions, tags, **how),
        "score": crf.score(chain, emissions, tags, **how),
        "marginals": crf.marginals(chain, emissions, **how),
        "pairwise": crf.pairwise_marginals(chain, emissions, **how),
        "entropy": crf.entropy(chain, emissions, **how),
        "best": best,
        "best_score": score,
        "k_best_scores": crf.k_best(chain, emissions, k=4, **how)[1],
        "sample": crf.sample(jax.random.key(0), chain, emissions, **how),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_allowed_restricts_every_function(kind):
    seen = set()
    for seed in range(4):
        problem, allowed = random_problem(kind, seed), draw_allowed(seed)
        found = {name: np.asarray(value) for name, value in restricted(*problem, allowed).items()}
        if kind == "huge_real":  # float32 rounds these scores themselves: only what is exact at any size is compared
            inside = np.arange(T) < problem.lengths[:, None]
            possible = found["best_score"] > -np.inf
            chosen = np.take_along_axis(allowed, found["best"][..., None], 2)[..., 0]
            assert chosen[inside & possible[:, None]].all() and (found["partial"] < 1e-3).all()
            continue
        scale = 1e4 if kind == "huge" else 1.0
        for b, (some, every) in enumerate(zip(paths_of(problem, allowed), paths_of(problem), strict=True)):
            own = {name: value[b] for name, value in found.items()}
            n = some.index(problem.tags[b])
            with np.errstate(invalid="ignore"):
                partial = some.log_partition - every.log_partition if some.possible else -np.inf
            close = {"rtol": 1e-5, "atol": 1e-5}
            np.testing.assert_allclose(own["partial"], partial, **close)
            np.testing.assert_allclose(own["log_partition"], some.log_partition, rtol=1e-5, atol=1e-5 * scale)
            np.testing.assert_allclose(own["score"], some.scores[n], rtol=1e-5, atol=1e-5 * scale)
            likelihood = some.scores[n] - some.log_partition if some.possible else -np.inf
            np.testing.assert_allclose(own["log_likelihood"], likelihood, **close)
            np.testing.assert_allclose(own["marginals"], some.marginals, atol=1e-5)
            np.testing.assert_allclose(own["pairwise"], some.pairwise, atol=1e-5)
            np.testing.assert_allclose(own["entropy"], some.entropy, **close)
            tags, scores = some.best(4)
            np.testing.assert_array_equal(own["best"], tags[0])
            np.testing.assert_allclose(own["best_score"], scores[0], rtol=1e-5, atol=1e-5 * scale)
            np.testing.assert_allclose(own["k_best_scores"], scores, rtol=1e-5, atol=1e-5 * scale)
            assert some.p[some.index(own["sample"])] > 0 or not some.possible
            seen.add((some.possible, every.possible, bool(some.length)))
    assert len(seen) > 2 or kind == "huge_real"


def test_partial_labels_between_all_and_one():
    for kind in KINDS:
        problem = random_problem(kind, 5)
        inside = np.arange(T) < problem.lengths[:, None]
        possible = np.asarray(crf.log_partition(*problem[:2], problem.lengths)) > -np.inf
        every = crf.partial_log_likelihood(problem.chain, problem.emissions, np.ones((B, T, K), bool), problem.lengths)
        np.testing.assert_array_equal(every, np.where(possible, 0, -np.inf))
        tags = np.where(inside, problem.tags, 0)
        one = crf.partial_log_likelihood(problem.chain, problem.emissions, np.eye(K, dtype=bool)[tags], problem.lengths)
        likelihood = np.asarray(crf.log_likelihood(*problem))
        # The two take their large numbers out in other orders.
        np.testing.assert_allclose(one, likelihood, rtol=2e-4 if kind == "huge_real" else 1e-5, atol=1e-5)


def test_the_gradient_of_partial_labels_is_the_difference_of_two_expectations():
    problem, allowed = random_problem("normal", 1), draw_allowed(1)
    weights = np.random.default_rng(0).normal(size=B).astype(np.float32)

    def objective(chain, emissions):
        values = crf.partial_log_likelihood(chain, emissions, allowed, problem.lengths)
        return jnp.sum(jnp.where(values > -jnp.inf, weights * values, 0))

    actual = jax.jit(jax.grad(objective, (0, 1)))(problem.chain, problem.emissions)
    parts = []
    for some, every, weight in zip(paths_of(problem, allowed), paths_of(problem), weights, strict=True):
        of_some, of_every = (paths.counts(paths.p * (weight if some.possible else 0)) for paths in (some, every))
        parts.append(jax.tree.map(np.subtract, of_some, of_every))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), actual, total(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_decoding_has_the_most_expected_correct_tags(kind):
    for seed in range(4):
        problem = random_problem(kind, seed)
        tags, correct = map(np.asarray, crf.posterior_decode(problem.chain, problem.emissions, problem.lengths))
        posterior = np.asarray(crf.marginals(problem.chain, problem.emissions, problem.lengths), np.float64)
        for b, paths in enumerate(paths_of(problem)):
            gains = np.where(paths.scores > -np.inf, costs_of(paths, posterior[b]), -np.inf)
            if not paths.possible:
                assert not tags[b].any() and correct[b] == 0
                continue
            assert paths.scores[paths.index(tags[b])] > -np.inf and not tags[b, paths.length :].any()
            np.testing.assert_allclose([correct[b], gains[paths.index(tags[b])]], gains.max(), rtol=1e-5, atol=1e-6)


def test_posterior_decoding_can_differ_from_viterbi_and_differentiates():
    # Of three paths the likeliest is alone in its first tag, which the other two share otherwise.
    emissions = np.log(np.array([[[0.4, 0.6], [1.0, 1.0]]], np.float32))
    transitions = np.log(np.array([[1.0, 1e-9], [0.5, 0.5]], np.float32))
    chain = crf.Chain(transitions, np.zeros(2, np.float32), np.zeros(2, np.float32))
    assert crf.viterbi(chain, emissions)[0].tolist() == [[0, 0]]
    tags, correct = crf.posterior_decode(chain, emissions)
    assert tags.tolist() == [[1, 0]] and float(correct[0]) == pytest.approx(0.6 + 0.7, abs=1e-6)
    gradient = jax.grad(lambda e: crf.posterior_decode(chain, e)[1].sum())(emissions)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT)
def test_divergences_are_those_of_every_path(kind):
    infinite = 0
    for seed in range(4):
        p, q = random_problem(kind, seed), random_problem("normal" if kind == "forbidding" and seed % 2 else kind, seed + 10)
        q = q._replace(lengths=p.lengths, emissions=np.nan_to_num(q.emissions, nan=0.5))
        arguments = (p.chain, p.emissions, q.chain, q.emissions, p.lengths)
        cross, divergence = map(np.asarray, (crf.cross_entropy(*arguments), crf.kl_divergence(*arguments)))
        for b, (of_p, of_q) in enumerate(zip(paths_of(p), paths_of(q), strict=True)):
            if not of_p.possible:
                assert cross[b] == divergence[b] == 0
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                logs = of_q.scores - of_q.log_partition if of_q.possible else np.full(len(of_q.p), -np.inf)
                terms = np.where(of_p.p > 0, -of_p.p * logs, 0)
            infinite += not np.isfinite(terms.sum())
            np.testing.assert_allclose(cross[b], terms.sum(), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(divergence[b], terms.sum() - of_p.entropy, rtol=1e-4, atol=1e-5)
    assert infinite or kind != "forbidding"


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_is_at_no_distance_from_itself_and_costs_its_entropy(kind):
    for seed in range(3):
        chain, emissions, _, lengths = random_problem(kind, seed)
        arguments = (chain, emissions, chain, emissions, lengths)
        np.testing.assert_array_equal(crf.kl_divergence(*arguments), 0)
        expected = crf.entropy(chain, emissions, lengths)
        np.testing.assert_allclose(crf.cross_entropy(*arguments), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_of_a_cross_entropy_is_expected_counts_of_q_less_those_of_p():
    p, q = random_problem("normal", 2), random_problem("normal", 12)
    q = q._replace(emissions=np.nan_to_num(q.emissions))

    def objective(chain, emissions):
        return crf.cross_entropy(p.chain, p.emissions, chain, emissions, p.lengths).sum()

    actual = jax.jit(jax.grad(objective, (0, 1)))(q.chain, q.emissions)
    parts = []
    for of_p, of_q in zip(paths_of(p), paths_of(q._replace(lengths=p.lengths)), strict=True):
        parts.append(jax.tree.map(np.subtract, of_q.counts(of_q.p), of_p.counts(of_p.p)))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=2e-5), actual, total(parts))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", ["normal", "forbidding", "tied", "huge"])
def test_the_hinge_is_that_of_every_path(kind, given):
    for seed in range(4):
        problem = random_problem(kind, seed)
        cost = draw_cost(seed) if given else None
        hinge = np.asarray(crf.hinge_loss(*problem, cost))
        for b, paths in enumerate(paths_of(problem)):
            gold = problem.tags[b]
            charged = cost[b] if given else 1 - np.eye(K)[np.where(np.arange(T) < paths.length, gold, 0)]
            n = paths.index(gold)
            with np.errstate(invalid="ignore"):
                expected = (paths.scores + costs_of(paths, charged)).max() - paths.scores[n] if paths.possible else 0
            np.testing.assert_allclose(hinge[b], expected, rtol=1e-5, atol=2e-5)


def test_the_gradient_of_the_hinge_is_counts_of_two_paths():
    problem = random_problem("normal", 3)
    actual = jax.jit(jax.grad(lambda c, e: crf.hinge_loss(c, e, problem.tags, problem.lengths).sum(), (0, 1)))(*problem[:2])
    parts = []
    for b, paths in enumerate(paths_of(problem)):
        n = paths.index(problem.tags[b])
        best = np.argmax(paths.scores + (paths.tags != problem.tags[b, : paths.length]).sum(1))
        parts.append(paths.counts(np.eye(len(paths.p))[best] - np.eye(len(paths.p))[n]))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=1e-6), actual, total(parts))


@pytest.mark.parametrize("kind", EXACT)
def test_expected_costs_and_their_gradients_are_those_of_every_path(kind):
    problem, cost = random_problem(kind, 4), draw_cost(4)
    lengths = problem.lengths
    risk = np.asarray(crf.expected_cost(problem.chain, problem.emissions, cost, lengths))
    actual = jax.jit(jax.grad(lambda c, e: crf.expected_cost(c, e, cost, lengths).sum(), (0, 1)))(*problem[:2])
    parts = []
    for b, paths in enumerate(paths_of(problem)):
        costs = costs_of(paths, cost[b])
        np.testing.assert_allclose(risk[b], paths.p @ costs, rtol=1e-5, atol=1e-6)
        parts.append(paths.covariances(costs))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), actual, total(parts))


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT)
def test_weighted_marginal_likelihoods_are_those_of_every_path(kind):
    for seed in range(3):
        problem = random_problem(kind, seed)
        weights = np.random.default_rng(seed).choice([0.0, 0.5, 2.0], (B, T)).astype(np.float32)
        found = np.asarray(crf.marginal_log_likelihood(*problem, weights))
        for b, paths in enumerate(paths_of(problem)):
            inside = np.arange(T) < paths.length
            chosen = paths.marginals[np.arange(T), np.where(inside, problem.tags[b], 0)]
            counted = inside & (weights[b] > 0)
            with np.errstate(divide="ignore"):
                expected = np.sum(weights[b, counted] * np.log(chosen[counted]))
            np.testing.assert_allclose(found[b], expected, rtol=1e-4, atol=1e-5)


def test_marginal_likelihoods_hold_where_probabilities_are_too_small_to_be_stored():
    emissions = np.zeros((1, 3, 2), np.float32)
    emissions[0, 1, 0] = 5000  # the other tag has a probability of exp(-5000)
    tags, weights = np.array([[0, 1, 0]]), np.array([[0.0, 1.0, 0.0]], np.float32)
    function = jax.value_and_grad(lambda e: crf.marginal_log_likelihood(crf.Chain.zeros(2), e, tags, weights=weights).sum())
    value, gradient = function(emissions)
    assert float(value) == -5000
    np.testing.assert_allclose(gradient[0], [[0, 0], [-1, 1], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: crf.hinge_loss(*p, np.ones((B, T))), r"hinge_loss: expected a floating-point cost of shape \(7, 6, 4\)"),
        (
            lambda p: crf.expected_cost(p.chain, p.emissions, np.ones((B, T, K), int)),
            r"expected_cost: expected a floating-point cost of shape \(7, 6, 4\), got int",
        ),
        (
            lambda p: crf.marginal_log_likelihood(*p, np.ones(B, np.float32)),
            r"weights of shape \(7, 6\), got float32 of shape \(7,\)",
        ),
        (lambda p: crf.partial_log_likelihood(p.chain, p.emissions, None), "expected"),
        (
            lambda p: crf.kl_divergence(p.chain, p.emissions, p.chain, p.emissions[:, :3]),
            r"kl_divergence: expected p_emissions and q_emissions of one shape, got \(7, 6, 4\) and \(7, 3, 4\)",
        ),
    ],
)
def test_what_cannot_be_computed_is_an_error_when_traced(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_problem("normal", 0))
