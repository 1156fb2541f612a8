"""The CRF over segments: values and gradients against every segmentation of short sequences, and against float64 loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import KINDS
from hypothesis import given
from hypothesis import strategies as st
from segment_cases import B, L, T, Y, as_arrays, every, gradients, named, random_problem, total, values

from colnorm import crf
from colnorm.crf import segments

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
    parts = (*problem.chain, problem.emissions, problem.spans)
    return max(np.abs(part[np.isfinite(part)]).max(initial=1) for part in parts)


def assert_close(actual, expected, tolerance, scale=1.0):
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance * scale)


def test_values_are_those_of_every_segmentation(dtype):
    tolerance, seen = TOLERANCE[dtype], set()
    for problem in problems(dtype):
        actual = jax.tree.map(np.asarray, values(*problem))
        scale = magnitude(problem)
        assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype(dtype), np.dtype(np.int32)}
        for b, paths in enumerate(every(problem)):
            own = jax.tree.map(lambda value, b=b: value[b], actual)
            n = paths.index(*(part[b] for part in problem.gold))
            assert_close(own["score"], paths.scores[n], tolerance, scale)
            assert_close(own["log_partition"], paths.log_partition, tolerance, scale)
            likelihood = paths.scores[n] - paths.log_partition if paths.possible else -np.inf
            assert_close(own["log_likelihood"], likelihood, tolerance)
            assert own["log_likelihood"] <= 10 * tolerance
            counts = paths.counts(paths.p)
            assert_close(own["marginals"], counts["spans"], tolerance)
            assert_close(own["token_marginals"], counts["emissions"], tolerance)
            assert_close(own["entropy"], paths.entropy, tolerance)
            best, score = paths.best
            np.testing.assert_array_equal(np.array(own["best"]), best)
            assert_close(own["best_score"], score, tolerance, scale)
            if paths.possible:
                assert paths.p[paths.index(*own["sample"])] > 0
            else:
                assert not np.array(own["sample"]).any() and not own["entropy"] and not own["marginals"].any()
            seen.add((paths.possible, paths.scores[n] > -np.inf, paths.length == 0))
    assert len(seen) == 4  # none legal, this one alone illegal, all well, none but the empty one


def test_gradients_are_expected_counts(dtype):
    weights = np.random.default_rng(0).normal(size=B).astype(dtype)
    for problem in problems(dtype):
        actual = gradients(*problem, weights)
        expected = {name: [] for name in actual}
        for b, paths in enumerate(every(problem)):
            own = np.arange(len(paths.p)) == paths.index(*(part[b] for part in problem.gold))
            legal = own & (paths.scores > -np.inf)
            best = np.arange(len(paths.p)) == paths.scores.argmax()
            expected["log_partition"].append(paths.counts(weights[b] * paths.p))
            expected["log_likelihood"].append(paths.counts(weights[b] * (legal - paths.p * legal.any())))
            expected["viterbi"].append(paths.counts(weights[b] * best * paths.possible))
        for name, parts in expected.items():
            for part, counts in total(parts).items():
                assert_close(actual[name][part], counts, TOLERANCE[dtype] * 10)


@jax.jit
def second_derivatives(chain, emissions, spans, lengths, direction, of_spans):
    """By name, gradients of scalars that the recursion's own gradients enter."""

    def slope(*varied):
        by = jax.grad(lambda *varied: segments.log_partition(*varied[:2], lengths, spans=varied[2]).sum(), (0, 1, 2))(*varied)
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(by), jax.tree.leaves(direction), strict=True))

    scalars = {
        "slope": slope,
        "marginals": lambda *varied: jnp.sum(of_spans * segments.marginals(*varied[:2], lengths, spans=varied[2])),
        "entropy": lambda *varied: jnp.sum(segments.entropy(*varied[:2], lengths, spans=varied[2])),
    }
    return {name: named(*jax.grad(scalar, (0, 1, 2))(chain, emissions, spans)) for name, scalar in scalars.items()}


