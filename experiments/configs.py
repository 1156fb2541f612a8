"""Every number of the study: a frozen dataclass per task, and a named preset for each row of the report.

What the report states is taken over as it is; what it leaves open is chosen here and marked "ours".
"""

import dataclasses
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Interval
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from colnorm.resnet import Normalization, NormPlacement

T = TypeVar("T")

# Types and ranges hold wherever a config is made: out of a command line, a file or another config.
CHECKED = ConfigDict(strict=True, allow_inf_nan=False)
Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]


@dataclass(frozen=True, config=CHECKED)
class CifarConfig:
    """A ResNet on images. Rates are per step, epochs count from 1."""

    normalization: Normalization = "bn"
    """nn none, bn batch, in instance, bin batch-instance, ln layer, gn group, flax_bn Flax's own batch norm."""
    norm_placement: NormPlacement = "before_addition"
    """Of a block's second norm: before the shortcut is added (He et al.), or after it, before the activation (the report)."""
    num_groups: Literal[1, 2, 4, 8, 16] = 16
    """Of gn; they must divide 16."""
    n: Count = 2
    """Blocks in each of the three stages: the network has 6n+2 layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and features; statistics, loss and parameters stay float32."""

    data: Literal["cifar10", "digits"] = "cifar10"
    """cifar10, or the 1,797 handwritten digits that come with scikit-learn."""
    data_dir: str | None = None
    """Directory with CIFAR-10's binary or python version; without one tensorflow-datasets fetches it."""
    crop_padding: Annotated[int, Interval(ge=0, lt=32)] = 0
    """Random crops out of images reflected by this many pixels on each side; 0 for none. Drawn on the device."""
    flip: bool = False
    """Mirror every other training image at random."""

    epochs: Count = 100
    """Epochs at most."""
    batch_size: Count = 128
    """Images in a step, over all devices."""
    learning_rate: Positive = 0.1
    """At the start, or at its peak with the cosine schedule."""
    schedule: Literal["constant", "decay", "step", "cosine"] = "constant"
    """constant; decay (by decay_factor after every epoch); step (after each of decay_epochs); cosine (to 0, after warm-up)."""
    decay_factor: Positive = 0.1
    """What the decay and step schedules multiply with."""
    decay_epochs: tuple[Count, ...] = ()
    """Epochs after which the step schedule drops."""
    warmup_epochs: NotNegative = 0.0
    """Linear warm-up of the cosine schedule."""
    momentum: Fraction = 0.9
    """Fraction of the momentum buffer kept at a step."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: NotNegative = 1e-4
    """L2 coefficient, added to the gradient."""
    decay_vectors: bool = True
    """Decay biases, scales and gates too, as PyTorch's SGD does."""
    gate_multiplier: Positive = 1.0
    """Learning rate of batch-instance gates in units of the others'; with any but 1 they have no weight decay."""
    clip_global_norm: Positive | None = None
    """Scale longer gradients down to this L2 norm."""
    label_smoothing: Fraction = 0.0
    """Training targets are 1 - s for the label plus s spread over all classes; evaluation is never smoothed."""

    patience: Count | None = 10
    """Stop after this many epochs without a better validation accuracy; None trains all epochs."""
    seed: Seed = 0
    """Of parameters, order, augmentation, and the split into training and validation data."""
    devices: Count | None = None
    """Devices to split each batch over; all by default. On a CPU this many virtual ones are made (by default one a core)."""


# The report's rows (1.1 to 1.2.6). Its normalizations are "applied just before the activation in all these cases", so after
# the addition. There its learning rate of 1 works; with the norm before the addition, 1 throws bn, in and bin to chance.
# Ours: patience 10 and 100 epochs at most, the early-stopping rule being unstated.
_REPORT = CifarConfig(norm_placement="after_addition", momentum=0.9, weight_decay=1e-4, batch_size=128)
_BN = dataclasses.replace(_REPORT, normalization="bn", learning_rate=1.0, schedule="decay", decay_factor=0.96)
_GN = dataclasses.replace(_REPORT, normalization="gn", learning_rate=0.1, schedule="step", decay_epochs=(20,))

# The same network trained as one would today. All ours.
_MODERN = CifarConfig(
    epochs=100,
    schedule="cosine",
    warmup_epochs=5,
    nesterov=True,
    weight_decay=5e-4,
    decay_vectors=False,
    crop_padding=4,
    flip=True,
    label_smoothing=0.1,
    patience=None,
)

