"""What a tagger reads of the characters of words, kept by word: in prediction each distinct word is read once for good.

The states depend on the word alone. Read apart, they are one program of one shape, where a tagger that reads characters in
every batch compiles three bidirectional LSTMs for each padded length; and text repeats its words.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colnorm.data.encoding import Encoder
from colnorm.tagger import Tagger

FEW, MANY = 32, 256
"""Words that are read at once: of a text that somebody has typed, and of many."""

MOST_WORDS = 2**16
"""Words that are kept: 13 MB of states with 25 features a direction. When they are reached, all are forgotten."""


class Spellings:
    """The character states of words.

    Args:
      model: a tagger that reads characters.
      params: its parameters.
      encoder: its vocabularies.
      quick: compiler options for few words, where compiling takes longer than reading.
      full: those for many.
    """

    def __init__(
        self,
        model: Tagger,
        params: Any,
        encoder: Encoder,
        quick: dict[str, Any] | None = None,
        full: dict[str, Any] | None = None,
    ):
        self._encoder, self._params = encoder, params
        self._places: dict[str, int] = {}
        self._states = np.zeros((MANY, 2 * model.character_hidden), np.float32)

        def read(params: Any, characters: jax.Array, lengths: jax.Array) -> jax.Array:
            states: Any = model.apply({"params": params}, characters, lengths, method="read_characters")
            return states.astype(jnp.float32)

        self._read_few, self._read_many = jax.jit(read, compiler_options=quick), jax.jit(read, compiler_options=full)

    def __len__(self) -> int:
        return len(self._places)

    def __call__(self, sentences: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """The states of sentences of words, padded with zeros: ``(len(sentences), length, 2 character_hidden)``."""
        words = [self._read_of(word) for sentence in sentences for word in sentence]
        new = [word for word in dict.fromkeys(words) if word not in self._places]
        if len(self._places) + len(new) > MOST_WORDS:
            self._places.clear()
            new = list(dict.fromkeys(words))
        self._keep(new)
        padded = np.zeros((len(sentences), length, self._states.shape[1]), np.float32)
        inside = np.arange(length) < np.array([len(sentence) for sentence in sentences])[:, None]
        padded[inside] = self._states[[self._places[word] for word in words]]
        return padded

    def _read_of(self, word: str) -> str:
        """The characters of a word that are read, so that what is kept doesn't grow with the length of words."""
        longest = self._encoder.word_length
        tail = longest // 2
        return word if len(word) <= longest else word[: longest - tail] + word[len(word) - tail :]

    def _keep(self, words: Sequence[str]) -> None:
        """Reads words that are not kept yet."""
        first = len(self._places)
        if first + len(words) > len(self._states):
            more = max(len(words), len(self._states))
            self._states = np.concatenate([self._states[:first], np.zeros((more, self._states.shape[1]), np.float32)])
        rows, read = (FEW, self._read_few) if len(words) <= FEW else (MANY, self._read_many)
        for start in range(0, len(words), rows):
            part = words[start : start + rows]
            arrays = self._encoder.encode([[word] for word in part] + [[]] * (rows - len(part)), 1)
            states = read(self._params, arrays["characters"][:, 0].astype(np.int32), arrays["character_lengths"][:, 0])
            self._states[first + start : first + start + len(part)] = np.asarray(states)[: len(part)]
        self._places.update(zip(words, range(first, first + len(words)), strict=True))