@pytest.mark.slow
def test_second_derivatives_are_covariances_over_every_segmentation(x64):
    rng = np.random.default_rng(0)
    for kind, seed in [draw for draw in DRAWS if draw[1] < 2]:
        problem = random_problem(kind, seed, dtype=np.float64)
        direction = jax.tree.map(lambda part: rng.normal(size=part.shape), problem[:3])
        of_spans = rng.normal(size=problem.spans.shape)
        actual = second_derivatives(*problem[:3], problem.lengths, direction, of_spans)
        expected = {name: [] for name in actual}
        for b, paths in enumerate(every(problem)):
            slopes = paths.features @ paths.flat(direction[0], direction[1][b], direction[2][b])
            expected["slope"].append(paths.covariances(slopes))
            weights = paths.features[:, paths.places["spans"]] @ of_spans[b].ravel()
            expected["marginals"].append(paths.covariances(weights))
            expected["entropy"].append(paths.covariances(-paths.log_p))
        for name, parts in expected.items():
            for part, counts in total(parts).items():
                np.testing.assert_allclose(actual[name][part], counts, rtol=1e-10, atol=1e-10)


def test_the_slope_is_that_of_finite_differences(x64):
    problem = random_problem("normal", 7, dtype=np.float64)
    weights = np.ones(B)
    direction = jax.tree.map(lambda part: np.random.default_rng(part.size).normal(size=part.shape), problem[:3])
    by = gradients(*problem, weights)["log_likelihood"]
    slope = sum(np.vdot(by[name], along) for name, along in named(*direction).items())

    def moved(step):
        varied = jax.tree.map(lambda part, along: part + step * along, problem[:3], direction)
        return np.sum(values(*varied, *problem[3:])["log_likelihood"])

    np.testing.assert_allclose((moved(1e-5) - moved(-1e-5)) / 2e-5, slope, rtol=1e-7)


def test_segments_of_one_token_are_the_linear_chain():
    """Of any kind of score, the scores of the durations added to the emissions."""

    @jax.jit
    def both(chain, emissions, spans, gold, lengths):
        linear, scores = crf.Chain(*chain[:3]), emissions + spans[:, :, 0] + chain.durations[0][None, None]
        best, score = crf.viterbi(linear, scores, lengths)
        expected = (
            crf.log_likelihood(linear, scores, gold.labels, lengths),
            crf.marginals(linear, scores, lengths),
            crf.entropy(linear, scores, lengths),
            best,
            score,
        )
        found, of_found = segments.viterbi(chain, emissions, lengths, spans=spans)
        actual = (
            segments.log_likelihood(chain, emissions, gold, lengths, spans=spans),
            segments.token_marginals(chain, emissions, lengths, spans=spans),
            segments.entropy(chain, emissions, lengths, spans=spans),
            found.labels,
            of_found,
        )
        return actual, expected, found.durations

    for kind in ("normal", "forbidding", "huge"):
        problem = random_problem(kind, 0, (B, T, 1, Y))
        actual, expected, durations = both(*jax.tree.map(jnp.asarray, problem))
        inside = np.arange(T) < problem.lengths[:, None]
        np.testing.assert_array_equal(durations, inside & (np.asarray(actual[-1]) > -np.inf)[:, None])
        for own, of_chain in zip(actual, expected, strict=True):
            np.testing.assert_allclose(own, of_chain, rtol=1e-5, atol=1e-5)


