"""A trained tagger on text: what ``colnorm tag`` shows, for use from Python.

tagger = predict.load("runs/crf")
for sentence in tagger.tag("Mr. Annan flew to Geneva on Monday. He stayed for two days."):
    for entity in sentence.entities:
        print(entity.type, entity.text, entity.start, entity.end, entity.posterior)
"""

import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import numpy as np

from colnorm import temperature
from colnorm.data import text as raw_text
from colnorm.data.encoding import Encoder
from colnorm.data.schemes import entities, split_tag
from colnorm.posteriors import Labels, entity_posterior
from colnorm.programs import ROWS, Programs
from colnorm.run_directory import TAGGER, RunDirectory
from colnorm.tagger import build, check_parameters
from colnorm.tagger_file import read_tagger, write_tagger
from colnorm.training import Monitor

__all__ = ["METRIC", "Entity", "Predictor", "TaggedSentence", "load", "read_token_lines", "write_tagger"]

METRIC = "validation_micro_f1"
"""The figure of an epoch's record that the best epoch has the highest of."""

MANY_TOKENS = 2**14
"""Tokens that are read ahead of many texts: enough for whole batches of every length."""


class Entity(NamedTuple):
    """An entity of a tagged sentence.

    Attributes:
      type: ``per`` say.
      text: its characters, or its tokens joined by spaces where tokens were given.
      start, end: half-open range of characters in the text; of the joined tokens where tokens were given.
      first, last: half-open range of tokens in the sentence.
      posterior: the model's probability of an entity of this type from the first to the last token, no shorter and no longer:
        exact under a CRF, of tags or of segments; a softmax head takes the tags for independent.

    Example:
      >>> from colnorm.predict import Entity
      >>> entity = Entity("per", "Mr. Annan", start=0, end=9, first=0, last=2, posterior=0.97)
      >>> "Mr. Annan flew to Geneva."[entity.start : entity.end]
      'Mr. Annan'
    """

    type: str
    text: str
    start: int
    end: int
    first: int
    last: int
    posterior: float


class TaggedSentence(NamedTuple):
    """A tagged sentence: its tokens with their places in the text, the tag of each, the entities, and how unsure all of it is.

    ``entropy`` is that of the model's distribution over all tags of the sentence, in nats: 0 where there is no doubt.

    Example:
      >>> from colnorm.data.text import Token
      >>> from colnorm.predict import Entity, TaggedSentence
      >>> tokens = (Token("Annan", 0, 5), Token("flew", 6, 10))
      >>> sentence = TaggedSentence(tokens, ("B-per", "O"), (Entity("per", "Annan", 0, 5, 0, 1, 0.97),))
      >>> [entity.text for entity in sentence.entities]
      ['Annan']
    """

    tokens: tuple[raw_text.Token, ...]
    tags: tuple[str, ...]
    entities: tuple[Entity, ...]
    entropy: float = 0.0


