"""What others published for the rows of this study, to stand beside ours: ``published.toml``."""

import functools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.presets import Preset


class Published(NamedTuple):
    """Others' metrics of a row, by our names, ``test_accuracy`` say; where they can't be read, they are left out.

    Attributes:
      report: of the report.
      epoch: at which it stopped.
      peers: the best of two other public implementations.
      classes: the report's by entity type.
    """

    report: Mapping[str, float]
    epoch: int | None
    peers: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float]]


NOTHING = Published({}, None, {}, {})


@functools.cache
def tables() -> dict[str, Any]:
    """The tables of ``published.toml``."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def is_their_data(data: str) -> bool:
    """Whether the field ``data`` of a config is what they used: CIFAR-10, or the csv of GMB."""
    return data == "cifar10" or data.endswith(".csv")


def of_row(preset: Preset) -> Published:
    """What there is of a row."""
    stated = tables()["report"][preset.task].get(preset.name, {})
    report = {
        f"{split}_{name}": value
        for name, values in stated.items()
        if name != "epoch"
        for split, value in zip(("train", "validation", "test"), values, strict=True)
        if not math.isnan(value)
    }
    peers = tables()["peers"][preset.task].get(preset.name.removeprefix("modern_"), {})
    classes = tables()["report"]["classes"].get(preset.name, {})
    return Published(report, stated.get("epoch"), {f"test_{name}": value for name, value in peers.items()}, classes)