def loop(chain, emissions, length):
    """(log-partition, posteriors of segments) of one sequence in float64, by messages forwards and backwards."""
    transitions, start, end, durations = (np.asarray(part, np.float64) for part in chain)
    emissions = np.asarray(emissions, np.float64)
    L, Y = durations.shape
    begins, ends, rest, whole = np.full((4, length + 1, Y), -np.inf)
    begins[0], rest[length] = start, end
    for t in range(1, length + 1):
        for d in range(1, min(L, t) + 1):
            ends[t] = np.logaddexp(ends[t], begins[t - d] + durations[d - 1] + emissions[t - d : t].sum(0))
        begins[t] = np.logaddexp.reduce(ends[t][:, None] + transitions, axis=0)
    for t in reversed(range(length)):
        for d in range(1, min(L, length - t) + 1):
            whole[t] = np.logaddexp(whole[t], durations[d - 1] + emissions[t : t + d].sum(0) + rest[t + d])
        rest[t] = np.logaddexp.reduce(transitions + whole[t], axis=1)
    log_partition = np.logaddexp.reduce(ends[length] + end)
    posterior = np.zeros((length, L, Y))
    for t in range(length):
        for d in range(1, min(L, length - t) + 1):
            logs = begins[t] + durations[d - 1] + emissions[t : t + d].sum(0) + rest[t + d] - log_partition
            posterior[t, d - 1] = np.exp(logs)
    return log_partition, posterior


@jax.jit
def long_values(chain, emissions, lengths):
    found, score = segments.viterbi(chain, emissions, lengths)
    return (
        segments.log_partition(chain, emissions, lengths),
        segments.marginals(chain, emissions, lengths),
        jax.grad(lambda emissions: segments.log_partition(chain, emissions, lengths).sum())(emissions),
        segments.log_likelihood(chain, emissions, found, lengths),
        score,
    )


@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_long_sequences_in_float32_are_those_of_float64_loops(scale):
    rng, (B, T, L, Y) = np.random.default_rng(scale), (3, 100, 6, 5)
    lengths = np.array([T, 61, 1])
    chain = segments.SegmentChain(*(scale * rng.normal(size=shape).astype(np.float32) for shape in ((Y, Y), Y, Y, (L, Y))))
    emissions = scale * rng.normal(size=(B, T, Y)).astype(np.float32)
    log_partition, marginals, slope, likelihood, score = long_values(chain, emissions, lengths)
    for b, n in enumerate(lengths):
        expected, posterior = loop(chain, emissions[b], n)
        np.testing.assert_allclose(log_partition[b], expected, rtol=1e-6)
        np.testing.assert_allclose(marginals[b, :n], posterior, rtol=0, atol=2e-4)
        np.testing.assert_allclose(np.sum(slope[b], -1), np.arange(T) < n, atol=1e-5)
        np.testing.assert_allclose(likelihood[b], score[b] - expected, rtol=1e-4, atol=3e-7 * abs(expected))
        assert not np.asarray(marginals)[b, n:].any()


def test_two_thousand_tokens_in_float32():
    chain, T = segments.SegmentChain.zeros(1, 2), 2000
    log_partition = jax.jit(segments.log_partition)(chain, np.full((1, T, 1), 100.1, np.float32))
    # As many ways as the Fibonacci number F(T + 1), near the golden ratio to that power over the root of 5.
    ways = (T + 1) * np.log((1 + 5**0.5) / 2) - np.log(5) / 2
    np.testing.assert_allclose(log_partition[0], T * np.float64(np.float32(100.1)) + ways, rtol=1e-6)


def test_samples_have_the_frequencies_of_every_segmentation():
    problem = random_problem("normal", 1, lengths=[3, 3, 0, 1, 2, 3])
    count = 4000

    @jax.jit
    def draw(keys):
        return jax.vmap(lambda key: segments.sample(key, *problem[:2], problem.lengths, spans=problem.spans))(keys)

    drawn = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), count)))
    for b, paths in enumerate(every(problem)):
        codes = np.concatenate([part[:, b] for part in drawn], -1)
        expected = np.array([np.concatenate(as_arrays(path, T)) for path in paths.paths])
        found = np.array([(codes == code).all(-1).mean() for code in expected])
        np.testing.assert_allclose(found.sum(), 1)
        np.testing.assert_allclose(found, paths.p, atol=4.5 * 0.5 / count**0.5)


