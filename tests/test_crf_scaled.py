"""The scaled recursions: equal to the log domain where they hold, and known not to hold where a path was lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import loop_forward_backward, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from colnorm import crf
from colnorm.crf import scaled
from colnorm.crf.chain import prepare

BIO = ["O", *(f"{prefix}-{kind}" for kind in "abcdefgh" for prefix in "BI")]


@jax.jit
def holds(chain, emissions, lengths=None):
    return scaled.run(prepare("test", chain, emissions, lengths)[0]).holds


@jax.jit
def computed(chain, emissions, lengths=None):
    """Log-partitions, their gradient, and marginals."""

    def total(chain, emissions):
        each = crf.log_partition(chain, emissions, lengths)
        return jnp.sum(jnp.where(each > -jnp.inf, each, 0)), each

    (_, each), gradient = jax.value_and_grad(total, (0, 1), has_aux=True)(chain, emissions)
    return each, gradient, crf.marginals(chain, emissions, lengths)


def assert_exact(chain, emissions, lengths, rtol=1e-6, atol=2e-6):
    """Against a float64 loop."""
    each, (by_chain, by_emissions), marginals = computed(chain, emissions, lengths)
    moves = np.zeros(chain.transitions.shape)
    for b, length in enumerate(lengths):
        log_partition, expected, pairs, _ = loop_forward_backward(chain, emissions[b], length)
        np.testing.assert_allclose(each[b], log_partition, rtol=rtol, atol=length * atol)
        for actual in (marginals, by_emissions):
            np.testing.assert_allclose(actual[b, :length], expected, rtol=0, atol=atol)
            assert not actual[b, length:].any()
        moves += pairs.sum(0)
    np.testing.assert_allclose(by_chain.transitions, moves, rtol=1e-5, atol=len(emissions) * atol)


def test_ordinary_and_constrained_chains_hold():
    """Forbidden moves are exact zeros: training under constraints stays fast, with confident emissions too."""
    rng = np.random.default_rng(0)
    for scale in (0, 1, 5, 10):
        chain = crf.Chain(*(scale / 2 * rng.normal(size=size).astype(np.float32) for size in ((17, 17), 17, 17)))
        emissions, lengths = scale * rng.normal(size=(20, 50, 17)).astype(np.float32), rng.integers(0, 51, 20)
        assert holds(chain, emissions, lengths)
        assert holds(crf.constrain(chain, BIO), emissions, lengths)
        forbidden = np.where(rng.random(emissions.shape) < 0.2, np.float32(-np.inf), emissions)
        forbidden[..., 0] = emissions[..., 0]  # so that a path remains
        assert holds(chain, forbidden, lengths)


def gap(size):
    """Tag 1 is ``size`` nats behind at the first position and all that may come after: every path goes through it."""
    chain = crf.Chain(np.float32([[0, -np.inf], [-np.inf, 0]]), *np.zeros((2, 2), np.float32))
    emissions = np.zeros((1, 3, 2), np.float32)
    emissions[0, 0] = 0, -size
    emissions[0, 2, 0] = -np.inf
    return chain, emissions, np.array([3])


def test_the_hand_over_at_a_gap_in_the_emissions():
    sizes = np.arange(0, 130)
    held = np.array([bool(holds(*gap(size))) for size in sizes])
    edge = held.argmin()
    assert 50 < edge < 60  # before -87, where float32 underflows
    assert held[:edge].all()
    assert not held[edge:].any()
    for size in (0, 1, edge - 1, edge, 80, 86, 87, 88, 89, 103, 104, 110, 129):
        each, (by_chain, by_emissions), marginals = computed(*gap(size))
        np.testing.assert_allclose(each, [-size], rtol=1e-6)
        np.testing.assert_allclose(marginals[0], [[0, 1]] * 3, atol=1e-6)
        np.testing.assert_allclose(by_emissions[0], [[0, 1]] * 3, atol=1e-6)
        np.testing.assert_allclose(by_chain.transitions, [[0, 0], [0, 2]], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["transitions", "start", "end"])
@pytest.mark.parametrize("size", [10, 50, 60, 90, 200, 1e4])
def test_gaps_in_a_part_of_the_chain(part, size):
    """One tag has all that is wanted, but coming to it, from it or through it costs ``size``."""
    rng = np.random.default_rng(1)
    chain = crf.Chain(*(rng.normal(size=shape).astype(np.float32) for shape in ((3, 3), 3, 3)))
    getattr(chain, part)[..., 1] -= np.float32(size)
    emissions = rng.normal(size=(4, 7, 3)).astype(np.float32)
    emissions[:2, ::2, ::2] = -np.inf  # every other tag of half of the sequences is forced to be that one
    assert_exact(chain, emissions, np.array([7, 3, 5, 7]), atol=1e-5 + 1e-7 * size)


@pytest.mark.parametrize("rate", [0.01, 0.1, 1, 10])
def test_a_path_that_falls_behind_step_by_step(rate):
    """Two tags that never meet; the end allows the one that falls behind, after 100 steps or in the last sequence after 2."""
    chain = crf.Chain(np.float32([[0, -np.inf], [-np.inf, 0]]), np.zeros(2, np.float32), np.float32([-np.inf, 0]))
    emissions = np.tile(np.float32([0, -rate]), (3, 100, 1))
    lengths = np.array([100, 50, 2])
    assert holds(chain, emissions, lengths) == (100 * rate < 55)
    assert_exact(chain, emissions, lengths)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1.0, 5.0, 15.0, 25.0, 40.0]), constrained=st.booleans())
def test_values_and_gradients_around_the_edge(seed, scale, constrained):
    rng = np.random.default_rng(seed)
    names = ["O", "B-a", "I-a"]
    chain = crf.Chain(*(scale * rng.normal(size=size).astype(np.float32) for size in ((3, 3), 3, 3)))
    if constrained:
        chain = crf.Chain(*map(np.asarray, crf.constrain(chain, names)))
    emissions = scale * rng.normal(size=(5, 9, 3)).astype(np.float32)
    assert_exact(chain, emissions, rng.integers(1, 10, 5), atol=2e-6 + 3e-6 * scale)


def test_both_sides_of_the_edge_occur_in_the_test_above():
    def held(scale):
        rng = np.random.default_rng(0)
        draws = ([scale * rng.normal(size=size).astype(np.float32) for size in ((3, 3), 3, 3, (5, 9, 3))] for _ in range(20))
        return [bool(holds(crf.Chain(*chain), emissions)) for *chain, emissions in draws]

    assert all(held(5.0))
    assert 0 < sum(held(15.0)) < 20
    assert not any(held(40.0))


def test_one_sequence_that_does_not_hold_sends_the_whole_batch_to_the_exact_path():
    rng = np.random.default_rng(2)
    chain = crf.Chain(*(rng.normal(size=size).astype(np.float32) for size in ((3, 3), 3, 3)))
    emissions = rng.normal(size=(3, 5, 3)).astype(np.float32)
    assert holds(chain, emissions)
    emissions[1, 2] = [0, -np.inf, -np.inf]
    emissions[1, 3] = [-np.inf, 0, -np.inf]
    chain.transitions[0, 1] = -300
    assert not holds(chain, emissions)
    assert_exact(chain, emissions, np.array([5, 5, 4]))


def test_under_vmap_each_problem_goes_its_own_way():
    problems = [gap(size) for size in (1, 40, 70, 300)]
    chains, emissions, lengths = jax.tree.map(lambda *parts: np.stack(parts), *problems)
    each, (by_chain, _), marginals = jax.jit(jax.vmap(computed))(chains, emissions, lengths)
    np.testing.assert_allclose(each[:, 0], [-1, -40, -70, -300], rtol=1e-6)
    np.testing.assert_allclose(marginals[:, 0], np.tile([0, 1], (4, 3, 1)), atol=1e-6)
    np.testing.assert_allclose(by_chain.transitions, np.tile([[0, 0], [0, 2]], (4, 1, 1)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 20, 70, 300])
def test_second_derivatives_on_both_sides(size):
    """Of the log-partition forward over reverse and reverse over reverse, against differences of exact gradients."""
    rng = np.random.default_rng(3)
    chain = crf.Chain(*(rng.normal(size=shape).astype(np.float32) for shape in ((3, 3), 3, 3)))
    emissions = rng.normal(size=(1, 4, 3)).astype(np.float32)
    emissions[0, 1, 1:] = -np.inf
    chain.transitions[0, :] -= np.float32(size)
    chain.transitions[0, 2] = chain.transitions[0, 1] = -np.inf
    assert holds(chain, emissions) == (size < 25)

    def of(emissions):
        return crf.log_partition(chain, emissions)[0]

    forward, reverse = jax.hessian(of)(emissions), jax.jacrev(jax.grad(of))(emissions)
    np.testing.assert_allclose(forward, reverse, atol=1e-6)
    covariance = np.zeros((4, 3, 4, 3))
    for t, j in np.ndindex(4, 3):
        if np.isfinite(emissions[0, t, j]):
            moved = np.stack([emissions[0], emissions[0]]).astype(np.float64)
            moved[:, t, j] += [1e-4, -1e-4]
            above, below = (loop_forward_backward(chain, part, 4)[1] for part in moved)
            covariance[t, j] = (above - below) / 2e-4
    np.testing.assert_allclose(forward[0, :, :, 0], covariance, atol=2e-5)


def test_float64_holds_further(x64):
    chain, emissions, lengths = gap(500)
    wide = crf.Chain(*(part.astype(np.float64) for part in chain)), emissions.astype(np.float64)
    assert not holds(chain, emissions)
    assert holds(*wide)
    for size in (500, 640, 700, 800):
        chain, emissions, lengths = gap(size)
        each, _, marginals = computed(chain, emissions.astype(np.float64), lengths)
        np.testing.assert_allclose(each, [-size], rtol=1e-12)
        np.testing.assert_allclose(marginals[0], [[0, 1]] * 3, atol=1e-12)


def test_an_impossible_sequence_does_not_spoil_the_others():
    problem = random_problem("normal", 5, lengths=[6, 6, 5, 4, 3, 2, 1])
    emissions = problem.emissions.copy()
    emissions[2, 1] = -np.inf
    each, (_, by_emissions), marginals = computed(problem.chain, emissions, problem.lengths)
    expected, (_, expected_by), expected_marginals = computed(problem.chain, problem.emissions, problem.lengths)
    others = np.arange(7) != 2
    assert each[2] == -np.inf
    assert not by_emissions[2].any()
    assert not marginals[2].any()
    for a, b in ((each, expected), (by_emissions, expected_by), (marginals, expected_marginals)):
        np.testing.assert_allclose(a[others], b[others], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
def test_sums_over_any_number_of_positions(length):
    """The transitions' gradient is summed in groups of 64."""
    rng = np.random.default_rng(length)
    chain = crf.Chain(*(rng.normal(size=size).astype(np.float32) for size in ((3, 3), 3, 3)))
    emissions = rng.normal(size=(2, length, 3)).astype(np.float32)
    assert_exact(chain, emissions, np.array([length, max(length - 1, 1)]), atol=1e-5)


