"""A trained tagger on text: what ``experiments.tag`` shows, for use from Python.

tagger = predict.load("runs/crf")
for sentence in tagger.tag("Mr. Annan flew to Geneva on Monday. He stayed for two days."):
    for entity in sentence.entities:
        print(entity.type, entity.text, entity.start, entity.end, entity.posterior)
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import crf
from colnorm.data import text as raw_text
from colnorm.data.encoding import Encoder
from colnorm.data.schemes import entities
from colnorm.files import write_json
from colnorm.run_directory import RunDirectory
from colnorm.tagger import apply, build, decode
from colnorm.training import Monitor

METRIC = "validation_micro_f1"
"""The figure of an epoch's record that the best epoch has the highest of."""


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
    """
    run = RunDirectory.open(run_directory)
    fields, encoder = read_tagger(run.path)
    params = run.restore_variables(run.choose(checkpoint, Monitor(METRIC)))["params"]
    run.close()
    return Predictor(encoder, fields, params)


def write_tagger(path: Path, fields: Mapping[str, Any], encoder: Encoder) -> None:
    """Stores what makes a tagger out of parameters in ``tagger.json`` of a run directory."""
    write_json(path / "tagger.json", {"tagger": dict(fields), "encoder": encoder.to_json()})


def read_tagger(path: Path) -> tuple[dict[str, Any], Encoder]:
    """The arguments of :func:`colnorm.tagger.build` and the encoder that :func:`write_tagger` stored.

    Raises:
      FileNotFoundError: the run directory holds no ``tagger.json``: it is not a tagger's.
    """
    file = path / "tagger.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} holds no tagger: there is no tagger.json in it")
    stored = json.loads(file.read_text(encoding="utf-8"))
    return stored["tagger"], Encoder.from_json(stored["encoder"])


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
