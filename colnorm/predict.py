"""A trained tagger on text: what ``colnorm tag`` shows, for use from Python.

tagger = predict.load("runs/crf")
for sentence in tagger.tag("Mr. Annan flew to Geneva on Monday. He stayed for two days."):
    for entity in sentence.entities:
        print(entity.type, entity.text, entity.start, entity.end, entity.posterior)
"""

import collections
import dataclasses
import hashlib
import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from colnorm import crf, temperature
from colnorm.crf import segments
from colnorm.data import text as raw_text
from colnorm.data.encoding import Encoder
from colnorm.data.schemes import entities, split_tag
from colnorm.files import write_json
from colnorm.process import available_cores
from colnorm.run_directory import TAGGER, RunDirectory
from colnorm.spelling import Spellings
from colnorm.tagger import SegmentHead, apply, argument_names, build, check_parameters, decode
from colnorm.training import Monitor

METRIC = "validation_micro_f1"
"""The figure of an epoch's record that the best epoch has the highest of."""

# Each pair of a padded length and a number of sentences is a program that is compiled once and stays: seconds and some
# 20 MiB. Over the 47,959 sentences of GMB, in batches of 64, multiples of 8 pad to 1.16 times the tokens and make 9 programs;
# powers of two alone pad to 1.41 times; with the two lengths between them here it is 1.20 times and 7 programs.
LENGTHS = (16, 24, 32, 48, *(2**power for power in range(6, 16)))
"""Padded lengths. The last one is the most tokens that a sentence may have."""

ROWS = (64, 8, 1)
"""Numbers of sentences in a batch, of short ones; longer ones are fewer."""

FEW_BATCHES = 4
"""Batches of a shape up to which a program is worth no more than a quick compilation: it saves half of the time, and costs some
tenths of a second a batch."""

WORTH_COMPILING = 2**17
"""Tokens of padding, over all batches of a shape so far, from which on the shape gets a program of its own, compiled in the
background. Until then a larger one computes it, if there is one. Compiling takes two cores as long as so many tokens."""

MOST_TOKENS = 2**13
"""Padded tokens in a batch, but for a batch of one sentence."""

MANY_TOKENS = 2**14
"""Tokens that are read ahead of many texts: enough for whole batches of every length."""

MOST_MOVES = 2**24
"""Posteriors of pairs of tags in a batch, again but for one sentence: 64 MiB in float32."""

LATER = {"longest": 12, "layers": 1}
"""Arguments of a tagger that files of older versions lack, and what those taggers would have there."""

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


