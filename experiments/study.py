"""The rows of the study, and how large each is at a scale: what ``experiments.reproduce`` trains."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from experiments.configs import CIFAR_PRESETS, NEEDS_GLOVE, NER_PRESETS

Scale = Literal["demo", "reduced", "full"]
Task = Literal["images", "taggers"]
Chapter = Literal["report", "batches", "placement", "modern", "taggers"]

SCALES: dict[Scale, str] = {
    "demo": "Embedded data and small networks: handwritten digits and sentences of a grammar, with other learning rates. It "
    "shows that everything runs; its figures are not the report's.",
    "reduced": "Real data in full, but few epochs: six of images, two of today's recipe, one at other batch sizes than 128, "
    "eight of taggers; no early stopping.",
    "full": "The report's sizes: all data, as many epochs as early stopping lets, at most 100 for images and 60 for taggers.",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the study: a preset, what it changes, and where it stands in the report.

    Attributes:
      name: its own name, and that of its figures in ``published.toml``.
      section: of the report; empty where the report has nothing of the kind.
      title: what it is.
      chapter: of the page.
      preset: of the command that trains it.
      changes: fields of the preset's config that are other.
    """

    name: str
    section: str
    title: str
    chapter: Chapter
    preset: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> Task:
        """Which command trains it."""
        return "taggers" if self.chapter == "taggers" else "images"

    def overrides(self, scale: Scale) -> dict[str, Any]:
        """The fields of the config that are not the preset's, at a scale."""
        sizes = _image_sizes(self, scale) if self.task == "images" else _tagger_sizes(self, scale)
        return {**self.changes, **sizes}

    def config(self, scale: Scale) -> Any:
        """The whole config, without the places of the data."""
        presets: dict[str, Any] = CIFAR_PRESETS if self.task == "images" else NER_PRESETS
        return dataclasses.replace(presets[self.preset][1], **self.overrides(scale))

    @property
    def needs_glove(self) -> bool:
        return self.task == "taggers" and (self.preset in NEEDS_GLOVE or self.preset == "best")


def _image_sizes(row: Row, scale: Scale) -> dict[str, Any]:
    config = CIFAR_PRESETS[row.preset][1]
    if scale == "full":
        return {}
    batch_size = row.changes.get("batch_size", config.batch_size)
    if scale == "demo":
        # There are few digits: 128 would make eight steps an epoch.
        smaller = {128: 32, 32: 16}.get(batch_size, batch_size)
        small: dict[str, Any] = {"data": "digits", "n": 1, "epochs": 5, "patience": None, "batch_size": smaller}
        if config.schedule == "cosine":
            return small | {"warmup_epochs": 1, "flip": False}  # a mirrored 2 is no digit
        # The report's rates are for 300 steps an epoch, not for 33.
        rate = 0.01 if config.normalization == "nn" else 0.1
        return small | {"learning_rate": rate * small["batch_size"] / 32}
    if config.schedule == "cosine":
        return {"epochs": 2, "warmup_epochs": 1, "patience": None}
    return {"epochs": 6 if batch_size == config.batch_size == 128 else 1, "patience": None}


def _tagger_sizes(row: Row, scale: Scale) -> dict[str, Any]:
    if scale == "full":
        return {}
    if scale == "demo":
        return {"data": "sample", "hidden": 50, "batch_size": 32, "buckets": 1, "epochs": 5, "patience": None}
    return {"epochs": 8, "patience": None}


def _batch_size_rows() -> list[Row]:
    """bn, gn and bin at other batch sizes, the rate scaled with the batch (Goyal et al., 2017) as in the presets at 8.

    But for the report's they have ten epochs, of which each is compared with the same one of the others.
    """
    rows = []
    for name in ("bn", "gn", "bin"):
        rate = CIFAR_PRESETS[name][1].learning_rate
        for size in (2, 8, 32):
            in_report = size == 8 and name != "bin"
            scaled = {"batch_size": size, "learning_rate": rate * size / 128, "epochs": 10, "patience": None}
            changes = {} if in_report else scaled
            preset = f"{name}_batch8" if in_report else name
            section = "1.2.6" if in_report else ""
            rows.append(Row(f"{name}_batch{size}", section, f"{name}, batches of {size}", "batches", preset, changes))
    return rows


