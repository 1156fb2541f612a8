r"""Probabilities that mean what they say: one temperature for all scores of a tagger (Guo et al., 2017).

.. math::  p_\tau(y) \propto \exp(s(y) / \tau)

With a temperature above 1 a tagger is less sure of everything. The most probable tags stay what they are. It is fitted on
validation data, where the log loss of the found entities is least, and stored in the run beside the checkpoints.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from colnorm.files import read_json, write_json
from colnorm.run_directory import TEMPERATURE, RunDirectory

LOWEST, HIGHEST = 0.25, 8.0
"""Temperatures that are looked for."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def log_loss(probabilities: np.ndarray, correct: np.ndarray) -> float:
    """Mean of ``-log p`` of what came true and ``-log(1 - p)`` of what didn't; probabilities are kept 1e-7 from 0 and 1.

    Args:
      probabilities: ``(N,)`` in [0, 1].
      correct: ``(N,)`` bool.

    Example:
      >>> import numpy as np
      >>> from colnorm.temperature import log_loss
      >>> round(log_loss(np.array([0.5, 0.5]), np.array([True, False])), 4)
      0.6931
    """
    if not len(probabilities):
        return 0.0
    kept = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(correct, np.log(kept), np.log1p(-kept))))


def fit(loss: Callable[[float], float], tolerance: float = 0.03) -> float:
    """The temperature between :data:`LOWEST` and :data:`HIGHEST` of the least loss, by golden section of its logarithm.

    The loss is taken to fall and then to rise; it is computed about 12 times.

    Args:
      loss: of a temperature.
      tolerance: how far off the result may be, as a fraction.

    Example:
      >>> from colnorm import temperature
      >>> abs(temperature.fit(lambda tau: (tau - 2) ** 2) - 2) < 0.06
      True
    """
    low, high = math.log(LOWEST), math.log(HIGHEST)
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    losses = [loss(math.exp(at)) for at in inner]
    while high - low > tolerance:
        if losses[0] <= losses[1]:
            high = inner[1]
            inner = [high - _GOLDEN * (high - low), inner[0]]
            losses = [loss(math.exp(inner[0])), losses[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + _GOLDEN * (high - low)]
            losses = [losses[1], loss(math.exp(inner[1]))]
    return math.exp((low + high) / 2)


def write(run: RunDirectory, epoch: int, value: float) -> None:
    """Stores the temperature of an epoch's parameters."""
    write_json(run.file(TEMPERATURE), {"epoch": epoch, "temperature": value})


def read(run: RunDirectory, epoch: int) -> float:
    """The temperature of an epoch's parameters; 1 where none was fitted for that epoch.

    Raises:
      ValueError: the file is damaged.
    """
    file = run.file(TEMPERATURE)
    if not file.exists():
        return 1.0
    stored: Any = read_json(file)
    try:
        if stored["epoch"] != epoch:
            return 1.0
        value = stored["temperature"]
        if type(value) is not float or not LOWEST <= value <= HIGHEST:
            raise TypeError
    except (KeyError, TypeError):
        raise ValueError(f"{file} is damaged: expected an epoch and a temperature from {LOWEST:g} to {HIGHEST:g}") from None
    return value
