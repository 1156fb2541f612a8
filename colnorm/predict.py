"""A trained tagger on text: what ``experiments.tag`` shows, for use from Python.

tagger = predict.load("runs/crf")
for sentence in tagger.tag("Mr. Annan flew to Geneva on Monday. He stayed for two days."):
    for entity in sentence.entities:
        print(entity.type, entity.text, entity.start, entity.end, entity.posterior)
"""

import hashlib
import json
import math
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import crf
from colnorm.data import text as raw_text
from colnorm.data.encoding import Encoder
from colnorm.data.schemes import entities, split_tag
from colnorm.files import write_json
from colnorm.run_directory import TAGGER, RunDirectory
from colnorm.tagger import apply, argument_names, build, check_parameters, decode
from colnorm.training import Monitor

METRIC = "validation_micro_f1"
"""The figure of an epoch's record that the best epoch has the highest of."""

DIGEST = "sha256"
"""The key of ``tagger.json`` that holds the digest of all the others."""


class Entity(NamedTuple):
    """An entity of a tagged sentence.

    Attributes:
      type: ``per`` say.
      text: its characters, or its tokens joined by spaces where tokens were given.
      start, end: half-open range of characters in the text; of the joined tokens where tokens were given.
      first, last: half-open range of tokens in the sentence.
      posterior: the model's probability of an entity of this type from the first to the last token, no shorter and no longer:
        exact under a CRF; a softmax head takes the tags for independent.
    """

    type: str
    text: str
    start: int
    end: int
    first: int
    last: int
    posterior: float


class Sentence(NamedTuple):
    """A tagged sentence: its tokens with their places in the text, the tag of each, and the entities."""

    tokens: tuple[raw_text.Token, ...]
    tags: tuple[str, ...]
    entities: tuple[Entity, ...]


class Predictor:
    """A tagger with its parameters and vocabularies; :func:`load` makes one.

    Attributes:
      encoder: the vocabularies.
      model: the :class:`~colnorm.Tagger`.
      params: its parameters.
    """

    def __init__(self, encoder: Encoder, fields: Mapping[str, Any], params: Any):
        self.encoder = encoder
        self.model = build(fields)
        self.params = params

        @jax.jit
        def infer(params: Any, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array | None]:
            emissions, chain = apply(self.model, params, inputs)
            lengths = inputs["lengths"]
            return decode(emissions, chain, lengths), *posteriors(emissions, chain, lengths)

        self._infer = infer

    def tag(self, text_or_tokens: str | Sequence[str]) -> list[Sentence]:
        """Tags raw text, which is split into sentences and tokens first, or one sentence given as its tokens."""
        if isinstance(text_or_tokens, str):
            found = raw_text.sentences(text_or_tokens)
            return [
                self._sentence(tokens, labels, text_or_tokens) for tokens, labels in zip(found, self._label(found), strict=True)
            ]
        return self.tag_tokens([text_or_tokens])

    def tag_tokens(self, sentences: Sequence[Sequence[str]], batch_size: int = 64) -> list[Sentence]:
        """Tags sentences given as their tokens; character ranges are those in the tokens joined by single spaces.

        Args:
          sentences: each a sequence of words, none of them empty.
          batch_size: sentences tagged at once.

        Raises:
          ValueError: a word is empty.
        """
        found = []
        for words in sentences:
            if not all(words):
                raise ValueError(f"a word is empty in the sentence {list(words)!r}")
            ends = np.cumsum([len(word) + 1 for word in words])
            placed = zip(words, ends.tolist(), strict=True)
            found.append([raw_text.Token(word, end - 1 - len(word), end - 1) for word, end in placed])
        labels = self._label(found, batch_size)
        return [
            self._sentence(tokens, label, " ".join(words))
            for words, tokens, label in zip(sentences, found, labels, strict=True)
        ]

    def _label(self, sentences: Sequence[Sequence[raw_text.Token]], batch_size: int = 64) -> list["Labels"]:
        """Tags and posteriors of each sentence, in order; sentences of like length are tagged together."""
        labels: list[Labels] = [Labels((), np.zeros((0, 0)), None)] * len(sentences)
        names = self.encoder.tags.names
        order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            # Few shapes, few compilations: lengths in eights, numbers of sentences in powers of two.
            length = max(8 * math.ceil(max(len(sentences[place]) for place in places) / 8), 8)
            rows = min(1 << (len(places) - 1).bit_length(), batch_size)
            words = [[token.word for token in sentences[place]] for place in places]
            inputs = self.encoder.encode(words + [[]] * (rows - len(places)), length)
            tags, single, pair = jax.device_get(self._infer(self.params, jax.tree.map(jnp.asarray, inputs)))
            for row, place in enumerate(places):
                n = len(sentences[place])
                named = tuple(names[tag] for tag in tags[row, :n])
                labels[place] = Labels.of_row(named, single[row], None if pair is None else pair[row])
        return labels

    def _sentence(self, tokens: Sequence[raw_text.Token], labels: "Labels", text: str) -> Sentence:
        found = []
        for kind, first, last in entities(labels.tags):
            start, end = tokens[first].start, tokens[last - 1].end
            posterior = entity_posterior(self.encoder.tags.names, labels, kind, first, last)
            found.append(Entity(kind, text[start:end], start, end, first, last, posterior))
        return Sentence(tuple(tokens), labels.tags, tuple(found))