class Posteriors(NamedTuple):
    """Posteriors of what a head scores; None for the rest. Of a batch, or without its axis of a sentence."""

    single: Any = None  # (B, T, K): of each tag, softmax and crf
    pair: Any = None  # (B, T-1, K, K): of neighbouring tags, crf
    segment: Any = None  # (B, T, L, Y): of whole segments by first token, duration and label, segments
    entropy: Any = None  # (B,): of all tags of a sentence, in nats


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

        def infer(params: Any, inputs: Mapping[str, jax.Array]) -> tuple[jax.Array, Posteriors]:
            emissions, chain = apply(self.model, params, inputs)
            lengths = inputs["lengths"]
            return decode(emissions, chain, lengths), posteriors(emissions, chain, lengths, temperature)

        self._without_characters = dataclasses.replace(encoder, characters=None)
        # With fewer of LLVM's optimizations it is compiled in two thirds of the time, and runs as fast.
        full = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        self._infer = jax.jit(infer, compiler_options=full)
        # Without optimizations a program is compiled in half of the time, and by the older emitter, which later releases have
        # not, in a quarter. It then takes four times as long: for one sentence still milliseconds.
        quick: dict[str, Any] = {"xla_backend_optimization_level": 0}
        if jax.__version_info__ < (0, 11):
            quick["xla_cpu_use_fusion_emitters"] = False
        options = quick if jax.default_backend() == "cpu" else None
        self._infer_quick = jax.jit(infer, compiler_options=options)
        self._batches: collections.Counter[tuple[int, int]] = collections.Counter()  # so far, by padded length and rows
        self._compiled: set[tuple[int, int, bool]] = set()  # the same, and whether quickly
        self._background = ThreadPoolExecutor(1)
        self._compiling: dict[tuple[int, int], Future[Any]] = {}  # in the background, now or before
        self._spellings = Spellings(self.model, params, encoder, options, full) if self.model.num_characters else None

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
          ValueError: it is none of these, a token is empty, or a sentence has more than ``LENGTHS[-1]`` tokens.
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
          ValueError: one of them is no text, or a sentence has more than ``LENGTHS[-1]`` tokens; says which.
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
          ValueError: ``sentences`` is something else, a word is empty, a sentence has more than ``LENGTHS[-1]`` words, or
            ``batch_size`` is below 1.
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

    def _label(
        self, sentences: Sequence[Sequence[raw_text.Token]], batch_size: int = ROWS[0]
    ) -> Iterator[tuple[int, "Labels"]]:
        """The places of the sentences that have tokens, in the order of :func:`plan`, each with its tags and posteriors."""
        batches = plan([len(sentence) for sentence in sentences], len(self.encoder.tags.names), batch_size)
        self._batches.update((length, rows) for length, rows, _ in batches)
        of_shapes = self._programs({(length, rows) for length, rows, _ in batches})
        programs = [of_shapes[length, rows] for length, rows, _ in batches]
        new = [program for program in dict.fromkeys(programs) if program not in self._compiled]
        with ThreadPoolExecutor(available_cores()) as pool:
            # Several programs are compiled side by side, the first ones run meanwhile.
            compiling = {program: pool.submit(self._run, [], *program) for program in new} if len(new) > 1 else {}
            before: tuple[list[int], Any] | None = None
            for program, (_, _, places) in zip(programs, batches, strict=True):
                if program in compiling:
                    compiling.pop(program).result()
                running = self._run([[token.word for token in sentences[place]] for place in places], *program)
                # A batch is computed while the one before it is read.
                if before is not None:
                    yield from self._rows(sentences, *before)
                before = places, running
            if before is not None:
                yield from self._rows(sentences, *before)

    def _programs(self, shapes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int, bool]]:
        """For each shape of batches the program that computes them: length, rows, and whether it is compiled quickly."""
        chosen = {}
        large = [(length, rows) for length, rows, quick in tuple(self._compiled) if not quick]
        for shape in sorted(shapes, reverse=True):
            length, rows = shape
            fitting = [other for other in large if other[0] >= length and other[1] >= rows]
            padding = {other: self._batches[shape] * (math.prod(other) - math.prod(shape)) for other in fitting}
            best = min(fitting, key=padding.__getitem__, default=None)
            if rows == 1 and (length, rows, True) in self._compiled:
                chosen[shape] = (length, rows, True)  # one sentence takes milliseconds in any program of its own
            elif best is not None:
                chosen[shape] = (*best, False)
                if padding[best] > WORTH_COMPILING:
                    self._compile_meanwhile(shape)
            elif rows == 1 or self._batches[shape] <= FEW_BATCHES:
                chosen[shape] = (length, rows, True)
            elif (length, rows, True) in self._compiled:
                chosen[shape] = (length, rows, True)
                self._compile_meanwhile(shape)
            else:
                chosen[shape] = (length, rows, False)
                large.append(shape)
        return chosen

    def _compile_meanwhile(self, shape: tuple[int, int]) -> None:
        """Compiles a shape's own program in the background, once."""
        if shape not in self._compiling:
            self._compiling[shape] = self._background.submit(self._run, [], *shape, False)

    def _run(self, words: Sequence[Sequence[str]], length: int, rows: int, quick: bool) -> tuple[jax.Array, Posteriors]:
        """Tags and posteriors of up to so many sentences of up to so many words; they may still be computed."""
        words = [*words, *[[]] * (rows - len(words))]
        inputs = self._without_characters.encode(words, length)
        if self._spellings is not None:
            inputs["character_states"] = self._spellings(words, length)
        result = (self._infer_quick if quick else self._infer)(self.params, jax.tree.map(jnp.asarray, inputs))
        self._compiled.add((length, rows, quick))
        return result

    def _rows(
        self, sentences: Sequence[Sequence[raw_text.Token]], places: Sequence[int], computed: tuple[jax.Array, Posteriors]
    ) -> Iterator[tuple[int, "Labels"]]:
        """The rows of a batch."""
        names = self.encoder.tags.names
        tags, found = jax.device_get(computed)
        if not all(np.isfinite(part).all() for part in jax.tree.leaves(found)):
            raise ValueError("the tagger's posteriors are not finite: the numbers of its parameters are too large")
        for row, place in enumerate(places):
            named = tuple(names[tag] for tag in tags[row, : len(sentences[place])])
            yield place, Labels.of_row(named, found, row)

    def _sentence(self, tokens: Sequence[raw_text.Token], labels: "Labels", text: str) -> TaggedSentence:
        found = []
        for kind, first, last in entities(labels.tags):
            start, end = tokens[first].start, tokens[last - 1].end
            posterior = entity_posterior(self.encoder.tags.names, labels, kind, first, last)
            found.append(Entity(kind, text[start:end], start, end, first, last, posterior))
        return TaggedSentence(tuple(tokens), labels.tags, tuple(found), labels.posteriors.entropy)


