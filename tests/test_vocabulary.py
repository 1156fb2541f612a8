"""Oracles: entries counted by hand, and with `collections.Counter` for drawn texts."""

import collections
import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colnorm.data.vocabulary import NUM_SHAPES, PADDING, UNKNOWN, TagIds, Vocabulary, word_shapes

SENTENCES = [["b", "a", "b"], ["c", "a", "b"], ["d"]]


def test_ids_by_count_then_text():
    vocabulary = Vocabulary.build(SENTENCES)
    assert (PADDING, UNKNOWN) == (0, 1)
    assert vocabulary.tokens == ["<pad>", "<unk>", "b", "a", "c", "d"]
    np.testing.assert_array_equal(vocabulary.counts, [0, 0, 3, 2, 1, 1])
    assert vocabulary.counts.dtype == np.int64
    assert len(vocabulary) == 6
    ids = vocabulary.encode(["a", "x", "b", "d"])
    np.testing.assert_array_equal(ids, [3, 1, 2, 5])
    assert ids.dtype == np.int32 and vocabulary.encode([]).dtype == np.int32 and vocabulary.encode([]).shape == (0,)
    assert "a" in vocabulary and "x" not in vocabulary


def test_sequences_may_be_iterators_and_words_are_sequences_of_characters():
    assert Vocabulary.build(iter(map(iter, SENTENCES))) == Vocabulary.build(SENTENCES)
    characters = Vocabulary.build(word for word in ["abba", "bc"])
    assert characters.tokens[2:] == ["b", "a", "c"]
    np.testing.assert_array_equal(characters.encode("cab?"), [4, 3, 2, 1])


@pytest.mark.parametrize(
    ("options", "entries"),
    [
        ({"min_count": 2}, ["b", "a"]),
        ({"min_count": 4}, []),
        ({"max_size": 3}, ["b", "a", "c"]),
        ({"max_size": 0}, []),
        ({"max_size": 9}, ["b", "a", "c", "d"]),
        ({"max_size": 1, "min_count": 2}, ["b"]),
    ],
)
def test_rare_texts_are_left_out(options, entries):
    vocabulary = Vocabulary.build(SENTENCES, **options)
    assert vocabulary.tokens[2:] == entries and len(vocabulary) == 2 + len(entries)
    assert vocabulary.encode(["d"]).item() == (5 if len(entries) == 4 else UNKNOWN)


def test_normalized_texts_are_counted_and_looked_up_together():
    sentences = [["The", "the", "THE", "1990", "2013", "É"]]
    both = Vocabulary.build(sentences, lowercase=True, fold_digits=True, min_count=2)
    assert both.tokens[2:] == ["the", "0000"]  # 3 and 2 times, though each text comes once
    np.testing.assert_array_equal(both.encode(["tHe", "1234", "0000", "é", "12"]), [2, 3, 3, 1, 1])
    assert "ThE" in both and "٢٣٤٥" in both and "é" not in both
    assert Vocabulary.build(sentences, lowercase=True).tokens[2:] == ["the", "1990", "2013", "é"]
    assert Vocabulary.build(sentences, fold_digits=True).tokens[2:] == ["0000", "THE", "The", "the", "É"]
    assert Vocabulary.build(sentences).tokens[2:] == ["1990", "2013", "THE", "The", "the", "É"]


@pytest.mark.parametrize(
    ("token", "lowercase", "fold_digits", "expected"),
    [
        ("H5N1", False, False, "H5N1"),
        ("H5N1", True, False, "h5n1"),
        ("H5N1", False, True, "H0N0"),
        ("H5N1", True, True, "h0n0"),
        ("٣٤x²½三", True, True, "00x²½三"),  # decimal digits alone
        ("ÉΣ", True, False, "éς"),
    ],
)
def test_normalize(token, lowercase, fold_digits, expected):
    assert Vocabulary([], [], lowercase, fold_digits).normalize(token) == expected


def test_the_two_without_an_entry_can_be_no_texts():
    vocabulary = Vocabulary.build([["<pad>", "<unk>", "<PAD>", "a"]])
    assert vocabulary.tokens == ["<pad>", "<unk>", "<PAD>", "a"]
    np.testing.assert_array_equal(vocabulary.encode(["<pad>", "<unk>"]), [UNKNOWN, UNKNOWN])
    assert "<pad>" not in vocabulary and "<unk>" not in vocabulary
    assert Vocabulary.build([["<PAD>"]], lowercase=True).tokens == ["<pad>", "<unk>"]


@given(st.lists(st.lists(st.text("aAbB1٣é<", max_size=3))), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 9))
def test_build_matches_a_counter(sequences, min_count, lowercase, fold_digits, max_size):
    def normal(token):
        token = token.lower() if lowercase else token
        return "".join("0" if fold_digits and character.isdecimal() else character for character in token)

    expected = collections.Counter(normal(token) for sequence in sequences for token in sequence)
    entries = sorted((-count, token) for token, count in expected.items() if count >= min_count)[:max_size]
    vocabulary = Vocabulary.build(sequences, min_count, lowercase, fold_digits, max_size)
    assert vocabulary.tokens[2:] == [token for _, token in entries]
    assert vocabulary.counts[2:].tolist() == [-count for count, _ in entries]
    for sequence in sequences:
        ids = vocabulary.encode(sequence)
        for token, index in zip(sequence, ids, strict=True):
            assert vocabulary.tokens[index] == (normal(token) if normal(token) in vocabulary.tokens else "<unk>")
            assert (token in vocabulary) == (index != UNKNOWN)


