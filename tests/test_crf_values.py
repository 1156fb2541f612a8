"""The CRF's values and gradients against every path of short sequences, and against float64 loops over long ones."""

import jax
import numpy as np
import pytest
from crf_cases import (
    KINDS,
    B,
    K,
    Paths,
    T,
    all_paths,
    gradients,
    loop_forward_backward,
    loop_viterbi,
    path_gradients,
    random_problem,
    total,
    values,
)

from colnorm import crf

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
DRAWS = [(kind, seed) for kind in KINDS for seed in range(4)]


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == np.float64):
        yield request.param


def problems(dtype):
    """Random problems of the shared shape; float32 cannot hold arbitrary large numbers to 1e-5 of a probability."""
    return [random_problem(*draw, dtype=dtype) for draw in DRAWS if draw[0] != "huge_real" or dtype == np.float64]


def magnitude(problem):
    """The largest finite score, at least 1: what an absolute error is relative to."""
    finite = [np.abs(part[np.isfinite(part)]).max(initial=1) for part in (*problem.chain, problem.emissions)]
    return max(finite)


def assert_all_close(actual, expected, tolerance, scale=1.0):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=tolerance, atol=tolerance * scale),
        actual,
        expected,
    )


def test_values_are_those_of_every_path(dtype):
    tolerance, seen = TOLERANCE[dtype], set()
    for problem in problems(dtype):
        actual = values(*problem)
        scale = magnitude(problem)
        assert all(value.dtype == (np.int32 if name.endswith("tags") else dtype) for name, value in actual.items())
        for b, paths in enumerate(all_paths(problem)):
            own = {name: np.asarray(value[b]) for name, value in actual.items()}
            n = paths.index(problem.tags[b])
            assert_all_close(own["score"], paths.scores[n], tolerance, scale)
            assert_all_close(own["log_partition"], paths.log_partition, tolerance, scale)
            assert_all_close(own["associative"], paths.log_partition, tolerance, scale)
            likelihood = paths.scores[n] - paths.log_partition if paths.possible else -np.inf
            assert_all_close(own["log_likelihood"], likelihood, tolerance)
            assert own["log_likelihood"] <= 10 * tolerance
            assert_all_close(own["marginals"], paths.marginals, tolerance)
            assert_all_close(own["pairwise"], paths.pairwise, tolerance)
            assert_all_close(own["entropy"], paths.entropy, tolerance)
            if not paths.possible:
                assert own["log_partition"] == own["associative"] == own["log_likelihood"] == -np.inf
                assert not own["entropy"] and not own["marginals"].any() and not own["pairwise"].any()
            seen.add((paths.possible, paths.scores[n] > -np.inf, paths.length == 0))
    assert len(seen) == 4  # no legal path, this path alone illegal, all well, no path but the empty one


def test_decoded_paths_are_the_best_of_every_path(dtype):
    missing = 0
    for problem in problems(dtype):
        actual = {name: np.asarray(value) for name, value in values(*problem).items()}
        for b, paths in enumerate(all_paths(problem)):
            tags, scores = paths.best(5)
            np.testing.assert_array_equal(actual["viterbi_tags"][b], tags[0])
            assert_all_close(actual["viterbi_score"][b], scores[0], TOLERANCE[dtype], magnitude(problem))
            assert_all_close(actual["k_best_scores"][b], scores, TOLERANCE[dtype], magnitude(problem))
            np.testing.assert_array_equal(actual["k_best_tags"][b, 0], tags[0])
            found = scores > -np.inf
            assert not actual["k_best_tags"][b, ~found].any()
            assert len(np.unique(actual["k_best_tags"][b, found], axis=0)) == found.sum()
            for path, score in zip(actual["k_best_tags"][b, found], scores[found], strict=True):
                assert not path[paths.length :].any()
                assert_all_close(paths.scores[paths.index(path)], score, TOLERANCE[dtype], magnitude(problem))
            missing += not found.all() and paths.length > 1
    assert missing  # some sequences have fewer than five legal paths