class Labels(NamedTuple):
    """The tags of a sentence (n,), and the posteriors that belong to it."""

    tags: tuple[str, ...]
    posteriors: Posteriors

    @classmethod
    def of_row(cls, tags: tuple[str, ...], padded: Posteriors, row: Any) -> "Labels":
        """Out of the posteriors of a padded batch."""
        n = len(tags)
        single, pair, segment = (None if part is None else part[row] for part in padded[:3])
        return cls(
            tags,
            Posteriors(
                None if single is None else single[:n],
                None if pair is None else pair[: max(n - 1, 0)],  # one move fewer than there are tags
                None if segment is None else segment[:n],
                float(padded.entropy[row]),
            ),
        )


def posteriors(
    emissions: jax.Array, chain: crf.Chain | SegmentHead | None, lengths: jax.Array, temperature: float | jax.Array = 1.0
) -> Posteriors:
    """The posteriors of a batch ``(B, T, K)`` of emissions; scores are divided by a :mod:`colnorm.temperature` first."""

    def divide(leaf: jax.Array) -> jax.Array:
        return leaf / temperature if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf  # a layout's places are no scores

    emissions, chain = jax.tree.map(divide, (emissions, chain))
    if chain is None:
        single = jax.nn.softmax(emissions)
        inside = jnp.arange(emissions.shape[1])[None] < lengths[:, None]
        return Posteriors(single, entropy=jnp.sum(_surprise(single).sum(-1), 1, where=inside))
    if isinstance(chain, SegmentHead):
        potentials = chain.potentials(emissions, lengths)
        return Posteriors(segment=segments.marginals(**potentials), entropy=segments.entropy(**potentials))
    pair = crf.pairwise_marginals(chain, emissions, lengths)
    single = _of_single_tags(chain, emissions, lengths, pair)
    # That of the first tag, and of each other tag given the one before it.
    given = _surprise(pair).sum((1, 2, 3)) - _surprise(jnp.sum(pair, 3)).sum((1, 2))
    return Posteriors(single, pair, entropy=jnp.maximum(_surprise(single[:, 0]).sum(-1) + given, 0))


def _surprise(probability: jax.Array) -> jax.Array:
    """``-p log p``, 0 where p is 0."""
    return -probability * jnp.log(jnp.maximum(probability, jnp.finfo(probability.dtype).tiny))


def _of_single_tags(chain: crf.Chain, emissions: jax.Array, lengths: jax.Array, pair: jax.Array) -> jax.Array:
    """:func:`colnorm.crf.marginals` as sums of the pairwise ones: a third fewer instructions to compile, and no second pass."""
    times = jnp.arange(emissions.shape[1])[None, :, None]
    leaving, arriving = (jnp.pad(jnp.sum(pair, axis), ((0, 0), place, (0, 0))) for axis, place in ((3, (0, 1)), (2, (1, 0))))
    # A sentence of one token has no pairs.
    alone = chain.start[None] + emissions[:, 0] + chain.end[None]  # (B, K)
    highest = jnp.max(alone, 1, keepdims=True)
    alone = jnp.where(highest > -jnp.inf, jax.nn.softmax(jnp.where(highest > -jnp.inf, alone, 0)), 0)
    several = jnp.where(times + 1 < lengths[:, None, None], leaving, arriving)
    return jnp.where(lengths[:, None, None] == 1, jnp.where(times == 0, alone[:, None], 0), several)


