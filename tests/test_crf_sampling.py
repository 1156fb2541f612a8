"""Draws of paths: their frequencies against the probabilities of every path."""

import jax
import numpy as np
import pytest
from crf_cases import B, K, T, all_paths, random_problem

from colnorm import crf

DRAWS = 20_000


@jax.jit
def many(key, chain, emissions, lengths):
    """(DRAWS, B, T)."""
    return jax.vmap(lambda key: crf.sample(key, chain, emissions, lengths))(jax.random.split(key, DRAWS))


@pytest.mark.parametrize("kind", ["normal", "forbidding", "huge", "tied"])
def test_frequencies_are_probabilities(kind):
    problem = random_problem(kind, 1)
    chain, emissions, _, lengths = problem
    tags = np.asarray(many(jax.random.key(0), chain, emissions, lengths))
    assert tags.dtype == np.int32 and tags.shape == (DRAWS, B, T)
    assert not tags[:, np.arange(T) >= lengths[:, None]].any()
    for b, paths in enumerate(all_paths(problem)):
        if not paths.possible:
            assert not tags[:, b].any()
            continue
        drawn = tags[:, b, : paths.length]
        index = np.ravel_multi_index(drawn.T, (K,) * paths.length) if paths.length else np.zeros(DRAWS, int)
        counts = np.bincount(index, minlength=len(paths.p))
        assert not counts[paths.scores == -np.inf].any()
        likely = paths.p * DRAWS >= 10
        deviation = (counts - paths.p * DRAWS)[likely] / np.sqrt(DRAWS * (paths.p * (1 - paths.p))[likely] + 1e-9)
        assert np.abs(deviation).max() < 5
        # All the rare paths together: as often as they should be.
        rare = paths.p[~likely].sum()
        assert abs(counts[~likely].sum() - DRAWS * rare) < 5 * np.sqrt(DRAWS * rare * (1 - rare)) + 1
        if likely.sum() > 1:  # chi-square, of mean n and variance 2n
            n = likely.sum() - (rare < 1e-6)
            chi = np.sum(deviation**2 * (1 - paths.p[likely]))
            assert abs(chi - n) < 5 * np.sqrt(2 * n) + 1


@pytest.mark.parametrize("part", ["transitions", "start", "end"])
def test_no_legal_path_is_drawn_as_zeros(part):
    chain, emissions, _, lengths = random_problem("normal", 1, lengths=[2, 3, 4, 5, 6, 6, 6])
    chain = chain._replace(**{part: np.full_like(getattr(chain, part), -np.inf)})
    assert not many(jax.random.key(0), chain, emissions, lengths).any()


def test_large_scores_leave_the_draw_its_digits():
    """Numbers of 3e7 are 2 apart in float32: noise that was added to them would be lost."""
    chain = crf.Chain(*(np.full(shape, 3e7, np.float32) for shape in ((K, K), (K,), (K,))))
    emissions, lengths = np.zeros((B, T, K), np.float32), np.full(B, T, np.int32)
    tags = np.asarray(many(jax.random.key(4), chain, emissions, lengths))
    frequencies = (tags[..., None] == np.arange(K)).mean(0)  # (B, T, K)
    np.testing.assert_allclose(frequencies, 1 / K, atol=5 * np.sqrt((K - 1) / K**2 / DRAWS))


def test_sequences_of_a_batch_are_drawn_independently_and_by_their_key():
    rng = np.random.default_rng(0)
    chain = crf.Chain(*(rng.normal(size=shape).astype(np.float32) for shape in ((K, K), (K,), (K,))))
    emissions = np.repeat(rng.normal(size=(1, T, K)).astype(np.float32), B, axis=0)
    lengths = np.full(B, T, np.int32)
    tags = np.asarray(many(jax.random.key(1), chain, emissions, lengths))
    p = np.asarray(crf.marginals(chain, emissions[:1]))[0]
    same = (tags[:, 0] == tags[:, 1]).mean(0)  # by position
    expected = (p**2).sum(1)
    np.testing.assert_array_less(np.abs(same - expected), 5 * np.sqrt(expected * (1 - expected) / DRAWS))
    first, again, other = (np.asarray(many(jax.random.key(seed), chain, emissions, lengths)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_old_style_keys_draw_too():
    chain, emissions, _, lengths = random_problem("normal", 2)
    assert jax.eval_shape(crf.sample, jax.random.PRNGKey(0), chain, emissions, lengths).shape == (B, T)
