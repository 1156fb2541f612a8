"""A bidirectional LSTM over the characters of words, which reads each distinct word of a batch once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colnorm.recurrent import LSTM, Bidirectional

Array = jax.Array

BLOCK = 256
"""Distinct words that the CPU reads at a time."""


class CharacterReader(nn.Module):
    """The last states of a BiLSTM over each word's characters.

    Distinct words are sorted by length, the longest first, and cut into blocks. A block is read up to a quarter, a half or
    all of the padded word length, whichever holds its words; blocks without a word are skipped. What the blocks keep for the
    gradient would be larger than all else, so that they are computed again.

    Attributes:
      num_characters: size of the character vocabulary.
      features: size of a character's embedding.
      hidden: features of the LSTM in each direction.
      dtype: of embeddings and LSTM, None for float32.

    Collections: ``params`` character_embedding, character_lstm.
    """

    num_characters: int
    features: int = 25
    hidden: int = 25
    dtype: Any = None

    def __call__(self, characters: Any, lengths: Any) -> Array:
        """Reads words ``(B, T, L)`` of ``lengths (B, T)``; returns ``(B, T, 2 hidden)``, zeros for a word of no characters."""
        batch, time, longest = characters.shape
        words, lengths = jnp.asarray(characters, jnp.int32).reshape(-1, longest), jnp.asarray(lengths, jnp.int32).reshape(-1)
        if self.is_initializing():
            self.read(words[:1], lengths[:1])
        # Transformations of JAX take functions of arrays, hence a module apart from this one and its parameters.
        stored: Any = self.variables["params"]
        params = {name: stored[name] for name in ("character_embedding", "character_lstm")}
        unbound = self.clone(parent=None)

        def read(size: int, params: Any, words: Array, lengths: Array) -> Any:
            return unbound.apply({"params": params}, words[:, :size], lengths, method="read")

        def skip(params: Any, words: Array, lengths: Array) -> Array:
            states = jax.eval_shape(partial(read, longest), params, words, lengths)
            return jnp.zeros(states.shape, states.dtype)

        sizes = sorted({-(-longest // 4), -(-longest // 2), longest})
        branches: list[Callable[..., Any]] = [skip, *(partial(read, size) for size in sizes)]

        @partial(jax.checkpoint, prevent_cse=False)
        def read_block(params: Any, words: Array, lengths: Array) -> Array:
            needed = jnp.sum(jnp.max(lengths) > jnp.asarray([0, *sizes[:-1]]))  # 0: skip
            return jax.lax.switch(needed, branches, params, words, lengths)

        first, group, lengths = distinct_words(words, lengths)
        count = first.shape[0]
        rows = BLOCK if jax.default_backend() == "cpu" else -(-count // 2)
        if isinstance(count, int):  # jax.export may leave it open
            rows = min(rows, count)
        blocks = -(-count // rows)
        first, lengths = (jnp.pad(values, (0, blocks * rows - count)).reshape(blocks, rows) for values in (first, lengths))
        states = jax.lax.map(lambda block: read_block(params, words[block[0]], block[1]), (first, lengths))
        return states.reshape(blocks * rows, -1)[group].reshape(batch, time, -1)

    @nn.compact
    def read(self, words: Array, lengths: Array) -> Array:
        """The same of words ``(N, L)`` one by one, equal ones too: ``(N, 2 hidden)``."""
        x = nn.Embed(self.num_characters, self.features, dtype=self.dtype, name="character_embedding")(words)
        layer = Bidirectional(partial(LSTM, self.hidden, dtype=self.dtype), name="character_lstm")
        result: Any = layer(x, lengths, return_carry=True)
        _, ((forward, _), (backward, _)) = result
        return jnp.concatenate([forward, backward], -1)


def distinct_words(characters: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """Finds equal words.

    Args:
      characters: ids ``(N, L)``, which count past a word's length too.
      lengths: ``(N,)``.

    Returns:
      ``first (N,)``, the place of a word of each group of equal ones, the longest first; ``group (N,)``, so that
      ``first[group]`` is a place of an equal word; and ``lengths[first]``. Where there are fewer groups, 0 fills up ``first``
      and these lengths. Equal words may fall into several groups where hashes collide; different ones never into the same.
    """
    rows = jnp.concatenate([characters, lengths[:, None]], 1)
    factors = np.random.default_rng(0).integers(1, 2**32, (2, rows.shape[1]), np.uint32) | 1
    hashes = jnp.sum(rows.astype(jnp.uint32)[None] * jnp.asarray(factors)[:, None], -1, dtype=jnp.uint32)  # (2, N), modulo 2^32
    order = jnp.lexsort((hashes[0], hashes[1], -lengths))
    ordered = rows[order]
    new = jnp.concatenate([jnp.ones(1, bool), jnp.any(ordered[1:] != ordered[:-1], -1)])
    number = jnp.cumsum(new.astype(jnp.int32)) - 1
    group = jnp.zeros_like(number).at[order].set(number)
    first = jnp.zeros_like(order).at[number].set(order)
    return first, group, jnp.where(jnp.arange(rows.shape[0]) <= number[-1], lengths[first], 0)
