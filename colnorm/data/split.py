"""One rule for splitting what is published whole: 60/20/20, or 80/20 where the test split is published apart."""

import numpy as np


def shuffled_fifths(count: int, seed: int, held_out: int = 2) -> list[np.ndarray]:
    """`np.random.default_rng(seed).permutation(count)` in parts: what is not held out, then each of the `held_out` fifths."""
    order = np.random.default_rng(seed).permutation(count)
    return np.split(order, [count - fifths * (count // 5) for fifths in range(held_out, 0, -1)])
