"""A sequence tagger: words (+ characters, + shapes) -> bidirectional LSTM -> emissions (-> CRF), its loss and its decoding.

The model of Lample et al. (2016, https://arxiv.org/abs/1603.01360), each part of which can be left out.
"""

import dataclasses
import reprlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colnorm import crf
from colnorm.characters import CharacterReader
from colnorm.crf import segments
from colnorm.data.stored import FLAG, Kind
from colnorm.data.vocabulary import NUM_SHAPES, UNKNOWN
from colnorm.recurrent import LSTM, Bidirectional, LayerNormLSTM
from colnorm.recurrent.layers import parameter_shapes as lstm_shapes

Array = jax.Array

INPUTS = ("words", "lengths", "characters", "character_lengths", "shapes", "character_states")
"""What a tagger may read of a batch."""

HEADS = ("softmax", "crf", "segments")
LAYER_NORMS = (None, "gates", "output")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def _is_list_of_tags(value: Any) -> bool:
    listed = isinstance(value, (list, tuple)) and all(isinstance(tag, str) for tag in value)
    return listed and 0 < len(set(value)) == len(value)


_RATE = Kind("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
_SIZE = Kind("an integer of at least 0", lambda value: type(value) is int and value >= 0)
_COUNT = Kind("a positive integer", lambda value: type(value) is int and value > 0)
_KINDS = {
    "tag_names": Kind("distinct names", _is_list_of_tags),
    "num_words": _COUNT,
    "layers": _COUNT,
    "longest": _COUNT,
    "constrained": FLAG,
    "dropout": _RATE,
    "word_dropout": _RATE,
    "layer_norm": Kind("null, gates or output", lambda value: value in LAYER_NORMS),
    "head": Kind(" or ".join(HEADS), lambda value: value in HEADS),
    "dtype": Kind(" or ".join(DTYPES), lambda value: value in DTYPES),
}
"""What the arguments may be as JSON holds them; those without an entry are sizes."""


class SegmentHead(NamedTuple):
    """What the head ``segments`` has instead of a chain over tags.

    Attributes:
      chain: over "O", each a segment of one token, and the types of entity, each entity a segment.
      layout: of the tags.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import Tagger
      >>> model = Tagger(("O", "B-per", "I-per"), num_words=50, word_features=8, hidden=8, head="segments", longest=4)
      >>> words, lengths = jnp.array([[2, 3, 4]]), jnp.array([3])
      >>> emissions, head = model.apply(model.init(jax.random.key(0), words, lengths), words, lengths)
      >>> emissions.shape, head.chain.durations.shape  # of tags, of durations and labels
      ((1, 3, 3), (4, 2))
    """

    chain: segments.SegmentChain
    layout: segments.TagLayout

    def potentials(self, emissions: Array, lengths: Array) -> dict[str, Any]:
        """What the functions of :mod:`colnorm.crf.segments` take, of the tags' emissions ``(B, T, K)``."""
        of_labels, spans = segments.tag_scores(self.layout, emissions)
        return {"chain": self.chain, "emissions": of_labels, "lengths": lengths, "spans": spans}


class Tagger(nn.Module):
    """Emissions for every token of a sentence, and the chain over its tags.

    ``x_t = dropout([word embedding, character BiLSTM's two last states, shape embedding])``,
    ``emissions_t = W dropout(BiLSTM(x)_t) + b``.

    Attributes:
      tag_names: the tags in BIO, their order the order of the emissions.
      num_words: size of the word vocabulary.
      word_features: size of a word's embedding.
      hidden: features of the LSTM in each direction.
      num_characters: size of the character vocabulary; 0 leaves the character BiLSTM out.
      character_features, character_hidden: size of a character's embedding, and of their LSTM in each direction.
      shape_features: size of the embedding of a word's shape (capitalisation); 0 leaves it out.
      layers: bidirectional LSTMs over words, one on the other. Each from the second on adds to what it reads (a residual).
      layer_norm: None for plain LSTMs, else where the cells normalize (:class:`~colnorm.LayerNormLSTM`); it concerns the
        LSTM over words, the one over characters stays plain.
      head: ``softmax``, each tag for itself, ``crf``, or ``segments``: a semi-Markov CRF, which adds scores of an entity's
        duration and of what entity came before to those of its tags.
      constrained: the CRF forbids moves that BIO doesn't allow, in training and in decoding. Segments can't make them.
      longest: the most tokens of an entity that the head ``segments`` finds. A longer one of the gold tags counts as several.
      dropout: rate at the input and the output of the LSTM; one mask for all steps of a sentence (Gal and Ghahramani, 2016,
        https://arxiv.org/abs/1512.05287).
      word_dropout: rate at which training replaces a word's embedding by that of the unknown word.
      dtype: of embeddings and LSTM, None for float32; emissions, chain and parameters are float32.

    Collections: ``params`` word_embedding, character_embedding, character_lstm, shape_embedding, lstm, lstm_1 and so on,
    emission, crf or segments.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from colnorm import Tagger
      >>> model = Tagger(("O", "B-per", "I-per"), num_words=50, word_features=8, hidden=8)
      >>> words, lengths = jnp.array([[2, 3, 4], [5, 0, 0]]), jnp.array([3, 1])
      >>> variables = model.init(jax.random.key(0), words, lengths)
      >>> emissions, chain = model.apply(variables, words, lengths)
      >>> emissions.shape, float(chain.start[2])
      ((2, 3, 3), -inf)
    """

    tag_names: tuple[str, ...]
    num_words: int
    _: dataclasses.KW_ONLY
    word_features: int = 100
    hidden: int = 100
    num_characters: int = 0
    character_features: int = 25
    character_hidden: int = 25
    shape_features: int = 0
    layers: int = 1
    layer_norm: Literal["gates", "output"] | None = None
    head: Literal["softmax", "crf", "segments"] = "crf"
    constrained: bool = True
    longest: int = 12
    dropout: float = 0.0
    word_dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        words: Array,
        lengths: Array,
        characters: Array | None = None,
        character_lengths: Array | None = None,
        train: bool = False,
        *,
        shapes: Array | None = None,
        positions: Array | None = None,
        character_states: Array | None = None,
    ) -> tuple[Array, crf.Chain | SegmentHead | None]:
        """Tags a padded batch; ids as :class:`~colnorm.data.encoding.Encoder` makes them.

        Args:
          words: ids ``(B, T)``.
          lengths: ``(B,)``.
          characters: ids ``(B, T, L)``, where the tagger reads characters.
          character_lengths: ``(B, T)``.
          train: whether to drop out, with the random numbers ``dropout``.
          shapes: ids ``(B, T)``, where the tagger reads shapes.
          character_states: ``(B, T, 2 character_hidden)``, what :meth:`read_characters` says of each word, in place of its
            characters.
          positions: ``(B,)`` places of the sentences in the whole batch, so that dropout is the same on any number of devices.

        Returns:
          emissions ``(B, T, K)``, and the chain: a :class:`SegmentHead` with segments, None with a softmax head.

        Raises:
          ValueError: characters or shapes are missing, or given to a tagger that doesn't read them.
        """
        if self.head not in HEADS:
            raise ValueError(f"head must be {' or '.join(HEADS)}, got {self.head!r}")
        is_read = character_states is not None
        are_given = characters is not None and character_lengths is not None
        if is_read and are_given:
            raise ValueError("give the characters or the character_states, not both")
        _check_given("characters", is_read or are_given, self.num_characters > 0)
        _check_given("shapes", shapes is not None, self.shape_features > 0)
        positions = jnp.arange(words.shape[0]) if positions is None else positions
        if train and self.word_dropout:
            words = jnp.where(self._draw(positions, self.word_dropout, words.shape[1:]), UNKNOWN, words)
        inputs = [nn.Embed(self.num_words, self.word_features, dtype=self.dtype, name="word_embedding")(words)]
        if character_states is not None:
            inputs.append(character_states.astype(inputs[0].dtype))
        elif self.num_characters:
            inputs.append(self._reader()(characters, character_lengths))
        if self.shape_features:
            inputs.append(nn.Embed(NUM_SHAPES, self.shape_features, dtype=self.dtype, name="shape_embedding")(shapes))
        x = self._drop(jnp.concatenate(inputs, -1), positions, train)  # (B, T, D)

        cell: Any = partial(LSTM, self.hidden, dtype=self.dtype)
        if self.layer_norm is not None:
            cell = partial(LayerNormLSTM, self.hidden, normalize=self.layer_norm, dtype=self.dtype)
        states: Any = Bidirectional(cell, name="lstm")(x, lengths)
        for number in range(1, self.layers):
            states = states + Bidirectional(cell, name=f"lstm_{number}")(self._drop(states, positions, train), lengths)
        x = self._drop(states, positions, train)  # (B, T, 2 hidden)
        emissions = nn.Dense(len(self.tag_names), dtype=jnp.float32, name="emission")(x)  # (B, T, K)
        if self.head == "softmax":
            return emissions, None
        if self.head == "segments":
            labels = segments.TagLayout.label_names(self.tag_names)
            durations = segments.SemiMarkovCRF(len(labels), self.longest, name="segments")()
            durations = segments.limit(durations, labels, {name: 1 for name in labels if name == "O"})
            return emissions, SegmentHead(durations, segments.TagLayout.of(self.tag_names))
        chain = crf.LinearChainCRF(len(self.tag_names), name="crf")()
        return emissions, crf.constrain(chain, self.tag_names) if self.constrained else chain

    @nn.compact
    def read_characters(self, characters: Array, lengths: Array) -> Array:
        """What the tagger reads of words alone: ids ``(N, L)`` of ``lengths (N,)``; returns ``(N, 2 character_hidden)``."""
        return self._reader().read(characters, lengths)

    def _reader(self) -> CharacterReader:
        reader = CharacterReader(self.num_characters, self.character_features, self.character_hidden, self.dtype)
        nn.share_scope(self, reader)  # character_embedding and character_lstm are parameters of the tagger itself
        return reader

    def _draw(self, positions: Array, rate: float, shape: tuple[int, ...]) -> Array:
        """True with probability ``rate``, ``(B, *shape)``; each sentence's draw depends on its position alone."""
        key = self.make_rng("dropout")
        return jax.vmap(lambda place: jax.random.bernoulli(jax.random.fold_in(key, place), rate, shape))(positions)

    def _drop(self, x: Array, positions: Array, train: bool) -> Array:
        if not (train and self.dropout):
            return x
        dropped = self._draw(positions, self.dropout, (1, x.shape[-1]))
        return jnp.where(dropped, 0, x / (1 - self.dropout)).astype(x.dtype)