class Labels(NamedTuple):
    """Tags (n,), posterior of each (n, K), and of neighbours (n - 1, K, K), None for a softmax head."""

    tags: tuple[str, ...]
    single: np.ndarray
    pair: np.ndarray | None

    @classmethod
    def of_row(cls, tags: tuple[str, ...], single: np.ndarray, pair: np.ndarray | None) -> "Labels":
        """Out of padded posteriors ``(T, K)`` and ``(T-1, K, K)``."""
        return cls(tags, single[: len(tags)], None if pair is None else pair[: max(len(tags) - 1, 0)])


def posteriors(emissions: jax.Array, chain: crf.Chain | None, lengths: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Posteriors of each tag ``(B, T, K)`` and of neighbouring ones ``(B, T-1, K, K)``; without a CRF None for these."""
    if chain is None:
        return jax.nn.softmax(emissions), None
    return crf.marginals(chain, emissions, lengths), crf.pairwise_marginals(chain, emissions, lengths)


def entity_posterior(tag_names: Sequence[str], labels: Labels, kind: str, first: int, last: int) -> float:
    """The probability of an entity of this type over the tokens from ``first`` to before ``last``, no shorter and no longer.

    ``p(y_first = B) prod p(y_t = I | y_t-1) p(y_last != I | y_last-1)``: given the words, tags are a Markov chain.
    """
    begin, inside = (tag_names.index(f"{prefix}-{kind}") for prefix in "BI")
    single, pair = labels.single.astype(np.float64), labels.pair

    def move(step: int, tag: int) -> float:
        """p(y_step = inside | y_step-1 = tag)."""
        if pair is None:
            return float(single[step, inside])
        # Both parts from the pairwise posterior, so that the ratio is a probability whatever the rounding.
        row = pair[step - 1, tag].astype(np.float64)
        return float(row[inside] / max(row.sum(), np.finfo(np.float64).tiny))

    tags = [begin, *[inside] * (last - first - 1)]
    probability = float(single[first, begin])
    for step in range(first + 1, last):
        probability *= move(step, tags[step - first - 1])
    if last < len(labels.tags):
        probability *= 1 - move(last, tags[-1])
    return min(probability, 1.0)


def load(run_directory: str | os.PathLike[str], checkpoint: str = "best") -> Predictor:
    """The tagger of a run directory.

    Args:
      run_directory: as ``experiments.train_ner`` writes it.
      checkpoint: ``best`` by validation micro F1, ``latest``, or the number of an epoch that is stored.

    Raises:
      FileNotFoundError: there is no run, no such checkpoint, or the run is not a tagger's.
      ValueError: ``tagger.json`` or the checkpoint is damaged, or the parameters are not finite or another tagger's.
    """
    with RunDirectory.open(run_directory) as run:
        fields, encoder = read_tagger(run.path)
        epoch = run.choose(checkpoint, Monitor(METRIC))
        params = run.restore_variables(epoch)["params"]
    try:
        check_parameters(build(fields), params)
    except ValueError as error:
        raise ValueError(
            f"{run.path}: the checkpoint of epoch {epoch} and {TAGGER} make no tagger: {error}; "
            "restore both from a copy, choose another checkpoint, or train again"
        ) from None
    return Predictor(encoder, fields, params)


def write_tagger(path: Path, fields: Mapping[str, Any], encoder: Encoder) -> None:
    """Stores what makes a tagger out of parameters in ``tagger.json`` of a run directory, and a digest of it."""
    stored = {"tagger": dict(fields), "encoder": encoder.to_json()}
    write_json(path / TAGGER, {**stored, DIGEST: digest(stored)})


def digest(stored: Any) -> str:
    """SHA-256 of what JSON holds, however it is laid out: neither spaces nor the order of keys count."""
    return hashlib.sha256(_canonical(stored).encode("ascii")).hexdigest()


def read_tagger(path: Path) -> tuple[dict[str, Any], Encoder]:
    """The arguments of :func:`colnorm.tagger.build` and the encoder that :func:`write_tagger` stored.

    They are checked by the digest, which files of older versions lack, and against each other. Whether they fit a checkpoint
    is for :func:`colnorm.tagger.check_parameters`.

    Raises:
      FileNotFoundError: the run directory holds no ``tagger.json``: it is not a tagger's.
      ValueError: the file can't be read, or doesn't hold what was written.
    """
    file = path / TAGGER
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} holds no tagger: there is no {TAGGER} in it") from None
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from None
    try:
        return _tagger_of_json(json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))
    except RecursionError:
        problem = "it is nested too deeply"
    except UnicodeDecodeError as error:
        problem = f"expected utf-8, got the byte 0x{data[error.start]:02x} at {error.start:,}"
    except json.JSONDecodeError as error:
        problem = f"expected JSON, but {error}" + (": it is cut off" if error.pos >= len(error.doc.rstrip()) else "")
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"{file} doesn't describe a tagger: {problem}; restore it from a copy, or train again")


def _tagger_of_json(stored: Any) -> tuple[dict[str, Any], Encoder]:
    """:func:`read_tagger` of the parsed file."""
    if not isinstance(stored, dict) or stored.keys() - {DIGEST} != {"tagger", "encoder"}:
        got = ", ".join(map(reprlib.repr, stored)) if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"expected the keys tagger, encoder and {DIGEST}, got {got or 'none'}")
    fields = stored["tagger"]
    if DIGEST in stored and stored.pop(DIGEST) != digest(stored):
        raise ValueError(f"its {DIGEST} is that of another content: it was changed or damaged after it was written")
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object as tagger, got {reprlib.repr(fields)}")
    missing = [name for name in argument_names() if name not in fields]
    if missing:
        raise ValueError(f"expected all arguments of a tagger, got none of {', '.join(missing)}")
    build(fields)
    encoder = _encoder_of_json(stored["encoder"])
    _check_bio(encoder.tags.names)
    agreement = {
        "tag_names": list(encoder.tags.names),
        "num_words": len(encoder.words),
        "num_characters": 0 if encoder.characters is None else len(encoder.characters),
    }
    for name, expected in agreement.items():
        if fields[name] != expected:
            got = reprlib.repr(fields[name])
            raise ValueError(f"expected {name} of the tagger to be the encoder's, {reprlib.repr(expected)}, got {got}")
    if encoder.shapes is not (fields["shape_features"] > 0):
        read = "the encoder makes shapes" if encoder.shapes else "the encoder makes no shapes"
        raise ValueError(f"{read}, but shape_features of the tagger is {fields['shape_features']}")
    return fields, encoder


def _encoder_of_json(stored: Any) -> Encoder:
    """The encoder, if ``stored`` is the very JSON that it writes."""
    try:
        encoder = Encoder.from_json(stored)
        same = _canonical(encoder.to_json()) == _canonical(stored)
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        # Of parts of other types, whose constructors check little.
        raise ValueError(f"the encoder can't be made of it ({type(error).__name__}: {error})") from None
    if not same:
        raise ValueError("the encoder that it makes is not the one that wrote it: a value is of another type or has no meaning")
    return encoder


def _check_bio(names: Sequence[str]) -> None:
    """Raises ``ValueError`` unless the tags are in BIO, with B-x and I-x of each type x, as entities need."""
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected tags that are strings, got {reprlib.repr(names)}")
    for name in names:
        prefix, kind = split_tag(name, "BI")
        other = {"O": "O", "B": f"I-{kind}", "I": f"B-{kind}"}[prefix]
        if other not in names:
            raise ValueError(f"expected tags in BIO, got {name!r} without {other!r}")


def _canonical(value: Any) -> str:
    """The one text of what JSON holds."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"expected finite numbers, got {name}")


def read_token_lines(lines: Iterable[str]) -> list[list[str]]:
    """Sentences out of lines with a token in the first column each; blank lines stand between sentences."""
    sentences: list[list[str]] = [[]]
    for line in lines:
        columns = line.rstrip("\r\n").replace("\t", " ").split(" ")
        if columns[0]:
            sentences[-1].append(columns[0])
        elif sentences[-1]:
            sentences.append([])
    return [sentence for sentence in sentences if sentence]