CIFAR_PRESETS: dict[str, tuple[str, CifarConfig]] = {
    "nn": ("1.1: no normalization", dataclasses.replace(_REPORT, normalization="nn", learning_rate=0.001)),
    "bn": ("1.2.1: batch normalization", _BN),
    "in": (
        "1.2.1: instance normalization",
        dataclasses.replace(_REPORT, normalization="in", learning_rate=1.0, schedule="step", decay_epochs=(50,)),
    ),
    "bin": (
        "1.2.1: batch-instance normalization",
        dataclasses.replace(_REPORT, normalization="bin", learning_rate=1.0, schedule="step", decay_epochs=(30,)),
    ),
    "ln": ("1.2.1: layer normalization", dataclasses.replace(_REPORT, normalization="ln", learning_rate=0.01)),
    "gn": ("1.2.1: group normalization, 16 groups", _GN),
    "flax_bn": ("1.2.4: Flax's own batch normalization", dataclasses.replace(_BN, normalization="flax_bn")),
    # Ours: learning rates scaled with the batch size (Goyal et al. 2017), which the report doesn't state.
    "bn_batch8": ("1.2.6: bn at batch size 8", dataclasses.replace(_BN, batch_size=8, learning_rate=1.0 * 8 / 128)),
    "gn_batch8": ("1.2.6: gn at batch size 8", dataclasses.replace(_GN, batch_size=8, learning_rate=0.1 * 8 / 128)),
    **{
        f"modern_{config.normalization}": (f"{config.normalization} with augmentation, warm-up and cosine schedule", config)
        for config in (
            dataclasses.replace(_MODERN, normalization="nn", learning_rate=0.02, clip_global_norm=1.0),
            dataclasses.replace(_MODERN, normalization="bn", learning_rate=0.2),
            dataclasses.replace(_MODERN, normalization="in", learning_rate=0.1),
            dataclasses.replace(_MODERN, normalization="bin", learning_rate=0.2, gate_multiplier=10.0),
            dataclasses.replace(_MODERN, normalization="ln", learning_rate=0.1, clip_global_norm=1.0),
            dataclasses.replace(_MODERN, normalization="gn", learning_rate=0.1, clip_global_norm=1.0),
            dataclasses.replace(_MODERN, normalization="flax_bn", learning_rate=0.2),
        )
    },
}