def build(fields: Mapping[str, Any]) -> Tagger:
    """A :class:`Tagger` from its arguments as JSON holds them: names of dtypes for dtypes, lists for tuples.

    Raises:
      ValueError: ``tag_names``, ``num_words`` or ``dtype`` is missing, an argument is none of a tagger's, or its value is of
        another type or outside of what it may be.
    """
    known = argument_names()
    missing = [name for name in ("tag_names", "num_words", "dtype") if name not in fields]
    unknown = [name for name in fields if name not in known]
    if missing or unknown:
        raise ValueError(
            f"a tagger has the arguments {', '.join(known)}; missing: {missing}, not known: {reprlib.repr(unknown)}"
        )
    for name, value in fields.items():
        kind = _KINDS.get(name, _SIZE)
        if not kind.holds(value):
            raise ValueError(f"expected {name} of a tagger to be {kind.name}, got {reprlib.repr(value)}")
    dtype = None if fields["dtype"] == "float32" else jnp.dtype(fields["dtype"])
    return Tagger(**{**fields, "tag_names": tuple(fields["tag_names"]), "dtype": dtype})


def argument_names() -> list[str]:
    """The names of a tagger's arguments, those of every Flax module left out."""
    return [field.name for field in dataclasses.fields(Tagger) if field.name not in ("parent", "name")]


