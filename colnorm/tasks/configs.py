"""What can be asked of a training: a frozen dataclass. Types and ranges are checked wherever one is made."""

import dataclasses
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Interval
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

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
class TaggingConfig:
    """A sequence tagger. Rates are per step, epochs count from 1."""

    data: str = "sample"
    """sample (sentences of a grammar, no download); a file: GMB's ner_dataset.csv, JSON lines or CoNLL columns; or a directory
    of one for each split."""
    split: tuple[Count, Count, Count] = (60, 20, 20)
    """Percents of the training, validation and test data where data is one file."""
    keep_repeats: bool = False
    """Keep sentences that are in two splits, as published comparisons do; without it they leave the earlier one."""
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
    layers: Count = 1
    """LSTMs over words, one on the other; each from the second on adds to what it reads."""
    layer_norm: Literal["gates", "output"] | None = None
    """Normalize inside the cell: gates as Ba et al. (2016), output as the report."""
    head: Literal["softmax", "crf", "segments"] = "softmax"
    """Each tag for itself, a linear-chain CRF, or a semi-Markov CRF over entities."""
    constrained: bool = True
    """The CRF forbids moves that BIO doesn't allow."""
    longest: Count = 12
    """The most tokens of an entity with the head segments; longer ones of the data count as several."""
    dropout: Fraction = 0.0
    """At the input and the output of the LSTM over words."""
    word_dropout: Fraction = 0.0
    """Rate at which training replaces words by the unknown word."""
    rare_dropout: NotNegative = 0.0
    """a: training replaces a word that it holds n times by the unknown word at the rate a / (a + n), so that what is unknown
    later is like what it stood for."""
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
    stream: bool = False
    """Keep the data with the host and send each batch, for data that is too large for the devices."""
    seed: Seed = 0
    """Of parameters, order, dropout, and the split of a csv."""
    devices: Count | None = None
    """Devices to split each batch over, of each process; all by default.
    On a CPU this many virtual ones are made (1 by default)."""


RECOMMENDED = TaggingConfig(
    characters=True,
    character_features=50,
    character_hidden=50,
    shape_features=8,
    hidden=128,
    layer_norm="gates",
    head="crf",
    dropout=0.5,
    rare_dropout=0.5,
    fold_digits=True,
    epochs=15,
    optimizer="adam",
    learning_rate=2e-3,
    schedule="cosine",
    warmup_epochs=1,
    weight_decay=1e-4,
    average_decay=0.999,
    patience=None,
)
"""What ``colnorm train`` begins with: tuned on the validation data of GMB."""


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
