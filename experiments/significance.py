"""How sure a comparison of two rows is: bootstrap over test sentences, intervals over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A figure of one row less that of another.

    Attributes:
      mean: over seeds.
      low, high: the 95 % interval.
      probability: that it is above 0.
      how: what the interval accounts for.
    """

    mean: float
    low: float
    high: float
    probability: float
    how: str


def f1(counts: np.ndarray) -> np.ndarray:
    """Micro F1 of summed ``(..., 3)`` counts of entities: found and right, found, to be found. 0 where there is none."""
    right, found, gold = np.moveaxis(counts, -1, 0)
    return 2 * right / np.maximum(found + gold, 1)


def paired_bootstrap(pairs: Sequence[tuple[np.ndarray, np.ndarray]], draws: int = 2000, seed: int = 0) -> Difference:
    """F1 of the first tagger less that of the second, both on the same sentences (Koehn, 2004, W04-3250).

    Sentences are drawn with replacement, the same ones for both taggers; where all seeds have the same test sentences (the same
    numbers of entities to be found, in order), the same ones for all seeds, else each seed its own. A draw's difference is the
    mean over seeds.

    Args:
      pairs: for each seed the counts ``(sentences, 3)`` of both taggers, as :func:`f1` takes their sum.

    Raises:
      ValueError: two taggers were not tried on the same number of sentences.
    """
    for first, second in pairs:
        if first.shape != second.shape:
            raise ValueError(f"expected counts of the same sentences, got {first.shape} and {second.shape}")
    together = all(np.array_equal(first[:, 2], pairs[0][0][:, 2]) for first, _ in pairs)
    drawn = np.zeros(draws)
    for place, pair in enumerate(pairs):
        rng = np.random.default_rng((seed, 0 if together else place))
        both, count = np.stack(pair).astype(np.float64), len(pair[0])
        for number in range(draws):
            # How often each sentence is drawn: a sum of products instead of a copy of all counts.
            times = np.bincount(rng.integers(0, count, count), minlength=count)
            scores = f1(times @ both)
            drawn[number] += (scores[0] - scores[1]) / len(pairs)
    mean = float(np.mean([f1(first.sum(0)) - f1(second.sum(0)) for first, second in pairs]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    # Ties count half, so that a tagger against itself has 0.5.
    probability = float(np.mean(drawn > 0) + 0.5 * np.mean(drawn == 0))
    return Difference(mean, float(low), float(high), probability, f"paired bootstrap, {draws:,} draws of test sentences")


def over_seeds(first: Sequence[float], second: Sequence[float], examples: int) -> Difference:
    """One accuracy less another, each of several seeds.

    With two seeds or more Student's t over the seeds' differences, paired; with one the normal approximation of two
    independent binomials of ``examples`` examples each, which is wider than it has to be as both rows saw the same ones.
    """
    from scipy import stats

    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean = float(differences.mean())
    if len(differences) > 1:
        error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
        law, how = stats.t(len(differences) - 1), f"t over {len(differences)} seeds"
    else:
        error = float(np.sqrt(sum(p * (1 - p) / examples for p in (first[0], second[0]))))
        law, how = stats.norm(), f"one seed, {examples:,} examples"
    if error == 0:
        return Difference(mean, mean, mean, 0.5 + 0.5 * float(np.sign(mean)), how)
    half = float(law.ppf(0.975)) * error
    return Difference(mean, mean - half, mean + half, float(law.cdf(mean / error)), how)