def entity_posterior(tag_names: Sequence[str], labels: Labels, kind: str, first: int, last: int) -> float:
    """The probability of an entity of this type over the tokens from ``first`` to before ``last``, no shorter and no longer.

    Segments have posteriors of their own. Of tags it is
    ``p(y_first = B) prod p(y_t = I | y_t-1) p(y_last != I | y_last-1)``: given the words, they are a Markov chain.
    """
    if (whole := labels.posteriors.segment) is not None:
        label = segments.TagLayout.label_names(tag_names).index(kind)
        return min(float(whole[first, last - first - 1, label]), 1.0)
    begin, inside = (tag_names.index(f"{prefix}-{kind}") for prefix in "BI")
    single, pair = labels.posteriors.single, labels.posteriors.pair

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


def plan(lengths: Sequence[int], num_tags: int, batch_size: int = ROWS[0]) -> list[tuple[int, int, list[int]]]:
    """The batches in which sentences of these lengths are tagged: few shapes, so that little is compiled.

    Sentences of like length are together, the longest first. Batches have as many rows as are more than half full, of the
    numbers in :data:`ROWS` that :data:`MOST_TOKENS` and :data:`MOST_MOVES` allow at that length: 3 a padded length at most.

    Returns:
      Padded length, rows, and the places in ``lengths`` of as many sentences or fewer; those without tokens are left out.

    Raises:
      ValueError: one is longer than the last of :data:`LENGTHS`.
    """
    order = sorted((place for place, length in enumerate(lengths) if length), key=lambda place: -lengths[place])
    if order and lengths[order[0]] > LENGTHS[-1]:
        raise ValueError(
            f"expected sentences of at most {LENGTHS[-1]:,} tokens, got one of {lengths[order[0]]:,}, number {order[0] + 1}; "
            "cut it: of a text, by a blank line"
        )
    batches = []
    first = 0
    while first < len(order):
        rest = len(order) - first
        length = next(length for length in LENGTHS if length >= lengths[order[first]])
        tokens = min(MOST_TOKENS, MOST_MOVES // num_tags**2)
        most = min(batch_size, 1 << max(tokens // length, 1).bit_length() - 1)
        rows = next(size for size in (min(rows, most) for rows in ROWS) if size < 2 * rest)
        batches.append((length, rows, order[first : first + rows]))
        first += rows
    return batches


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


def write_tagger(path: Path, fields: Mapping[str, Any], encoder: Encoder) -> None:
    """Stores what makes a tagger out of parameters in ``tagger.json`` of a run directory, and a digest of it."""
    write_json(path / TAGGER, tagger_to_json(fields, encoder))


def tagger_to_json(fields: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    """What :func:`tagger_of_json` reads: the arguments of :func:`colnorm.tagger.build`, the encoder, and a digest of both."""
    stored = {"tagger": dict(fields), "encoder": encoder.to_json()}
    return {**stored, DIGEST: digest(stored)}


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
        return tagger_of_json(json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))
    except RecursionError:
        problem = "it is nested too deeply"
    except UnicodeDecodeError as error:
        problem = f"expected utf-8, got the byte 0x{data[error.start]:02x} at {error.start:,}"
    except json.JSONDecodeError as error:
        problem = f"expected JSON, but {error}" + (": it is cut off" if error.pos >= len(error.doc.rstrip()) else "")
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"{file} doesn't describe a tagger: {problem}; restore it from a copy, or train again")


def tagger_of_json(stored: Any) -> tuple[dict[str, Any], Encoder]:
    """:func:`read_tagger` of the parsed file.

    Raises:
      ValueError: it is not what :func:`tagger_to_json` made.
    """
    if not isinstance(stored, dict) or stored.keys() - {DIGEST} != {"tagger", "encoder"}:
        got = ", ".join(map(reprlib.repr, stored)) if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"expected the keys tagger, encoder and {DIGEST}, got {got or 'none'}")
    fields = stored["tagger"]
    if DIGEST in stored and stored.pop(DIGEST) != digest(stored):
        raise ValueError(f"its {DIGEST} is that of another content: it was changed or damaged after it was written")
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object as tagger, got {reprlib.repr(fields)}")
    fields = {**LATER, **fields}
    missing = [name for name in argument_names() if name not in fields]
    if missing:
        raise ValueError(f"expected all arguments of a tagger, got none of {', '.join(missing)}")
    build(fields)
    encoder = Encoder.from_json(stored["encoder"])
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


def _check_bio(names: Sequence[str]) -> None:
    """Raises ``ValueError`` unless the tags are in BIO, with B-x and I-x of each type x, as entities need."""
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
