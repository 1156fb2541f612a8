"""Batches of indices in the order of an epoch; sentences of many lengths as arrays of few shapes: buckets, padding."""

from collections.abc import Sequence, Sized
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

Plan = list[tuple[int, np.ndarray]]


def shuffled_batches(num_examples: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The epoch's permutation cut into (steps, batch_size) int32; what is left over at its end is dropped.

    Raises ValueError for fewer examples than one batch.

    Example:
      >>> from colnorm.data import batching
      >>> batching.shuffled_batches(10, 4, seed=0, epoch=1).shape
      (2, 4)
    """
    steps = num_examples // batch_size
    if steps < 1:
        raise ValueError(f"a batch of {batch_size} can't be drawn from {num_examples} training examples")
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    return _cut(order[: steps * batch_size], batch_size)


def padded_batches(num_examples: int, batch_size: int) -> np.ndarray:
    """All examples in order, (steps, batch_size) int32, filled up with -1: each is counted exactly once.

    Raises ValueError unless batch_size is at least 1.

    Example:
      >>> from colnorm.data import batching
      >>> batching.padded_batches(5, 3).tolist()
      [[0, 1, 2], [3, 4, -1]]
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
    return _cut(np.arange(num_examples), batch_size)


class Bucket(NamedTuple):
    """Examples that are padded to one length: `indices` (n,) int32, ascending, are their positions in the data set."""

    length: int
    indices: np.ndarray


def make_buckets(lengths: Sequence[int] | np.ndarray, num_buckets: int = 6, multiple: int = 1) -> list[Bucket]:
    """At most `num_buckets` buckets for examples of these `lengths`, in ascending order of the padded length.

    Padded lengths are multiples of `multiple`, at least one of it, and of all such choices one that pads least: found
    by dynamic programming over the distinct lengths, O(num_buckets distinct^2). Each example is in the smallest bucket
    that fits, none is empty, and there are fewer than `num_buckets` only where there are fewer distinct (rounded) lengths.
    Raises ValueError for no or negative lengths, and unless both numbers are at least 1.

    Example:
      >>> from colnorm.data.batching import make_buckets
      >>> [(bucket.length, bucket.indices.tolist()) for bucket in make_buckets([3, 9, 4, 10], num_buckets=2)]
      [(4, [0, 2]), (10, [1, 3])]
    """
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or lengths.size == 0 or not np.issubdtype(lengths.dtype, np.integer) or lengths.min() < 0:
        raise ValueError(f"expected one or more integer lengths >= 0, got {lengths!r}")
    if num_buckets < 1 or multiple < 1:
        raise ValueError(f"expected num_buckets and multiple of at least 1, got {num_buckets} and {multiple}")
    rounded = np.maximum(-(-lengths.astype(np.int64) // multiple), 1) * multiple
    sizes, counts = np.unique(rounded, return_counts=True)  # shape: (m,)
    before = np.concatenate([[0], np.cumsum(counts)])  # shape: (m + 1,) examples among the first i sizes

    # cost[i] is that of the first i sizes in b buckets, the last of which holds the sizes j to i - 1, padded to the largest.
    last = np.where(
        np.arange(len(sizes))[:, None] < np.arange(len(sizes) + 1),
        np.concatenate([[0], sizes]) * (before - before[:-1, None]),
        np.inf,
    )  # shape: (m, m + 1) by j and i
    cost = np.where(np.arange(len(sizes) + 1) == 0, 0, np.inf)
    choices = []
    for _ in range(min(num_buckets, len(sizes))):
        total = cost[:-1, None] + last
        choices.append(np.argmin(total, axis=0))
        cost = np.min(total, axis=0)
    end = len(sizes)
    ends = []
    for choice in reversed(choices):
        ends.append(end)
        end = int(choice[end])
    chosen = sizes[np.array(ends[::-1]) - 1]
    fits = np.searchsorted(chosen, rounded)
    return [Bucket(int(size), np.flatnonzero(fits == place).astype(np.int32)) for place, size in enumerate(chosen)]


def epoch_plan(buckets: Sequence[Bucket], batch_size: int, seed: int, epoch: int, chunk: int = 8) -> Plan:
    """The batches of an epoch as (number of a bucket, indices (steps, batch_size) int32 into it), in random order.

    A function of its arguments alone: `np.random.default_rng((seed, epoch))` shuffles the examples of each bucket, which
    are cut into batches, the last one filled up with -1 (padding), and these into chunks of `chunk` batches, the last
    one with what remains; then the order of all chunks. So each example comes once, and the number of chunks and their
    shapes are the same in every epoch. Raises ValueError for a negative seed or epoch, and unless batch_size and chunk
    are at least 1.

    Example:
      >>> from colnorm.data.batching import epoch_plan, make_buckets
      >>> plan = epoch_plan(make_buckets([3, 9, 4], num_buckets=2), batch_size=2, seed=0, epoch=1)
      >>> sorted((number, batches.shape) for number, batches in plan)
      [(0, (1, 2)), (1, (1, 2))]
    """
    if seed < 0 or epoch < 0 or batch_size < 1 or chunk < 1:
        got = f"{seed}, {epoch}, {batch_size} and {chunk}"
        raise ValueError(f"expected seed and epoch >= 0, batch_size and chunk >= 1, got {got}")
    rng = np.random.default_rng((seed, epoch))
    chunks = []
    for number, bucket in enumerate(buckets):
        batches = _cut(rng.permutation(len(bucket.indices)), batch_size)
        chunks += [(number, batches[first : first + chunk]) for first in range(0, len(batches), chunk)]
    return [chunks[place] for place in rng.permutation(len(chunks))]


def evaluation_plan(buckets: Sequence[Bucket], batch_size: int) -> Plan:
    """All examples once and in order: for each bucket its number and one array (steps, batch_size) of indices into it.

    The last batch of a bucket is filled up with -1. Raises ValueError unless batch_size is at least 1.

    Example:
      >>> from colnorm.data.batching import evaluation_plan, make_buckets
      >>> [(number, batches.tolist()) for number, batches in evaluation_plan(make_buckets([3, 9, 4], 2), batch_size=2)]
      [(0, [[0, 1]]), (1, [[0, -1]])]
    """
    return [(number, padded_batches(len(bucket.indices), batch_size)) for number, bucket in enumerate(buckets)]


def pad_sequences(sequences: Sequence[Sequence[int] | np.ndarray], length: int, dtype: DTypeLike = np.int32) -> np.ndarray:
    """(n, length), each sequence followed by zeros. Raises ValueError for a sequence that is longer."""
    sizes = _sizes(sequences, length)
    result = np.zeros((len(sequences), length), dtype)
    if sizes.sum():
        result[np.arange(length) < sizes[:, None]] = np.concatenate([np.asarray(s) for s in sequences if len(s)])
    return result


def pad_characters(
    sentences: Sequence[Sequence[Sequence[int] | np.ndarray]], length: int, word_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The characters (n, length, word_length) int32 of sentences of words, zero past the end, and their numbers.

    Of a word with more than `word_length` characters the first ceil(word_length / 2) and the last floor(word_length / 2)
    are kept, since both ends tell most. The second result (n, length) int32 has the characters kept of each word, 0 for
    a word that is not there. Raises ValueError for a sentence of more than `length` words, and for word_length < 1.
    """
    if word_length < 1:
        raise ValueError(f"expected a word_length of at least 1, got {word_length}")
    sizes = _sizes(sentences, length)
    tail = word_length // 2
    words = [word for sentence in sentences for word in sentence]
    full = np.array([len(word) for word in words], np.int64)  # shape: (words,)
    kept = np.minimum(full, word_length)
    # Words that fit are used as they are: cutting makes a copy of each.
    cut = [
        word if len(word) <= word_length else np.concatenate([word[: word_length - tail], word[len(word) - tail :]])
        for word in words
    ]
    characters = np.zeros((len(sentences), length, word_length), np.int32)
    numbers = np.zeros((len(sentences), length), np.int32)
    there = np.arange(length) < sizes[:, None]
    numbers[there] = kept
    if kept.sum():
        characters[np.arange(word_length) < numbers[..., None]] = np.concatenate([np.asarray(w) for w in cut if len(w)])
    return characters, numbers


def _cut(order: np.ndarray, batch_size: int) -> np.ndarray:
    """(steps, batch_size) int32, the last filled up with -1."""
    steps = -(-len(order) // batch_size)
    padded = np.full(steps * batch_size, -1, np.int32)
    padded[: len(order)] = order
    return padded.reshape(steps, batch_size)


def _sizes(sequences: Sequence[Sized], length: int) -> np.ndarray:
    sizes = np.array([len(sequence) for sequence in sequences], np.int64)
    if np.any(sizes > length):
        raise ValueError(f"expected sequences of at most {length}, got one of {sizes.max()}")
    return sizes
