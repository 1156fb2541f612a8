"""The study: how large each of its rows is at a scale, which run comes first, and what the report claims of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from colnorm.tasks.configs import TaggingConfig
from experiments.configs import ImageConfig
from experiments.presets import PRESETS, Preset

Scale = Literal["demo", "reduced", "full"]

SCALES: dict[Scale, str] = {
    "demo": "Embedded data and small networks: handwritten digits and sentences of a grammar, with other learning rates and "
    "without GloVe. It shows that everything runs; its figures are not the report's.",
    "reduced": "Real data in full, but few epochs: six of images, two of today's recipe, one at other batch sizes than 128, "
    "eight of taggers; no early stopping.",
    "full": "The report's sizes: all data, as many epochs as early stopping lets, at most 100 for images and 60 for taggers; "
    "20 of today's recipe, or 200.",
}

# What the report says of the order of its rows by test accuracy (1.2.5).
IMAGE_ORDER = ("in", "bin", "gn", "bn", "ln", "nn")

# What it finds to come to the same: its own and the framework's batch normalization (1.2.4), batches of 8 and 128 (1.2.6).
IMAGE_SAMENESS = (("flax_bn", "bn"), ("bn_batch8", "bn"), ("gn_batch8", "gn"))

# The same network with a block's second norm before the addition, as He et al., and after it, as the report says.
PLACEMENTS = (("bn_he", "bn"), ("in_he", "in"), ("bin_he", "bin"))

# Today's recipe, and the same with one idea left out or put in.
ABLATION_PAIRS = tuple(("modern_bn", preset.name) for preset in PRESETS.values() if preset.chapter == "ablation")

# What each part of a tagger is said to bring: (with it, without it, what).
TAGGER_CLAIMS = (
    ("glove", "random", "GloVe"),
    ("char", "glove", "characters"),
    ("layer_norm", "char", "layer normalization"),
    ("crf", "char", "the CRF"),
    ("crf_layer_norm", "crf", "layer normalization under the CRF"),
    ("segments", "crf", "segments in place of single tags"),
)


def at_scale(preset: Preset, scale: Scale) -> ImageConfig | TaggingConfig:
    """The preset's config, made smaller."""
    config = preset.config
    sizes: dict[str, Any] = {}
    if scale == "reduced":
        sizes = {"epochs": 8, "patience": None}
        if isinstance(config, ImageConfig):
            today = config.schedule == "cosine"
            sizes["epochs"] = 2 if today else 6 if config.batch_size == 128 else 1
            sizes |= {"warmup_epochs": 1, "small_epochs": min(config.small_epochs, 1)} if today else {}
    elif scale == "demo" and isinstance(config, TaggingConfig):
        sizes = {"data": "sample", "hidden": 50, "batch_size": 32, "buckets": 1, "epochs": 5, "patience": None}
    elif scale == "demo" and isinstance(config, ImageConfig):
        # There are few digits: 128 would make eight steps an epoch.
        size = {128: 32, 32: 16}.get(config.batch_size, config.batch_size)
        sizes = {"data": "digits", "n": 1, "epochs": 5, "patience": None, "batch_size": size}
        if config.schedule == "cosine":
            sizes |= {"warmup_epochs": 1, "small_epochs": 0, "flip": False}  # a mirrored 2 is no digit
        else:  # the report's rates are for 300 steps an epoch, not for 33
            sizes["learning_rate"] = (0.01 if config.normalization == "nn" else 0.1) * size / 32
    return dataclasses.replace(config, **sizes)


def has_scale(preset: Preset, scale: Scale) -> bool:
    """Whether the row is one of that scale: without GloVe's vectors ``glove`` would be ``random`` again.

    Nor do embedded digits tell what an idea of the recipe brings.
    """
    return scale != "demo" or (preset.name != "glove" and preset.chapter != "ablation")


def worth(preset: Preset, seed: int) -> int:
    """Which runs come first, the lowest: what the report has one run of, then what decides its claims, then all else."""
    if seed == 0:
        if preset.section:
            return 1 if preset.chapter == "batches" else 0
        return {"placement": 2, "tagging": 4, "report": 4, "batches": 5, "modern": 6, "ablation": 7}[preset.chapter]
    return 3 if seed == 1 and preset.section and preset.chapter != "batches" else 7 + seed


def choose(names: Sequence[str]) -> list[Preset]:
    """The rows of these names, in this order; of ``images`` and ``tagging`` all of that task; all rows for no name.

    Raises:
      ValueError: there is no such row.
    """
    chosen: dict[str, Preset] = {}
    for name in names or ("images", "tagging"):
        found = [preset for preset in PRESETS.values() if name in (preset.name, preset.task)]
        if not found:
            raise ValueError(f"there is no row {name!r}; rows are images, tagging, or some of {', '.join(PRESETS)}")
        chosen |= {preset.name: preset for preset in found}
    return list(chosen.values())
