"""Orders of examples; oracles: every choice of padded lengths tried for the buckets, NumPy loops for the padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colnorm.data.batching import (
    Bucket,
    epoch_plan,
    evaluation_plan,
    make_buckets,
    pad_characters,
    pad_sequences,
    padded_batches,
    shuffled_batches,
)

# -------------------------------------------------------------------------------------------------------------- batches


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 5))
def test_shuffled_batches_are_a_permutation_less_its_remainder(size, batch_size, seed, epoch):
    if size < batch_size:
        with pytest.raises(ValueError, match=f"a batch of {batch_size} can't be drawn from {size} training examples"):
            shuffled_batches(size, batch_size, seed, epoch)
        return
    batches = shuffled_batches(size, batch_size, seed, epoch)
    assert batches.shape == (size // batch_size, batch_size) and batches.dtype == np.int32
    assert len(set(batches.ravel().tolist())) == batches.size
    assert batches.min() >= 0 and batches.max() < size
    np.testing.assert_array_equal(batches, shuffled_batches(size, batch_size, seed, epoch))


def test_the_order_depends_on_seed_and_epoch():
    orders = {(seed, epoch): shuffled_batches(100, 100, seed, epoch).tobytes() for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16
    # Every example is left out of some epoch, none of all.
    left_out = [set(range(10)) - set(shuffled_batches(10, 8, 0, epoch).ravel().tolist()) for epoch in range(40)]
    assert set.union(*left_out) == set(range(10)) and set.intersection(*left_out) == set()


@given(st.integers(1, 60), st.integers(1, 60))
def test_padded_batches_hold_each_example_once(size, batch_size):
    batches = padded_batches(size, batch_size)
    assert batches.shape[1] == batch_size and batches.dtype == np.int32
    assert batches[batches >= 0].tolist() == list(range(size))
    assert 0 <= batches.size - size < batch_size
    assert np.all(batches.ravel()[size:] == -1)


# -------------------------------------------------------------------------------------------------------------- buckets


def padded_tokens(lengths, sizes):
    return sum(min(size for size in sizes if size >= length) for length in lengths)


def best_by_force(lengths, num_buckets, multiple):
    """The least number of padded tokens over every choice of at most `num_buckets` sizes."""
    candidates = range(multiple, max(*lengths, 1) + multiple, multiple)
    choices = itertools.chain.from_iterable(itertools.combinations(candidates, count) for count in range(1, num_buckets + 1))
    return min(padded_tokens(lengths, sizes) for sizes in choices if sizes[-1] >= max(lengths))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_buckets_pad_least(lengths, num_buckets, multiple):
    buckets = make_buckets(lengths, num_buckets, multiple)
    sizes = [bucket.length for bucket in buckets]
    assert sizes == sorted(set(sizes)) and all(size >= 1 and size % multiple == 0 for size in sizes)
    assert sum(bucket.length * len(bucket.indices) for bucket in buckets) == best_by_force(lengths, num_buckets, multiple)
    assert len(buckets) == min(num_buckets, len({max(-(-length // multiple), 1) for length in lengths}))
    everyone = np.concatenate([bucket.indices for bucket in buckets])
    np.testing.assert_array_equal(np.sort(everyone), np.arange(len(lengths)))
    for bucket in buckets:
        assert len(bucket.indices) and bucket.indices.dtype == np.int32 and np.all(np.diff(bucket.indices) > 0)
        for place in bucket.indices:
            assert bucket.length == min(size for size in sizes if size >= lengths[place])


def test_buckets_by_hand():
    buckets = make_buckets([5, 1, 9, 5, 2, 9, 9], num_buckets=2)
    assert [(bucket.length, bucket.indices.tolist()) for bucket in buckets] == [(5, [0, 1, 3, 4]), (9, [2, 5, 6])]
    assert all(type(bucket) is Bucket and type(bucket.length) is int for bucket in buckets)
    assert [bucket.length for bucket in make_buckets([5, 1, 9], multiple=8)] == [8, 16]
    assert [bucket.length for bucket in make_buckets(np.array([0, 0]))] == [1]
    assert len(make_buckets(range(1, 100))) == 6


def test_many_distinct_lengths():
    lengths = np.random.default_rng(0).integers(1, 700, 5000)
    buckets = make_buckets(lengths, 6)
    padded = sum(bucket.length * len(bucket.indices) for bucket in buckets)
    assert padded <= padded_tokens(lengths, [117, 234, 350, 467, 584, 699])  # the best for even lengths, nearly
    assert len(buckets) == 6 and buckets[-1].length == lengths.max()


def test_bucket_errors():
    for lengths in ([], [3, -1], [1.5], [[1]]):
        with pytest.raises(ValueError, match="one or more integer lengths >= 0"):
            make_buckets(lengths)
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        make_buckets([1], 0)
    with pytest.raises(ValueError, match="at least 1, got 6 and 0"):
        make_buckets([1], multiple=0)


# ---------------------------------------------------------------------------------------------------------------- plans


def some_buckets(*counts):
    """Buckets of so many examples each; which ones makes no difference to a plan."""
    starts = np.cumsum([0, *counts])
    return [
        Bucket(place + 1, np.arange(start, start + count, dtype=np.int32))
        for place, (start, count) in enumerate(zip(starts, counts, strict=False))
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 7), st.integers(0, 3), st.integers(1, 4))
def test_an_epoch_holds_each_example_once(counts, batch_size, epoch, chunk):
    buckets = some_buckets(*counts)
    plan = epoch_plan(buckets, batch_size, 3, epoch, chunk)
    shapes = sorted((number, len(batches)) for number, batches in plan)
    expected = []
    for number, count in enumerate(counts):
        steps = -(-count // batch_size)
        expected += [(number, min(chunk, steps - first)) for first in range(0, steps, chunk)]
        examples = np.concatenate([batches.ravel() for bucket, batches in plan if bucket == number])
        np.testing.assert_array_equal(np.sort(examples[examples >= 0]), np.arange(count))
        assert np.sum(examples == -1) == steps * batch_size - count
    assert shapes == sorted(expected)
    for _, batches in plan:
        assert batches.dtype == np.int32 and batches.shape[1] == batch_size
        # Only the end of a bucket's last batch is padding: no batch is empty.
        full = batches >= 0
        assert full[:-1].all() and full[-1, 0] and np.all(full[-1, :-1] >= full[-1, 1:])


def test_an_epoch_is_a_function_of_seed_and_epoch():
    buckets = some_buckets(200, 100)

    def flat(plan):
        return [(number, *batches.ravel().tolist()) for number, batches in plan]

    first = flat(epoch_plan(buckets, 8, 5, 2))
    np.random.default_rng(1).random(7)
    assert flat(epoch_plan(buckets, 8, 5, 2)) == first
    for seed, epoch in ((5, 3), (6, 2), (2, 5)):
        other = flat(epoch_plan(buckets, 8, seed, epoch))
        assert other != first
        assert sorted(map(len, other)) == sorted(map(len, first))


def test_examples_batches_and_chunks_are_shuffled():
    buckets = some_buckets(64, 64, 64)
    plans = [epoch_plan(buckets, 4, 0, epoch, chunk=2) for epoch in range(200)]
    orders = {tuple(number for number, _ in plan) for plan in plans}
    assert len(orders) == 200  # of 24! / 8!^3 orders of the buckets' chunks
    # Who comes first in the first bucket's chunks: every example about 200 * 32 / 64 / 4 = 25 times.
    starts = np.bincount([batches[0, 0] for plan in plans for number, batches in plan if number == 0], minlength=64)
    assert starts.min() > 5 and starts.max() < 55


def test_evaluation_is_in_order():
    plan = evaluation_plan(some_buckets(5, 2, 4), 2)
    assert [number for number, _ in plan] == [0, 1, 2]
    assert [batches.tolist() for _, batches in plan] == [[[0, 1], [2, 3], [4, -1]], [[0, 1]], [[0, 1], [2, 3]]]
    assert all(batches.dtype == np.int32 for _, batches in plan)


def test_plan_errors():
    buckets = some_buckets(3)
    for arguments in ((0, 0, 0, 1), (1, -1, 0, 1), (1, 0, -1, 1), (1, 0, 0, 0)):
        with pytest.raises(ValueError, match="seed and epoch >= 0, batch_size and chunk >= 1"):
            epoch_plan(buckets, *arguments)
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        evaluation_plan(buckets, 0)


# -------------------------------------------------------------------------------------------------------------- padding


@given(st.lists(st.lists(st.integers(1, 99), max_size=5), max_size=6), st.integers(5, 7), st.booleans())
def test_pad_sequences_matches_a_loop(sequences, length, as_arrays):
    expected = np.zeros((len(sequences), length), np.int64)
    for row, sequence in enumerate(sequences):
        for place, value in enumerate(sequence):
            expected[row, place] = value
    given_as = [np.array(sequence, np.int32) for sequence in sequences] if as_arrays else sequences
    result = pad_sequences(given_as, length)
    np.testing.assert_array_equal(result, expected)
    assert result.shape == expected.shape and result.dtype == np.int32


def test_pad_sequences_dtype_and_errors():
    result = pad_sequences([[0.5], []], 2, np.float32)
    np.testing.assert_array_equal(result, np.array([[0.5, 0], [0, 0]], np.float32))
    assert result.dtype == np.float32
    with pytest.raises(ValueError, match="at most 2, got one of 3"):
        pad_sequences([[1], [1, 2, 3]], 2)


@given(
    st.lists(st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=4), max_size=4), st.integers(4, 5), st.integers(1, 9)
)
def test_pad_characters_matches_a_loop(sentences, length, word_length):
    expected = np.zeros((len(sentences), length, word_length), np.int64)
    lengths = np.zeros((len(sentences), length), np.int64)
    for row, sentence in enumerate(sentences):
        for place, word in enumerate(sentence):
            while len(word) > word_length:  # from the middle, so that the head is as long as the tail or one longer
                word = word[: (word_length + 1) // 2] + word[(word_length + 1) // 2 + 1 :]
            lengths[row, place] = len(word)
            for index, character in enumerate(word):
                expected[row, place, index] = character
    arrays = [[np.array(word, np.int32) for word in sentence] for sentence in sentences]
    for given_as in (sentences, arrays):
        characters, numbers = pad_characters(given_as, length, word_length)
        np.testing.assert_array_equal(characters, expected)
        np.testing.assert_array_equal(numbers, lengths)
        assert characters.dtype == numbers.dtype == np.int32
        assert characters.shape == expected.shape and numbers.shape == lengths.shape


def test_long_words_keep_both_ends():
    word = [1, 2, 3, 4, 5, 6, 7]
    for word_length, kept in ((1, [1]), (2, [1, 7]), (3, [1, 2, 7]), (4, [1, 2, 6, 7]), (7, word)):
        characters, numbers = pad_characters([[word]], 1, word_length)
        assert characters[0, 0].tolist() == kept and numbers.item() == word_length
    with pytest.raises(ValueError, match="word_length of at least 1, got 0"):
        pad_characters([[word]], 1, 0)
    with pytest.raises(ValueError, match="at most 1, got one of 2"):
        pad_characters([[word, word]], 1, 3)