def parameter_shapes(model: Tagger) -> dict[str, tuple[int, ...]]:
    """The shapes of a tagger's parameters by their names, as ``lstm/forward/bias``: those that ``model.init`` makes.

    Of the arguments alone and without tracing, so that no size is too large for it.
    """
    H, K = model.hidden, len(model.tag_names)
    shapes: dict[str, tuple[int, ...]] = {"word_embedding/embedding": (model.num_words, model.word_features)}
    read = model.word_features
    if model.num_characters:
        shapes["character_embedding/embedding"] = (model.num_characters, model.character_features)
        shapes |= _lstm_shapes("character_lstm", model.character_features, model.character_hidden, None)
        read += 2 * model.character_hidden
    if model.shape_features:
        shapes["shape_embedding/embedding"] = (NUM_SHAPES, model.shape_features)
        read += model.shape_features
    shapes |= _lstm_shapes("lstm", read, H, model.layer_norm)
    for number in range(1, model.layers):
        shapes |= _lstm_shapes(f"lstm_{number}", 2 * H, H, model.layer_norm)
    shapes |= {"emission/kernel": (2 * H, K), "emission/bias": (K,)}
    if model.head == "crf":
        shapes |= {"crf/transitions": (K, K), "crf/start": (K,), "crf/end": (K,)}
    if model.head == "segments":
        Y = len(segments.TagLayout.label_names(model.tag_names))
        parts = {"transitions": (Y, Y), "start": (Y,), "end": (Y,), "durations": (model.longest, Y)}
        shapes |= {f"segments/{name}": shape for name, shape in parts.items()}
    return shapes