# He et al.'s place of the norm at the report's learning rate: long enough to see whether it learns.
HE = {"norm_placement": "before_addition", "epochs": 5, "patience": None}

ROWS: dict[str, Row] = {
    row.name: row
    for row in [
        Row("nn", "1.1", "no normalization", "report", "nn"),
        Row("bn", "1.2.1", "batch normalization", "report", "bn"),
        Row("in", "1.2.1", "instance normalization", "report", "in"),
        Row("bin", "1.2.1", "batch-instance normalization", "report", "bin"),
        Row("ln", "1.2.1", "layer normalization", "report", "ln"),
        Row("gn", "1.2.1", "group normalization, 16 groups", "report", "gn"),
        Row("flax_bn", "1.2.4", "the framework's own batch normalization", "report", "flax_bn"),
        Row("gn_groups2", "", "group normalization, 2 groups", "report", "gn", {"num_groups": 2}),
        *_batch_size_rows(),
        *(
            Row(f"{name}_he", "", f"{name}, its norm before the addition", "placement", name, HE)
            for name in ("bn", "in", "bin")
        ),
        *(
            Row(name, "", f"{name.removeprefix('modern_')}, today's recipe", "modern", name)
            for name in CIFAR_PRESETS
            if name.startswith("modern_")
        ),
        Row("random", "2.1.1", "BiLSTM, random word embeddings", "taggers", "random"),
        Row("glove", "2.1.2", "BiLSTM, GloVe", "taggers", "glove"),
        Row("char", "2.1.3", "GloVe and a character BiLSTM", "taggers", "char"),
        Row("layer_norm", "2.1.4", "the same, layer-normalized LSTM", "taggers", "layer_norm"),
        Row("crf", "2.2", "GloVe, characters, linear-chain CRF", "taggers", "crf"),
        Row("crf_layer_norm", "", "the same, layer-normalized LSTM", "taggers", "crf_layer_norm"),
        Row("best", "", "everything on, Adam", "taggers", "best"),
    ]
}

# What the report says of the order of its rows by test accuracy (1.2.5).
IMAGE_ORDER = ("in", "bin", "gn", "bn", "ln", "nn")

# What it finds to come to the same: its own and the framework's batch normalization (1.2.4), batches of 8 and 128 (1.2.6).
IMAGE_SAMENESS = (("flax_bn", "bn"), ("bn_batch8", "bn"), ("gn_batch8", "gn"))

# What each part of a tagger is said to bring: (with it, without it, what).
TAGGER_CLAIMS = (
    ("glove", "random", "GloVe"),
    ("char", "glove", "characters"),
    ("layer_norm", "char", "layer normalization"),
    ("crf", "char", "the CRF"),
    ("crf_layer_norm", "crf", "layer normalization under the CRF"),
)


# The same network with a block's second norm before the addition, as He et al., and after it, as the report says.
PLACEMENTS = (("bn_he", "bn"), ("in_he", "in"), ("bin_he", "bin"))


def worth(row: Row, seed: int) -> int:
    """Which runs come first, the lowest: what the report has one run of, then what decides its claims, then all else."""
    if seed == 0:
        if row.section:
            return 1 if row.chapter == "batches" else 0
        return {"placement": 2, "taggers": 4, "report": 4, "batches": 5, "modern": 6}[row.chapter]
    return 3 if seed == 1 and row.section and row.chapter != "batches" else 6 + seed


def choose(names: tuple[str, ...]) -> list[Row]:
    """The rows of these names, in this order; of ``images`` and ``taggers`` all of that kind; all rows for no name.

    Raises:
      ValueError: there is no such row.
    """
    if not names:
        return list(ROWS.values())
    chosen: dict[str, Row] = {}
    for name in names:
        found = [row for row in ROWS.values() if name in (row.name, row.task)]
        if not found:
            raise ValueError(f"there is no row {name!r}; rows are images, taggers, or some of {', '.join(ROWS)}")
        chosen |= {row.name: row for row in found}
    return list(chosen.values())