def test_a_mask_with_gaps_is_the_sequence_without_them():
    rng = np.random.default_rng(0)
    problem = random_problem("normal", 2, lengths=[T] * B)
    mask = rng.random((B, T)) < 0.6
    mask[0] = False
    lengths = mask.sum(1)
    emissions, spans, labels, durations = (np.zeros_like(part) for part in (*problem[1:3], *problem.gold))
    for b, n in enumerate(lengths):
        emissions[b, :n], spans[b, :n] = problem.emissions[b, mask[b]], problem.spans[b, mask[b]]
        labels[b, :n], durations[b, :n] = 1, 1
    gold = segments.Segmentation(labels, durations)
    expected = values(problem.chain, emissions, spans, gold, lengths.astype(np.int32))
    opened = segments.Segmentation(np.where(mask, 1, 7).astype(np.int32), np.where(mask, 1, 9).astype(np.int32))
    gaps = {"spans": np.where(mask[..., None, None], problem.spans, np.nan), "mask": mask}
    arguments = (problem.chain, np.where(mask[..., None], problem.emissions, np.nan))
    best, score = segments.viterbi(*arguments, **gaps)
    np.testing.assert_allclose(segments.log_likelihood(*arguments, opened, **gaps), expected["log_likelihood"], atol=1e-5)
    np.testing.assert_allclose(score, expected["best_score"], atol=1e-5)
    posterior = segments.marginals(*arguments, **gaps)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(posterior[b, mask[b]], expected["marginals"][b, :n], atol=1e-5)
        assert not np.asarray(posterior)[b, ~mask[b]].any()
        for own, of_closed in zip(best, expected["best"], strict=True):
            np.testing.assert_array_equal(own[b, mask[b]], of_closed[b, :n])


def test_what_is_not_allowed_is_forbidden_and_spans_broadcast():
    problem = random_problem("normal", 3)
    allowed = np.random.default_rng(0).random((B, T, Y)) < 0.6
    forbidden = problem._replace(emissions=np.where(allowed, problem.emissions, -np.inf).astype(np.float32))
    expected = values(*forbidden)["log_partition"]
    actual = segments.log_partition(*problem[:2], problem.lengths, spans=problem.spans, allowed=allowed)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert (np.asarray(expected) == -np.inf).any()

    first = problem.spans[:, :, :1]
    wide = np.broadcast_to(first, problem.spans.shape)

    def partition(spans):
        return jnp.sum(segments.log_partition(*problem[:2], problem.lengths, spans=spans))

    value, slope = jax.value_and_grad(partition)(first)
    np.testing.assert_allclose(value, np.sum(values(*problem._replace(spans=wide))["log_partition"]), rtol=1e-6)
    assert slope.shape == first.shape
    by_wide = gradients(*problem._replace(spans=wide), np.ones(B, np.float32))["log_partition"]["spans"]
    np.testing.assert_allclose(slope[:, :, 0], np.sum(by_wide, 2), atol=1e-5)


def test_single_and_vmapped_sequences_are_the_batch():
    problem = random_problem("normal", 5)
    batch = values(*problem)

    def one(emissions, spans, labels, durations, length):
        gold = segments.Segmentation(labels[None], durations[None])
        likelihood = segments.log_likelihood(problem.chain, emissions[None], gold, length[None], spans=spans[None])
        posterior = segments.token_marginals(problem.chain, emissions[None], length[None], spans=spans[None])
        return likelihood[0], posterior[0]

    actual = jax.jit(jax.vmap(one))(problem.emissions, problem.spans, *problem.gold, problem.lengths)
    for own, name in zip(actual, ("log_likelihood", "token_marginals"), strict=True):
        np.testing.assert_allclose(own, batch[name], rtol=1e-5, atol=1e-5)