def test_values_agree_among_themselves(dtype):
    tolerance = TOLERANCE[dtype]
    for problem in problems(dtype):
        actual = {name: np.asarray(value) for name, value in values(*problem).items()}
        scale, inside = magnitude(problem), np.arange(T) < problem.lengths[:, None]
        possible = actual["log_partition"] > -np.inf
        marginals, pairwise = actual["marginals"], actual["pairwise"]
        np.testing.assert_allclose(marginals.sum(-1), inside & possible[:, None], atol=tolerance)
        np.testing.assert_allclose(pairwise.sum(2), marginals[:, 1:], atol=tolerance)
        followed = np.where(inside[:, 1:, None], marginals[:, :-1], 0)
        np.testing.assert_allclose(pairwise.sum(3), followed, atol=tolerance)
        np.testing.assert_array_equal(actual["k_best_tags"][:, 0], actual["viterbi_tags"])
        assert_all_close(actual["k_best_scores"][:, 0], actual["viterbi_score"], tolerance, scale)
        assert (actual["k_best_scores"][:, :-1] >= actual["k_best_scores"][:, 1:]).all()
        of_best = values(problem.chain, problem.emissions, actual["viterbi_tags"], problem.lengths)["score"]
        assert_all_close(of_best[possible], actual["viterbi_score"][possible], tolerance, scale)
        assert (actual["viterbi_score"] <= actual["log_partition"] + tolerance * scale).all()
        assert_all_close(actual["associative"], actual["log_partition"], tolerance, scale)


def test_gradients_are_counts_and_expected_counts(dtype):
    for seed, problem in enumerate(problems(dtype)):
        weights = np.random.default_rng(seed).normal(size=B).astype(dtype)
        actual = gradients(*problem, weights)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(actual))
        partition, likelihood = [], []
        for paths, tags, weight in zip(all_paths(problem), problem.tags, weights, strict=True):
            partition.append(paths.counts(weight * paths.p))
            likelihood.append(paths.counts(weight * paths.possible * (paths.chosen(tags) - paths.p)))
        assert_all_close(actual["log_partition"], total(partition), TOLERANCE[dtype], 4)
        assert_all_close(actual["associative"], total(partition), TOLERANCE[dtype], 4)
        assert_all_close(actual["log_likelihood"], total(likelihood), TOLERANCE[dtype], 4)


def test_gradients_of_paths_are_their_counts():
    for seed, problem in enumerate(problems(np.float32)):
        weights = np.random.default_rng(seed).normal(size=B).astype(np.float32)
        actual, decoded = path_gradients(*problem, weights), np.asarray(values(*problem)["k_best_tags"])
        score, best, second = [], [], []
        for b, paths in enumerate(all_paths(problem)):
            exists = paths.best(2)[1] > -np.inf
            score.append(paths.counts(weights[b] * paths.chosen(problem.tags[b])))
            best.append(paths.counts(weights[b] * exists[0] * paths.chosen(decoded[b, 0])))
            second.append(paths.counts(weights[b] * exists[1] * paths.chosen(decoded[b, 1])))
        assert_all_close(actual, {"score": total(score), "viterbi": total(best), "second_best": total(second)}, 1e-5)


def test_the_gradient_of_log_partition_is_the_marginals(dtype):
    for problem in problems(dtype):
        chain, emissions = gradients(*problem, np.ones(B, dtype))["log_partition"]
        actual = values(*problem)
        np.testing.assert_allclose(emissions, actual["marginals"], atol=TOLERANCE[dtype])
        np.testing.assert_allclose(chain.transitions, actual["pairwise"].sum((0, 1)), rtol=TOLERANCE[dtype], atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 4, 1)])
