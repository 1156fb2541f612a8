"""Intervals of differences: against enumeration, a loop, and what must be so."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from experiments.significance import f1, over_seeds, paired_bootstrap


def test_f1_is_that_of_summed_counts():
    rng = np.random.default_rng(0)
    gold, found = rng.random((2, 200)) < 0.3
    counts = np.array([(gold & found).sum(), found.sum(), gold.sum()])
    assert f1(counts) == pytest.approx(f1_score(gold, found))
    assert f1(np.zeros(3)) == 0


def test_the_bootstrap_is_near_the_enumeration_of_all_draws():
    first = np.array([[2, 2, 3], [0, 1, 1], [1, 1, 1], [3, 4, 4]])
    second = np.array([[1, 2, 3], [1, 1, 1], [0, 1, 1], [3, 3, 4]])
    exact = []
    for chosen in itertools.product(range(4), repeat=4):
        places = list(chosen)
        exact.append(f1(first[places].sum(0)) - f1(second[places].sum(0)))
    exact = np.array(exact)
    found = paired_bootstrap([(first, second)], draws=20_000)
    assert found.mean == pytest.approx(f1(first.sum(0)) - f1(second.sum(0)))
    assert found.low == pytest.approx(np.percentile(exact, 2.5), abs=0.02)
    assert found.high == pytest.approx(np.percentile(exact, 97.5), abs=0.02)
    assert found.probability == pytest.approx(np.mean(exact > 0) + 0.5 * np.mean(exact == 0), abs=0.01)


def test_a_tagger_against_itself_and_against_a_perfect_one():
    rng = np.random.default_rng(1)
    gold = rng.integers(1, 5, 50)
    mine = np.stack([rng.binomial(gold, 0.5), gold, gold], 1)
    perfect = np.stack([gold, gold, gold], 1)
    same = paired_bootstrap([(mine, mine)], draws=100)
    assert (same.mean, same.low, same.high, same.probability) == (0, 0, 0, 0.5)
    better = paired_bootstrap([(perfect, mine), (perfect, mine)], draws=100)
    assert better.low > 0 and better.probability == 1
    with pytest.raises(ValueError, match="the same sentences"):
        paired_bootstrap([(mine, mine[:-1])])


def test_seeds_on_the_same_sentences_share_their_draws():
    """Four times the same pair is known no better than once; pairs on other sentences each are."""
    rng = np.random.default_rng(2)
    gold = rng.integers(1, 5, 200)
    first, second = (np.stack([rng.binomial(gold, right), gold, gold], 1) for right in (0.7, 0.6))
    width = {}
    for name, pairs in {"one": [(first, second)], "same": [(first, second)] * 4}.items():
        found = paired_bootstrap(pairs)
        width[name] = found.high - found.low
    order = [rng.permutation(200) for _ in range(4)]
    found = paired_bootstrap([(first[places], second[places]) for places in order])
    assert width["same"] == pytest.approx(width["one"])
    assert found.high - found.low == pytest.approx(width["one"] / 2, rel=0.2)


def test_several_seeds_give_the_paired_t_interval():
    first, second = [0.81, 0.83, 0.82], [0.80, 0.80, 0.81]
    found = over_seeds(first, second, 1000)
    theirs = stats.ttest_rel(first, second)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.probability == pytest.approx(1 - theirs.pvalue / 2)
    assert found.how == "t over 3 seeds"


def test_one_seed_gives_the_binomial_interval():
    found = over_seeds([0.8], [0.7], 1000)
    error = np.sqrt((0.8 * 0.2 + 0.7 * 0.3) / 1000)
    assert (found.low, found.high) == pytest.approx((0.1 - 1.959964 * error, 0.1 + 1.959964 * error))
    assert over_seeds([1.0], [1.0], 10).probability == 0.5  # no error at all is no division by zero
    assert over_seeds([1.0, 1.0], [0.5, 0.5], 10)[:4] == (0.5, 0.5, 0.5, 1.0)