def test_devices_share_the_batch_under_shard_map():
    """With the default checks; the gradients of the chain, which is whole on each, are summed."""
    problem = random_problem("normal", 4)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, batch = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")

    def function(chain, emissions, spans, gold, lengths):
        def loss(chain, emissions):
            return -segments.log_likelihood(chain, emissions, gold, lengths, spans=spans).sum()

        best, _ = segments.viterbi(chain, emissions, lengths, spans=spans)
        return jax.grad(loss, (0, 1))(chain, emissions), best

    specs = ((whole, batch), batch)
    shared = jax.shard_map(function, mesh=mesh, in_specs=(whole, batch, batch, batch, batch), out_specs=specs)
    actual, expected = jax.jit(shared)(*problem), jax.jit(function)(*problem)
    jax.tree.map(lambda own, other: np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5), actual, expected)


def test_large_real_scores_stay_finite_in_float32():
    """Scores of 1e4 round to 1e-3, so that probabilities are only near; no number is lost or NaN."""
    for seed in range(4):
        problem = random_problem("huge_real", seed)
        found, slopes = jax.tree.map(np.asarray, (values(*problem), gradients(*problem, np.ones(B, np.float32))))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, slopes)))
        inside = np.arange(T) < problem.lengths[:, None]
        np.testing.assert_allclose(found["token_marginals"].sum(-1), inside, atol=1e-5)
        assert (found["log_likelihood"] <= 1e-2).all() and (found["entropy"] >= 0).all()
        for b, paths in enumerate(every(problem)):
            np.testing.assert_allclose(found["log_partition"][b], paths.log_partition, rtol=1e-6)
            np.testing.assert_allclose(found["marginals"][b], paths.counts(paths.p)["spans"], atol=5e-3)


@given(st.integers(0, 99), st.floats(-100, 100), st.integers(0, Y - 1))
def test_a_constant_moves_the_partition_by_what_it_adds_to_every_segmentation(seed, constant, label):
    """On all tokens; and on a label's durations, where it is taken from all that leads to the label: nothing changes."""
    problem = random_problem("normal", seed)
    expected = values(*problem)
    found = values(*problem._replace(emissions=problem.emissions + np.float32(constant)))
    moved = expected["log_partition"] + constant * problem.lengths
    np.testing.assert_allclose(found["log_partition"], moved, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found["marginals"], expected["marginals"], atol=1e-4)
    at = np.where(np.arange(Y) == label, constant, 0).astype(np.float32)
    durations, start, transitions = problem.chain.durations + at, problem.chain.start - at, problem.chain.transitions - at
    chain = problem.chain._replace(durations=durations, start=start, transitions=transitions)
    found = values(*problem._replace(chain=chain))
    np.testing.assert_allclose(found["log_partition"], expected["log_partition"], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found["entropy"], expected["entropy"], atol=1e-3)


def test_a_segment_that_is_too_long_is_impossible():
    problem = random_problem("normal", 0, lengths=[T] * B)
    gold = segments.Segmentation(np.zeros((B, T), np.int32), np.tile(np.array([4, 0, 0, 0, 1], np.int32), (B, 1)))
    long = problem._replace(gold=gold)
    np.testing.assert_array_equal(values(*long)["log_likelihood"], np.full(B, -np.inf))
    slopes = gradients(*long, np.ones(B, np.float32))["log_likelihood"]
    assert all(np.isfinite(slope[~np.isnan(slope)]).all() for slope in jax.tree.leaves(slopes))


def test_half_precision_comes_out_as_float32_and_float64_of_one_part_makes_all_float64(x64):
    problem = random_problem("normal", 0)
    half = jax.tree.map(lambda part: jnp.asarray(part).astype(jnp.bfloat16), problem[:3])
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(values, *half, *problem[3:]))}
    assert kinds == {"float32", "int32"}
    for part in ("durations", "spans"):
        double = problem.astype(np.float32)
        if part == "spans":
            double = double._replace(spans=double.spans.astype(np.float64))
        else:
            double = double._replace(chain=double.chain._replace(durations=double.chain.durations.astype(np.float64)))
        kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(values, *double))}
        assert kinds == {"float64", "int32"}