def test_one_position_and_one_tag(shape):
    for kind in ("normal", "forbidding", "huge"):
        problem = random_problem(kind, 1, shape)
        actual = values(*problem)
        assert actual["k_best_tags"].shape == (shape[0], 5, shape[1])
        assert actual["pairwise"].shape == (shape[0], shape[1] - 1, shape[2], shape[2])
        for b, paths in enumerate(all_paths(problem)):
            tags, scores = paths.best(5)
            for name in ("log_partition", "associative", "marginals", "pairwise", "entropy"):
                expected = paths.log_partition if name == "associative" else getattr(paths, name)
                assert_all_close(actual[name][b], expected, 1e-5, magnitude(problem) if name[0] in "al" else 1)
            assert_all_close(actual["score"][b], paths.scores[paths.index(problem.tags[b])], 1e-5, magnitude(problem))
            np.testing.assert_array_equal(actual["viterbi_tags"][b], tags[0])
            assert_all_close(actual["k_best_scores"][b], scores, 1e-5, magnitude(problem))


def test_long_sequences_are_those_of_float64_loops(x64):
    chain, emissions, _, lengths = random_problem("normal", 3, (4, 40, 9), lengths=[40, 23, 1, 2], dtype=np.float64)
    actual = np.asarray(crf.marginals(chain, emissions, lengths))
    decoded, best_score = crf.viterbi(chain, emissions, lengths)
    for b, n in enumerate(lengths):
        _, marginals, _, _ = loop_forward_backward(chain, emissions[b], n)
        tags, best = loop_viterbi(chain, emissions[b], n)
        np.testing.assert_allclose(actual[b, :n], marginals, atol=1e-10)
        np.testing.assert_array_equal(decoded[b, :n], tags)
        np.testing.assert_allclose(best_score[b], best, rtol=1e-10)
        assert not actual[b, n:].any() and not decoded[b, n:].any()


def test_the_oracles_agree():
    problem = random_problem("forbidding", 0, (1, T, K), lengths=[T], dtype=np.float64)
    paths = Paths(problem.chain, problem.emissions[0], T)
    with np.errstate(invalid="ignore"):
        log_partition, marginals, pairwise, entropy = loop_forward_backward(problem.chain, problem.emissions[0], T)
    np.testing.assert_allclose(log_partition, paths.log_partition)
    np.testing.assert_allclose(marginals, paths.marginals)
    np.testing.assert_allclose(pairwise, paths.pairwise)
    np.testing.assert_allclose(entropy, paths.entropy, atol=1e-12)
    np.testing.assert_array_equal(loop_viterbi(problem.chain, problem.emissions[0], T)[0], paths.best(1)[0][0])


def test_single_and_vmapped_sequences_are_the_batch():
    problem = random_problem("normal", 5)
    batch = values(*problem)

    def one(emissions, tags, length):
        sequence = (emissions[None], tags[None], length[None])
        likelihood, slope = jax.value_and_grad(
            lambda emissions: crf.log_likelihood(problem.chain, emissions, *sequence[1:])[0]
        )(sequence[0])
        tags, score = crf.viterbi(problem.chain, sequence[0], sequence[2])
        return likelihood, tags[0], score[0], slope[0]

    names = ("log_likelihood", "viterbi_tags", "viterbi_score")
    expected = (*(batch[name] for name in names), gradients(*problem, np.ones(B, np.float32))["log_likelihood"][1])
    assert_all_close(jax.jit(jax.vmap(one))(*problem[1:]), expected, 1e-5)
    for b in (0, 3):
        alone = crf.marginals(problem.chain, problem.emissions[b : b + 1], problem.lengths[b : b + 1])
        assert_all_close(alone[0], batch["marginals"][b], 1e-5)


def test_lengths_default_to_the_whole():
    problem = random_problem("normal", 6, lengths=[T] * B)
    np.testing.assert_array_equal(crf.log_partition(problem.chain, problem.emissions), values(*problem)["log_partition"])
