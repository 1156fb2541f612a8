"""One rule for splitting what is published whole: 60/20/20, or 80/20 where the test split is published apart."""

from collections.abc import Sequence

import numpy as np


def shuffled_fifths(count: int, seed: int, held_out: int = 2) -> list[np.ndarray]:
    """`np.random.default_rng(seed).permutation(count)` in parts: what is not held out, then each of the `held_out` fifths."""
    return shuffled_shares(count, seed, (100 - 20 * held_out, *[20] * held_out))


def shuffled_shares(count: int, seed: int, percents: Sequence[int]) -> list[np.ndarray]:
    """`np.random.default_rng(seed).permutation(count)` in parts of so many percent, all but the first rounded down."""
    order = np.random.default_rng(seed).permutation(count)
    sizes = [count * percent // 100 for percent in percents[1:]]
    return np.split(order, count - np.cumsum([0, *sizes[::-1]])[:0:-1])