CHAIN = jax.eval_shape(partial(segments.SegmentChain.zeros, Y, L))
EMISSIONS = jax.ShapeDtypeStruct((B, T, Y), jnp.float32)
SPANS = jax.ShapeDtypeStruct((B, T, L, Y), jnp.float32)
LENGTHS = jax.ShapeDtypeStruct((B,), jnp.int32)
FUNCTIONS = ("score", "log_partition", "log_likelihood", "marginals", "token_marginals", "entropy", "viterbi", "sample")


def of_shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chain": crf.Chain.zeros(Y)}, "expected a SegmentChain, got Chain"),
        ({"chain": CHAIN._replace(durations=of_shape(L, 2))}, r"chain.durations of shape \(L, 3\), .* got \(3, 2\)"),
        ({"chain": CHAIN._replace(durations=of_shape(0, Y))}, r"chain.durations of shape \(L, 3\), .* got \(0, 3\)"),
        ({"chain": CHAIN._replace(durations=of_shape(L, Y, dtype=jnp.int32))}, "floating-point chain.durations, got int32"),
        ({"chain": CHAIN._replace(start=of_shape(1))}, r"start of shape \(3,\) .* got \(1,\)"),
        ({"emissions": of_shape(B, T, Y, dtype=jnp.int32)}, "floating-point emissions, got int32"),
        ({"spans": of_shape(B, T, 2, Y)}, r"spans of shape \(6, 5, 3, 3\) or \(6, 5, 1, 3\), got \(6, 5, 2, 3\)"),
        ({"spans": of_shape(B, T, L, Y, dtype=jnp.int32)}, "floating-point spans, got int32"),
        ({"lengths": of_shape(B, dtype=jnp.float32)}, "integer lengths, got float32"),
    ],
)
def test_wrong_shapes_and_dtypes_are_errors_when_traced(name, changed, message):
    arguments = {"chain": CHAIN, "emissions": EMISSIONS, "lengths": LENGTHS, "spans": SPANS} | changed
    if name in ("score", "log_likelihood"):
        arguments["gold"] = segments.Segmentation(of_shape(B, T, dtype=jnp.int32), of_shape(B, T, dtype=jnp.int32))
    if name == "sample":
        arguments["key"] = jax.eval_shape(jax.random.key, 0)
    with pytest.raises(ValueError, match=f"^segments.{name}: .*{message}"):
        jax.eval_shape(getattr(segments, name), **arguments)


def test_wrong_segmentations_are_errors_when_traced():
    labels = of_shape(B, T, dtype=jnp.int32)
    with pytest.raises(ValueError, match="expected a Segmentation, got tuple"):
        jax.eval_shape(segments.score, CHAIN, EMISSIONS, (labels, labels))
    with pytest.raises(ValueError, match=r"of shape \(6, 5\), got \(6, 4\)"):
        jax.eval_shape(segments.score, CHAIN, EMISSIONS, segments.Segmentation(labels, of_shape(B, 4, dtype=jnp.int32)))


def test_the_module_holds_the_chain():
    layer = segments.SemiMarkovCRF(num_labels=2, longest=3)
    variables = layer.init(jax.random.key(0))
    shapes = {"transitions": (2, 2), "start": (2,), "end": (2,), "durations": (3, 2)}
    assert jax.tree.map(jnp.shape, variables["params"]) == shapes
    assert jax.tree.map(jnp.shape, layer.apply(variables)) == segments.SegmentChain(**shapes)
    for wrong, message in (
        ({"num_labels": 0, "longest": 3}, "num_labels of at least 1, got 0"),
        ({"num_labels": 2, "longest": 1.5}, "longest of at least 1, got 1.5"),
        ({"num_labels": 2, "longest": 3, "param_dtype": jnp.int32}, "floating-point param_dtype, got int32"),
    ):
        with pytest.raises(ValueError, match=message):
            segments.SemiMarkovCRF(**wrong).init(jax.random.key(0))
    with pytest.raises(ValueError, match="longest of at least 1, got 0"):
        segments.SegmentChain.zeros(2, 0)
