"""Every number of the study: a preset for each of its rows.

What the report states is taken over as it is. What it leaves open is chosen here and marked "ours".
"""

import dataclasses
from typing import Any, Literal

from colnorm.tasks.configs import RECOMMENDED, TaggingConfig
from experiments.configs import ImageConfig

Chapter = Literal["report", "batches", "placement", "modern", "ablation", "tagging"]
TaskName = Literal["images", "tagging"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A config with a name: a row of the study, and a word of ``experiments.train``.

    Attributes:
      name: also that of its figures in ``published.toml``.
      config: of its task, without the paths of the data.
      title: what it is.
      chapter: of the study's page.
      section: of the report; empty where the report has nothing of the kind.
      glove: whether its word embeddings may, or must, begin as the vectors that ``--glove`` names; in the study all do.
    """

    name: str
    config: Any
    title: str
    chapter: Chapter
    section: str = ""
    glove: Literal["", "may", "must"] = ""

    @property
    def task(self) -> TaskName:
        """What is trained."""
        return "images" if isinstance(self.config, ImageConfig) else "tagging"


# The report's rows (1.1 to 1.2.6). Its normalizations are "applied just before the activation in all these cases", so after
# the addition. There its learning rate of 1 works; with the norm before the addition, 1 throws bn, in and bin to chance.
# Ours, the early-stopping rule being unstated: 100 epochs at most and patience 10, which counts from the last drop of the
# learning rate on, as the report's own runs of in and bin went past theirs.
_REPORT = ImageConfig(norm_placement="after_addition", momentum=0.9, weight_decay=1e-4, batch_size=128)


def _report(normalization: Any, learning_rate: float, **more: Any) -> ImageConfig:
    return dataclasses.replace(_REPORT, normalization=normalization, learning_rate=learning_rate, **more)


_BN = _report("bn", 1.0, schedule="decay", decay_factor=0.96)
_IN = _report("in", 1.0, schedule="step", decay_epochs=(50,))
_BIN = _report("bin", 1.0, schedule="step", decay_epochs=(30,))
_GN = _report("gn", 0.1, schedule="step", decay_epochs=(20,))

_IMAGES = [
    Preset("nn", _report("nn", 0.001), "no normalization", "report", "1.1"),
    Preset("bn", _BN, "batch normalization", "report", "1.2.1"),
    Preset("in", _IN, "instance normalization", "report", "1.2.1"),
    Preset("bin", _BIN, "batch-instance normalization", "report", "1.2.1"),
    Preset("ln", _report("ln", 0.01), "layer normalization", "report", "1.2.1"),
    Preset("gn", _GN, "group normalization, 16 groups", "report", "1.2.1"),
    Preset(
        "flax_bn",
        dataclasses.replace(_BN, normalization="flax_bn"),
        "the framework's own batch normalization",
        "report",
        "1.2.4",
    ),
    Preset("gn_groups2", dataclasses.replace(_GN, num_groups=2), "group normalization, 2 groups", "report"),
]


def _of_batch_size(base: ImageConfig, size: int) -> Preset:
    """Ours: the rate is scaled with the batch (Goyal et al., 2017). Rows that the report lacks have ten epochs."""
    name = base.normalization
    section = "1.2.6" if size == 8 and name != "bin" else ""
    scaled = dataclasses.replace(base, batch_size=size, learning_rate=base.learning_rate * size / 128)
    if not section:
        scaled = dataclasses.replace(scaled, epochs=10, patience=None)
    return Preset(f"{name}_batch{size}", scaled, f"{name}, batches of {size}", "batches", section)


_IMAGES += [_of_batch_size(base, size) for base in (_BN, _GN, _BIN) for size in (2, 8, 32)]

# He et al.'s place of the norm at the report's learning rate: long enough to see whether it learns.
_IMAGES += [
    Preset(
        f"{base.normalization}_he",
        dataclasses.replace(base, norm_placement="before_addition", epochs=5, patience=None),
        f"{base.normalization}, its norm before the addition",
        "placement",
    )
    for base in (_BN, _IN, _BIN)
]


# The same network trained as one would today, in 20 epochs. All ours. Muon, its rate and its decay were chosen on validation
# data with bn and one seed (docs/what-was-tried.md), the rate of nn by itself; of the rest one seed of each
# row of the chapter ablation decides nothing.
_MODERN = ImageConfig(
    epochs=20,
    schedule="cosine",
    warmup_epochs=2,
    nesterov=True,
    weight_decay=5e-4,
    decay_vectors=False,
    muon_learning_rate=0.1,
    muon_weight_decay=0.01,
    crop_padding=2,
    flip=True,
    alternate_flips=True,
    label_smoothing=0.05,
    patience=None,
)


def _modern(normalization: Any, learning_rate: float, **more: Any) -> Preset:
    config = dataclasses.replace(_MODERN, normalization=normalization, learning_rate=learning_rate, **more)
    return Preset(f"modern_{normalization}", config, f"{normalization}, today's recipe", "modern")


_MODERN_BN = _modern("bn", 0.2)
_IMAGES += [
    _modern("nn", 0.02, clip_global_norm=1.0, muon_learning_rate=0.02),
    _MODERN_BN,
    _modern("in", 0.1),
    _modern("bin", 0.2, gate_multiplier=10.0),
    _modern("ln", 0.1, clip_global_norm=1.0),
    _modern("gn", 0.1, clip_global_norm=1.0),
    _modern("flax_bn", 0.2),
    Preset(
        "modern_bn_200",
        dataclasses.replace(_MODERN_BN.config, epochs=200, warmup_epochs=5, crop_padding=4, label_smoothing=0.1),
        "bn, today's recipe over 200 epochs",
        "modern",
    ),
]

# Each idea of the recipe left out, and each that it does without put in.
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("kernels by gradient descent instead of Muon", {"muon_learning_rate": None}),
    "no_decay": ("no weight decay of kernels", {"muon_weight_decay": 0.0}),
    "random_flips": ("flips at random instead of in turn", {"alternate_flips": False}),
    "crop4": ("moved by up to 4 pixels instead of 2", {"crop_padding": 4}),
    "no_smoothing": ("no label smoothing", {"label_smoothing": 0.0}),
    "whitening": ("first filters that whiten patches", {"whiten": True}),
    "zero_residual": ("blocks begin as their shortcuts", {"zero_residual": True}),
    "bias_rate": ("norm biases at eight times the rate", {"norm_bias_multiplier": 8.0}),
    "small_images": ("images of 24 pixels in the first 8 epochs", {"small_epochs": 8}),
    "cut_out": ("squares of 8 pixels cut out", {"cut_out": 8}),
    "average": ("parameters averaged over about 1,000 steps", {"average_decay": 0.999}),
}
_IMAGES += [
    Preset(f"modern_bn_{name}", dataclasses.replace(_MODERN_BN.config, **change), title, "ablation")
    for name, (title, change) in ABLATIONS.items()
]

# The report's rows (2.1.1 to 2.2): SGD 0.01, momentum 0.9, decay 1e-4, clipping at 5, batch 128, 100 word features. Ours, being
# unstated: 100 LSTM features a direction, 25 + 25 for characters, dropout 0.5, the loss summed over a sentence and averaged
# over sentences, 60 epochs at most with patience 5. Its 2.2 doesn't say what lies under the CRF: the tagger of 2.1.3 here.
_WORDS = TaggingConfig(dropout=0.5)
_CHAR = dataclasses.replace(_WORDS, characters=True)
_CHAR_NORM = dataclasses.replace(_CHAR, layer_norm="output")
_CRF = dataclasses.replace(_CHAR, head="crf")
_CRF_NORM = dataclasses.replace(_CRF, layer_norm="output")

_TAGGING = [
    Preset("random", _WORDS, "BiLSTM, random word embeddings", "tagging", "2.1.1"),
    Preset("glove", _WORDS, "BiLSTM, GloVe", "tagging", "2.1.2", glove="must"),
    Preset("char", _CHAR, "GloVe and a character BiLSTM", "tagging", "2.1.3", glove="must"),
    Preset("layer_norm", _CHAR_NORM, "char, layer-normalized LSTM", "tagging", "2.1.4", glove="must"),
    Preset("crf", _CRF, "char, linear-chain CRF", "tagging", "2.2", glove="must"),
    Preset("crf_layer_norm", _CRF_NORM, "crf, layer-normalized LSTM", "tagging", glove="must"),
    Preset("segments", dataclasses.replace(_CHAR, head="segments"), "char, CRF over segments", "tagging", glove="must"),
    Preset("best", RECOMMENDED, "everything on, Adam", "tagging", glove="may"),
]

PRESETS: dict[str, Preset] = {preset.name: preset for preset in [*_IMAGES, *_TAGGING]}