def test_the_derivative_of_a_choice_is_that_of_the_exact_function():
    """``or_else`` never differentiates the fast one, so that a lost path can't spoil a derivative."""
    either = scaled.or_else(lambda problem, passes: jnp.sum(problem.emissions), lambda problem: 3 * jnp.sum(problem.emissions))
    chain, emissions, lengths = gap(1)

    def choose(emissions):
        problem, _ = prepare("test", chain, emissions, lengths)
        return either(problem, scaled.run(problem))

    emissions = np.where(np.isfinite(emissions), emissions, -2)
    value, gradient = jax.value_and_grad(choose)(emissions)
    assert value == emissions.sum()
    np.testing.assert_array_equal(gradient, np.full_like(emissions, 3))


def test_the_second_call_does_not_compile_again():
    function = jax.jit(crf.log_partition)
    for size in (1, 300):
        chain, emissions, lengths = gap(size)
        function(chain, emissions, lengths)
    assert function._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("tags", [scaled.MOST_TAGS_A_POSITION, scaled.MOST_TAGS_A_POSITION + 1])
def test_the_gradient_of_many_moves_is_the_sum_of_their_posteriors(tags):
    """On both sides of where one product a position becomes one over all."""
    rng = np.random.default_rng(0)
    chain = crf.Chain(*(rng.normal(size=shape).astype(np.float32) for shape in ((tags, tags), tags, tags)))
    emissions = rng.normal(size=(4, 70, tags)).astype(np.float32)
    lengths = np.array([70, 1, 0, 33], np.int32)
    gradient = jax.grad(lambda chain: crf.log_partition(chain, emissions, lengths).sum())(chain)
    expected = np.asarray(crf.pairwise_marginals(chain, emissions, lengths), np.float64).sum((0, 1))
    np.testing.assert_allclose(gradient.transitions, expected, rtol=1e-4, atol=1e-7)
    assert float(gradient.transitions.sum()) == pytest.approx(69 + 32, rel=1e-5)