def check_parameters(model: Tagger, params: Any) -> None:
    """Raises ``ValueError`` unless ``params`` have the names and shapes of this tagger's."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    got = {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(np.shape(leaf)) for path, leaf in leaves}
    expected = parameter_shapes(model)
    differences = [
        f"{name}: expected {expected.get(name, 'nothing')}, got {got.get(name, 'nothing')}"
        for name in sorted(expected.keys() | got.keys())
        if expected.get(name) != got.get(name)
    ]
    if differences:
        raise ValueError(
            f"the parameters are another tagger's: {'; '.join(differences[:5])}{' ...' if differences[5:] else ''}"
        )


def apply(
    model: Tagger, params: Any, batch: Mapping[str, Array], **options: Any
) -> tuple[Array, crf.Chain | SegmentHead | None]:
    """``model`` on those arrays of a batch that it reads, by their names; ``options`` are ``train`` and so on."""
    inputs: dict[str, Any] = {name: batch[name] for name in INPUTS if name in batch}
    result: Any = model.apply({"params": params}, **inputs, **options)
    return result


def sentence_losses(emissions: Array, chain: crf.Chain | SegmentHead | None, tags: Array, lengths: Array) -> Array:
    """``-log p(tags | words)`` of each sentence, ``(B,)``: under the CRF, or summed over tokens without one.

    Under a CRF over segments an entity that is longer than they may be counts as several of the same type.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf, tagger
      >>> emissions, tags, lengths = jnp.zeros((2, 3, 2)), jnp.zeros((2, 3), jnp.int32), jnp.array([3, 1])
      >>> [round(value, 3) for value in tagger.sentence_losses(emissions, crf.Chain.zeros(2), tags, lengths).tolist()]
      [2.079, 0.693]
      >>> [round(value, 3) for value in tagger.sentence_losses(emissions, None, tags, lengths).tolist()]
      [2.079, 0.693]
    """
    if isinstance(chain, SegmentHead):
        gold = segments.from_tags(chain.layout, tags, lengths, longest=chain.chain.durations.shape[0])
        return -segments.log_likelihood(**chain.potentials(emissions, lengths), gold=gold)
    if chain is not None:
        return -crf.log_likelihood(chain, emissions, tags, lengths)
    picked = jnp.take_along_axis(jax.nn.log_softmax(emissions), tags[..., None], -1)[..., 0]  # (B, T)
    return -jnp.sum(jnp.where(jnp.arange(tags.shape[1])[None] < lengths[:, None], picked, 0), -1)


def decode(emissions: Array, chain: crf.Chain | SegmentHead | None, lengths: Array) -> Array:
    """The most probable tags ``(B, T)`` int32: of the sequence under the CRF, of each token without. 0 past the length.

    Example:
      >>> import jax.numpy as jnp
      >>> from colnorm import crf, tagger
      >>> emissions = jnp.array([[[0.0, 1.0], [0.0, 1.0]]])
      >>> tagger.decode(emissions, None, jnp.array([1])).tolist()
      [[1, 0]]
      >>> tagger.decode(emissions, crf.Chain.zeros(2), jnp.array([2])).tolist()
      [[1, 1]]
    """
    if isinstance(chain, SegmentHead):
        best, _ = segments.viterbi(**chain.potentials(emissions, lengths))
        return segments.to_tags(chain.layout, best, lengths)
    if chain is not None:
        return crf.viterbi(chain, emissions, lengths)[0]
    inside = jnp.arange(emissions.shape[1])[None] < lengths[:, None]
    return jnp.where(inside, jnp.argmax(emissions, -1), 0).astype(jnp.int32)


def with_word_vectors(params: Any, matrix: np.ndarray, found: np.ndarray) -> Any:
    """``params`` of a :class:`Tagger` with pretrained word embeddings where there are some.

    The other rows stay as they were initialized. They are smaller than most pretrained vectors, and so stand out less: drawn
    as large as those, the rows of rare words slow training down.

    Args:
      params: the collection ``params``.
      matrix: ``(num_words, word_features)``.
      found: ``(num_words,)`` bool, the rows of ``matrix`` to take.

    Raises:
      ValueError: ``matrix`` or ``found`` has another shape.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from colnorm import tagger
      >>> params = {"word_embedding": {"embedding": jnp.zeros((3, 2))}}
      >>> params = tagger.with_word_vectors(params, np.ones((3, 2)), np.array([False, False, True]))
      >>> params["word_embedding"]["embedding"].tolist()
      [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    """
    old = params["word_embedding"]["embedding"]
    if matrix.shape != old.shape or found.shape != old.shape[:1]:
        raise ValueError(
            f"expected word vectors of shape {old.shape} and a flag for each, got {matrix.shape} and {found.shape}"
        )
    embedding = jnp.where(jnp.asarray(found)[:, None], jnp.asarray(matrix, old.dtype), old)
    return {**params, "word_embedding": {"embedding": embedding}}


def _check_given(name: str, given: bool, read: bool) -> None:
    if given != read:
        raise ValueError(
            f"this tagger {'reads' if read else 'does not read'} {name}, but they were {'' if given else 'not '}given"
        )


def _lstm_shapes(name: str, features: int, hidden: int, layer_norm: str | None) -> dict[str, tuple[int, ...]]:
    """Of the parameters of a :class:`~colnorm.Bidirectional`."""
    shapes = lstm_shapes(layer_norm or "plain", features, hidden)
    return {f"{name}/{direction}/{part}": shape for direction in ("forward", "backward") for part, shape in shapes.items()}