@dataclass(frozen=True, config=CHECKED)
class NerConfig:
    """A sequence tagger. Rates are per step, epochs count from 1."""

    data: str = "sample"
    """sample (sentences of a grammar, no download), GMB's ner_dataset.csv, or a directory of CoNLL column files."""
    word_column: int = 0
    """Of column files, from 0; negative ones count from the end."""
    tag_column: int = -1
    """Of column files."""

    word_features: Count = 100
    """Size of word embeddings drawn at random; with --glove the file says it."""
    glove: str | None = None
    """GloVe text file with the word embeddings to begin with; they are trained on."""
    vector_words: Size = 0
    """Of the first words of --glove this many are known even where training data lacks them, with their vectors; all of
    glove.6B are 400000. Each costs a row of the embedding, its gradient and its momentum."""
    lowercase: bool = False
    """Words that differ only in case share an embedding."""
    fold_digits: bool = False
    """Words that differ only in digits share an embedding."""
    min_count: Count = 1
    """Words seen less often in training are unknown."""
    characters: bool = False
    """Read each word's characters with a bidirectional LSTM."""
    character_features: Count = 25
    """Size of a character's embedding."""
    character_hidden: Count = 25
    """Features of the character LSTM in each direction."""
    word_length: Count = 16
    """Characters read of a word; of longer ones the first and the last half."""
    shape_features: Size = 0
    """Size of the embedding of a word's capitalisation; 0 leaves it out."""
    hidden: Count = 100
    """Features of the LSTM over words in each direction."""
    layer_norm: Literal["gates", "output"] | None = None
    """Normalize inside the cell: gates as Ba et al. (2016), output as the report."""
    head: Literal["softmax", "crf"] = "softmax"
    """Each tag for itself, or a linear-chain CRF."""
    constrained: bool = True
    """The CRF forbids moves that BIO doesn't allow."""
    dropout: Fraction = 0.0
    """At the input and the output of the LSTM over words."""
    word_dropout: Fraction = 0.0
    """Rate at which training replaces words by the unknown word."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of embeddings and LSTMs; the CRF, the loss and the parameters stay float32."""

    epochs: Count = 60
    """Epochs at most."""
    batch_size: Count = 128
    """Sentences in a step, over all devices."""
    buckets: Count = 6
    """Padded lengths, chosen from the data, among which batches are drawn."""
    loss: Literal["sentence", "token"] = "sentence"
    """Gradients are those of the mean -log p(tags) of a sentence, or of a token."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Adam has decoupled weight decay."""
    learning_rate: Positive = 0.01
    """At the start, or at its peak with the cosine schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """constant, or cosine (to 0, after warm-up)."""
    warmup_epochs: NotNegative = 0.0
    """Linear warm-up of the cosine schedule."""
    momentum: Fraction = 0.9
    """SGD's; Adam's first moment keeps the same fraction."""
    weight_decay: NotNegative = 1e-4
    """L2 coefficient of SGD; decoupled with Adam, and there of matrices only."""
    clip_global_norm: Positive | None = 5.0
    """Scale longer gradients down to this L2 norm."""
    average_decay: Fraction = 0.0
    """Evaluate and keep an exponential moving average of the parameters with this decay; 0 for none."""

    patience: Count | None = 5
    """Stop after this many epochs without a better validation micro F1; None trains all epochs."""
    seed: Seed = 0
    """Of parameters, order, dropout, and the split of a csv."""
    devices: Count | None = None
    """Devices to split each batch over; all by default. On a CPU this many virtual devices are made (1 by default)."""


# The report's rows (2.1.1 to 2.2): SGD 0.01, momentum 0.9, decay 1e-4, clipping at 5, batch 128, 100 word features. Ours, being
# unstated: 100 LSTM features a direction, 25 + 25 for characters, dropout 0.5, the loss summed over a sentence and averaged
# over sentences, 60 epochs at most with patience 5. Its 2.2 doesn't say what lies under the CRF: the tagger of 2.1.3 here.
_NER = NerConfig(dropout=0.5)
_CHAR = dataclasses.replace(_NER, characters=True)
_CRF = dataclasses.replace(_CHAR, head="crf")

# The presets whose word embeddings start from GloVe: --glove names the file.
NEEDS_GLOVE = frozenset({"glove", "char", "layer_norm", "crf", "crf_layer_norm"})

NER_PRESETS: dict[str, tuple[str, NerConfig]] = {
    "random": ("2.1.1: BiLSTM, random word embeddings", _NER),
    "glove": ("2.1.2: BiLSTM, GloVe", _NER),
    "char": ("2.1.3: GloVe and a character BiLSTM", _CHAR),
    "layer_norm": (
        "2.1.4: char with layer normalization of the cell's output",
        dataclasses.replace(_CHAR, layer_norm="output"),
    ),
    "crf": ("2.2: char with a linear-chain CRF", _CRF),
    "crf_layer_norm": ("crf with layer normalization of the cell's output", dataclasses.replace(_CRF, layer_norm="output")),
    "best": (
        "everything on, tuned on validation data",
        NerConfig(
            characters=True,
            shape_features=8,
            hidden=128,
            layer_norm="gates",
            head="crf",
            dropout=0.5,
            word_dropout=0.05,
            fold_digits=True,
            epochs=15,
            optimizer="adam",
            learning_rate=2e-3,
            schedule="cosine",
            warmup_epochs=1,
            weight_decay=1e-4,
            average_decay=0.999,
            patience=None,
        ),
    ),
}


def from_stored(kind: type[T], stored: Mapping[str, Any], where: str) -> T:
    """The config that JSON holds; what came later has its default, what is gone is left out.

    Raises:
      ValueError: a value has another type or is out of its range; names ``where`` and each.
    """
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is one of the two above
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items() if name in fields}
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError(f"{where} is damaged: {explain(error)}") from None


def parse(read: Callable[[], T]) -> T:
    """What ``read`` makes of a command line; a value out of its range ends the process as one of another type does."""
    try:
        return read()
    except ValidationError as error:
        print(f"error: {explain(error, option=True)}", file=sys.stderr)
        sys.exit(2)


def explain(error: ValidationError, option: bool = False) -> str:
    """What is wrong with a config, in one line; fields named as options of a command where that is wanted."""
    told = []
    for problem in error.errors():
        name = str(problem["loc"][0])
        shown = f"--{name.replace('_', '-')}" if option else name
        expected = problem["msg"].lower().replace("input should", "it should")
        told.append(f"{shown}: {expected}, got {reprlib.repr(problem['input'])}")
    return "; ".join(dict.fromkeys(told))
