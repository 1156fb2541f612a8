"""The temperature of a tagger's probabilities: found where it is known, stored with its epoch, refused where it is damaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crf_cases import random_problem

from colnorm import crf, temperature
from colnorm.posteriors import posteriors
from colnorm.run_directory import TEMPERATURE, RunDirectory


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_of_scores_that_are_too_large_is_found(true):
    """Logits true times those that the labels were drawn from."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal(200_000)
    correct = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))

    def loss(degree):
        return temperature.log_loss(1 / (1 + np.exp(-true * logits / degree)), correct)

    assert temperature.fit(loss) == pytest.approx(true, rel=0.05)


def test_log_loss_is_finite_where_the_sure_is_wrong():
    assert temperature.log_loss(np.array([1.0, 0.0]), np.array([False, True])) == pytest.approx(-np.log(1e-7), rel=1e-3)
    assert temperature.log_loss(np.array([]), np.array([], bool)) == 0


@pytest.mark.parametrize("kind", ["normal", "forbidding", "huge"])
def test_posteriors_are_those_of_divided_scores_and_tags_stay(kind):
    """Of every length from 0 on, and where no path is legal."""
    chain, emissions, _, lengths = random_problem(kind, 0)
    inside = np.arange(emissions.shape[1])[None, :, None] < lengths[:, None, None]
    chain, emissions = jax.tree.map(jnp.asarray, (chain, np.where(inside, emissions, 0)))
    single, pair, _, entropy = jax.jit(posteriors)(emissions, chain, jnp.asarray(lengths), 2.5)
    divided = jax.tree.map(lambda scores: scores / 2.5, (chain, emissions))
    np.testing.assert_allclose(single, crf.marginals(*divided, lengths), atol=2e-6)
    np.testing.assert_allclose(pair, crf.pairwise_marginals(*divided, lengths), atol=1e-6)
    legal = np.isfinite(crf.log_partition(*divided, lengths))
    np.testing.assert_allclose(entropy[legal], crf.entropy(*divided, lengths)[legal], rtol=1e-4, atol=1e-4)
    if kind != "huge":  # where rounding decides between paths
        np.testing.assert_array_equal(crf.viterbi(chain, emissions, lengths)[0], crf.viterbi(*divided, lengths)[0])


def test_posteriors_without_a_chain_are_those_of_each_tag():
    emissions = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)
    alone, none, _, entropy = posteriors(emissions, None, jnp.array([3, 1]), 2.5)
    np.testing.assert_allclose(alone, jax.nn.softmax(emissions / 2.5), rtol=1e-6)
    assert none is None
    np.testing.assert_allclose(entropy, -(alone * jnp.log(alone)).sum(-1).sum(1, where=np.arange(3) < [[3], [1]]), rtol=1e-5)


def test_it_is_kept_with_its_epoch(tmp_path):
    with RunDirectory.create(tmp_path / "run", "toy", {}) as run:
        assert temperature.read(run, 3) == 1
        temperature.write(run, 3, 1.75)
        assert (temperature.read(run, 3), temperature.read(run, 4)) == (1.75, 1)
        for text in ("[]", '{"epoch": 3}', '{"epoch": 3, "temperature": "2"}', '{"epoch": 3, "temperature": 0.0}', "{"):
            run.file(TEMPERATURE).write_text(text)
            with pytest.raises(ValueError, match=r"temperature\.json is damaged"):
                temperature.read(run, 3)
    RunDirectory.create(tmp_path / "run", "toy", {}, overwrite=True).close()  # the file is the run's