def test_entries_never_seen_come_last_and_are_found_in_lower_case_too():
    seen = Vocabulary.build([["the", "The", "Oslo", "the"]])
    vocabulary = seen.extended(iter(["oslo", "paris", "the", "<unk>", "Rome", "paris"]))
    assert vocabulary.tokens == ["<pad>", "<unk>", "the", "Oslo", "The", "oslo", "paris", "Rome"]
    assert vocabulary.counts.tolist() == [0, 0, 2, 1, 1, 0, 0, 0]
    ids = vocabulary.encode(["Oslo", "OSLO", "Paris", "THE", "ROME", "Rome", "<UNK>"])
    assert ids.tolist() == [3, 5, 6, UNKNOWN, UNKNOWN, 7, UNKNOWN]  # a seen word's lower case is a word of its own
    assert "PARIS" in vocabulary and "PARIS" not in seen and "ROME" not in vocabulary
    assert seen == Vocabulary.build([["the", "The", "Oslo", "the"]])  # as it was
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary and again.encode(["Paris"]).item() == 6
    assert vocabulary.extended([]) == vocabulary.extended(["paris"]) == vocabulary


def test_entries_never_seen_are_normalized():
    vocabulary = Vocabulary.build([["1990"]], lowercase=True, fold_digits=True).extended(["2013", "Oslo", "B2", "b3"])
    assert vocabulary.tokens[2:] == ["0000", "oslo", "b0"]
    assert Vocabulary([], []).extended(["B2"]).tokens[2:] == ["B2"]


def test_json_round_trip_and_equality():
    vocabulary = Vocabulary.build([["É", "x", "\u2028", "1", "x"]], lowercase=True, fold_digits=True)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert again.tokens == vocabulary.tokens and again.counts.tolist() == vocabulary.counts.tolist()
    np.testing.assert_array_equal(again.encode(["É", "2"]), vocabulary.encode(["é", "0"]))
    for options in ({"lowercase": True}, {"fold_digits": True}):
        one = Vocabulary.build([["A1"]], **options)
        assert Vocabulary.from_json(one.to_json()).normalize("A1") == one.normalize("A1") == one.tokens[2]
    stored = vocabulary.to_json()
    for key, value in (
        ("entries", ["a", "b", "c", "d"]),
        ("counts", [9, 1, 1, 1]),
        ("lowercase", False),
        ("fold_digits", False),
    ):
        other = Vocabulary.from_json(copy.deepcopy(stored) | {key: value})
        assert other != vocabulary
    assert vocabulary != stored


def test_vocabulary_errors():
    with pytest.raises(ValueError, match="min_count >= 1 and max_size >= 0, got 0 and None"):
        Vocabulary.build([], min_count=0)
    with pytest.raises(ValueError, match="max_size >= 0, got 1 and -1"):
        Vocabulary.build([], max_size=-1)
    with pytest.raises(ValueError, match="a count for each of 2 entries, got 1"):
        Vocabulary(["a", "b"], [1])
    for entries in (["a", "b", "a"], ["<unk>", "b", "c"], ["a", "<pad>", "c"]):
        with pytest.raises(ValueError, match="distinct entries"):
            Vocabulary(entries, [1, 1, 1])
    with pytest.raises(ValueError, match="with the keys entries, counts, lowercase, fold_digits, got entries"):
        Vocabulary.from_json({"entries": []})
    with pytest.raises(ValueError, match=r"got .*more"):
        Vocabulary.from_json(Vocabulary([], []).to_json() | {"more": 1})


def test_tag_ids():
    tags = TagIds(["O", "B-x", "I-x"])
    assert tags.names == ("O", "B-x", "I-x") and len(tags) == 3
    ids = tags.encode(("I-x", "O", "B-x"))
    np.testing.assert_array_equal(ids, [2, 0, 1])
    assert ids.dtype == np.int32
    assert tags.decode(ids) == tags.decode([2, 0, 1]) == ("I-x", "O", "B-x")
    assert tags.encode([]).shape == (0,) and tags.decode([]) == ()
    assert tags.encode(iter(["B-x"])).tolist() == [1]
    with pytest.raises(ValueError, match="tags of O, B-x, I-x, got 'B-y'"):
        tags.encode(["O", "B-y"])
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="ids from 0 to 2"):
            tags.decode([0, wrong])
    with pytest.raises(ValueError, match="distinct tag names"):
        TagIds(["O", "O"])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (1, ["the", "well-known", "'s", "étude", "东京", "ابن"]),
        (2, ["The", "I", "Mr.", "Étude", "Well-known", "'Tis", "Y'"]),
        (3, ["USA", "U.S.", "AT&T", "ÉÈ"]),
        (4, ["McKay", "iPhone", "al-Qaida", "Al-Qaida", "USAs", "pH"]),
        (5, ["1", "H5N1", "1990s", "Boeing-747", "x²", "٣"]),
        (6, [".", "--", "...", "$", "\u3000", "\u2019", ""]),
    ],
)
def test_word_shapes(shape, words):
    shapes = word_shapes(words)
    np.testing.assert_array_equal(shapes, [shape] * len(words))
    assert shapes.dtype == np.int32 and shape < NUM_SHAPES


def test_word_shapes_of_none():
    assert word_shapes([]).shape == (0,) and word_shapes([]).dtype == np.int32
    assert NUM_SHAPES == 7