class Predictor:
    """A tagger with its parameters and vocabularies; :func:`load` makes one.

    Attributes:
      encoder: the vocabularies.
      fields: the arguments of :func:`colnorm.tagger.build`.
      model: the :class:`~colnorm.Tagger`.
      params: its parameters.
      temperature: by what scores are divided for posteriors, see :mod:`colnorm.temperature`; tags don't depend on it.

    Example:
      >>> import jax
      >>> from colnorm import tagger
      >>> from colnorm.data.encoding import Encoder
      >>> from colnorm.predict import Predictor
      >>> names = ["O", "B-per", "I-per"]
      >>> encoder = Encoder.build([["Ann", "sleeps"]], names, characters=False)
      >>> fields = {"tag_names": names, "num_words": len(encoder.words), "word_features": 4, "hidden": 4, "dtype": "float32"}
      >>> arrays = encoder.encode([["Ann"]], length=1)
      >>> params = tagger.build(fields).init(jax.random.key(0), **arrays)["params"]  # not trained
      >>> (sentence,) = Predictor(encoder, fields, params).tag("Ann sleeps.")
      >>> [token.word for token in sentence.tokens], len(sentence.tags)
      (['Ann', 'sleeps', '.'], 3)
    """

    def __init__(self, encoder: Encoder, fields: Mapping[str, Any], params: Any, temperature: float = 1.0):
        self.encoder = encoder
        self.fields = dict(fields)
        self.temperature = temperature
        self.model = build(fields)
        self.params = params
        self._programs = Programs(self.model, params, encoder, temperature)

    @property
    def types(self) -> tuple[str, ...]:
        """The types of entity that it finds."""
        return tuple(dict.fromkeys(split_tag(name)[1] for name in self.encoder.tags.names if name != "O"))

    def tag(self, text_or_tokens: str | Sequence[str] | Sequence[Sequence[str]]) -> list[TaggedSentence]:
        """Tags raw text, which is split into sentences and tokens first, or what is split already.

        Args:
          text_or_tokens: a text, one sentence as a sequence of its tokens, or a sequence of such sentences. An empty text and
            an empty sequence have no sentences.

        Raises:
          ValueError: it is none of these, a token is empty, or a sentence has too many tokens.
        """
        if isinstance(text_or_tokens, str):
            found = raw_text.sentences(text_or_tokens)
            return self._tag(found, [text_or_tokens] * len(found))
        if _is_words(text_or_tokens) and len(text_or_tokens):
            return self.tag_tokens([text_or_tokens])
        return self.tag_tokens(text_or_tokens)

    def tag_many(self, texts: Iterable[str]) -> Iterator[list[TaggedSentence]]:
        """Tags many texts, a generator say: yields the sentences of each, in order, while it reads on.

        Some :data:`MANY_TOKENS` tokens are read ahead and share batches, so memory doesn't grow with the number of texts.

        Raises:
          ValueError: one of them is no text, or a sentence has too many tokens; says which.
        """
        waiting: list[tuple[str, list[list[raw_text.Token]]]] = []
        tokens = first = 0

        def flush() -> Iterator[list[TaggedSentence]]:
            nonlocal tokens, first
            of_each = [(text, sentence) for text, found in waiting for sentence in found]
            try:
                tagged = iter(self._tag([sentence for _, sentence in of_each], [text for text, _ in of_each]))
            except ValueError as error:
                raise ValueError(f"texts {first + 1:,} to {first + len(waiting):,}: {error}") from None
            for _, found in waiting:
                yield [next(tagged) for _ in found]
            first, tokens = first + len(waiting), 0
            waiting.clear()

        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"text {first + len(waiting) + 1:,}: expected a text, got {_describe(text)}")
            waiting.append((text, raw_text.sentences(text)))
            tokens += sum(map(len, waiting[-1][1]))
            if tokens >= MANY_TOKENS:
                yield from flush()
        yield from flush()

    def tag_tokens(self, sentences: Sequence[Sequence[str]], batch_size: int = ROWS[0]) -> list[TaggedSentence]:
        """Tags sentences given as their tokens; character ranges are those in the tokens joined by single spaces.

        Args:
          sentences: each a sequence of words, none of them empty.
          batch_size: sentences tagged at once, at most.

        Raises:
          ValueError: ``sentences`` is something else, a word is empty, a sentence has more words than the
            last of :data:`colnorm.programs.LENGTHS`, or ``batch_size`` is below 1.
        """
        if not _is_sequence(sentences) or not all(_is_words(words) for words in sentences):
            raise ValueError(
                "expected a text, the tokens of a sentence, or a sequence of sentences, each a sequence of its tokens; got "
                + _describe(sentences)
            )
        if batch_size < 1:
            raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
        found = []
        for words in sentences:
            if not all(words):
                raise ValueError(f"a word is empty in the sentence {reprlib.repr(list(words))}")
            ends = np.cumsum([len(word) + 1 for word in words])
            placed = zip(words, ends.tolist(), strict=True)
            found.append([raw_text.Token(word, end - 1 - len(word), end - 1) for word, end in placed])
        return self._tag(found, [" ".join(words) for words in sentences], batch_size)

    def _tag(
        self, sentences: Sequence[Sequence[raw_text.Token]], texts: Sequence[str], batch_size: int = ROWS[0]
    ) -> list[TaggedSentence]:
        """The sentences, each with the text that its tokens' places are in, tagged; in order."""
        tagged = [TaggedSentence((), (), ())] * len(sentences)
        # One batch after the other: all posteriors at once would take a kilobyte a token.
        for place, labels in self._label(sentences, batch_size):
            tagged[place] = self._sentence(sentences[place], labels, texts[place])
        return tagged

    def _label(self, sentences: Sequence[Sequence[raw_text.Token]], batch_size: int = ROWS[0]) -> Iterator[tuple[int, Labels]]:
        """The places of the sentences that have tokens, in the order of the batches, each with its tags and posteriors."""
        names = self.encoder.tags.names
        words = [[token.word for token in sentence] for sentence in sentences]
        for places, computed in self._programs.compute(words, batch_size):
            tags, found = jax.device_get(computed)
            if not all(np.isfinite(part).all() for part in jax.tree.leaves(found)):
                raise ValueError("the tagger's posteriors are not finite: the numbers of its parameters are too large")
            for row, place in enumerate(places):
                named = tuple(names[tag] for tag in tags[row, : len(words[place])])
                yield place, Labels.of_row(named, found, row)

    def _sentence(self, tokens: Sequence[raw_text.Token], labels: Labels, text: str) -> TaggedSentence:
        found = []
        for kind, first, last in entities(labels.tags):
            start, end = tokens[first].start, tokens[last - 1].end
            posterior = entity_posterior(self.encoder.tags.names, labels, kind, first, last)
            found.append(Entity(kind, text[start:end], start, end, first, last, posterior))
        return TaggedSentence(tuple(tokens), labels.tags, tuple(found), labels.posteriors.entropy)


def load(run_directory: str | os.PathLike[str], checkpoint: str = "best") -> Predictor:
    """The tagger of a run directory.

    Args:
      run_directory: as ``colnorm train`` writes it.
      checkpoint: ``best`` by validation micro F1, ``latest``, or the number of an epoch that is stored.

    Raises:
      FileNotFoundError: there is no run, no such checkpoint, or the run is not a tagger's.
      ValueError: ``tagger.json`` or the checkpoint is damaged, or the parameters are not finite or another tagger's.
    """
    with RunDirectory.open(run_directory) as run:
        fields, encoder = read_tagger(run.path)
        epoch = run.choose(checkpoint, Monitor(METRIC))
        params = run.restore_variables(epoch)["params"]
        degree = temperature.read(run, epoch)
    try:
        check_parameters(build(fields), params)
    except ValueError as error:
        raise ValueError(
            f"{run.path}: the checkpoint of epoch {epoch} and {TAGGER} make no tagger: {error}; "
            "restore both from a copy, choose another checkpoint, or train again"
        ) from None
    return Predictor(encoder, fields, params, degree)


def _is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it is one of separate things: no text, no bytes, and nothing that can be read only once."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _is_words(value: Any) -> TypeGuard[Sequence[str]]:
    return _is_sequence(value) and all(isinstance(word, str) for word in value)


def _describe(value: Any, depth: int = 2) -> str:
    """The types of it and of what it holds, as "list of int and str"."""
    name = type(value).__name__
    if not _is_sequence(value) or not depth:
        return name
    return f"{name} of " + (" and ".join(sorted({_describe(part, depth - 1) for part in value})) or "nothing")


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
