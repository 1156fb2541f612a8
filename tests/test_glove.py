"""Oracles: vectors written with the test, and a plain dict reader for drawn files."""

import random
import tracemalloc

import numpy as np
import pytest

from colnorm.data.glove import Coverage, read_vectors, read_words
from colnorm.data.vocabulary import PADDING, UNKNOWN, Vocabulary


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def vocabulary():
    """Ids from 2: the (4 times), London (3), Oslo (2), zzz (1)."""
    return Vocabulary(["the", "London", "Oslo", "zzz"], [4, 3, 2, 1])


TEXT = "the 1 2 -3e-1\nlondon 4 5 6\nother 0 0 0\nOslo 7 8 9.5\noslo 0 0 1\n"


def test_exact_form_first_then_lower_case(tmp_path, vocabulary):
    vectors = read_vectors(write(tmp_path / "f", TEXT), vocabulary)
    assert vectors.matrix.shape == (6, 3) and vectors.matrix.dtype == np.float32
    np.testing.assert_array_equal(vectors.found, [False, False, True, True, True, False])
    assert vectors.found.dtype == bool
    np.testing.assert_array_equal(vectors.matrix[2:5], np.array([[1, 2, -0.3], [4, 5, 6], [7, 8, 9.5]], np.float32))
    np.testing.assert_array_equal(vectors.matrix[PADDING], 0)


def test_coverage_of_entries_and_tokens(tmp_path, vocabulary):
    vectors = read_vectors(write(tmp_path / "f", TEXT), vocabulary)
    assert vectors.coverage == Coverage(entries=4, exact=2, lowercased=1, tokens=10, exact_tokens=6, lowercased_tokens=3)
    assert (vectors.exact, vectors.lowercased) == (2, 1)
    assert vectors.coverage.entry_share == 3 / 4
    assert vectors.coverage.token_share == 9 / 10
    assert str(vectors.coverage) == "vectors for 3 of 4 words (75.0%; 1 of them in lower case), 90.0% of tokens"


def test_a_vocabulary_in_lower_case_finds_its_own_texts(tmp_path):
    vocabulary = Vocabulary.build([["The", "London"]], lowercase=True)
    vectors = read_vectors(write(tmp_path / "f", "London 1 2\nthe 3 4\n"), vocabulary)
    assert vectors.found.tolist() == [False, False, False, True]
    assert (vectors.exact, vectors.lowercased) == (1, 0)


def test_words_that_training_lacks_have_their_vectors_and_no_part_in_the_coverage(tmp_path, vocabulary):
    path = write(tmp_path / "f", TEXT)
    plain, more = read_vectors(path, vocabulary), read_vectors(path, vocabulary.extended(read_words(path)))
    np.testing.assert_array_equal(more.matrix[6:], [[4, 5, 6], [0, 0, 0], [0, 0, 1]])  # london, other, oslo
    assert more.found[6:].all() and more.coverage == plain.coverage
    np.testing.assert_array_equal(more.matrix[2:5], plain.matrix[2:5])
    np.testing.assert_array_equal(more.found[:6], plain.found)


def test_the_words_of_a_file(tmp_path):
    words = ["the", ". . .", "london", "\x85", "the"]
    text = "".join(f"{word} 1 2\n" for word in words)
    path = write(tmp_path / "f", "\ufeff" + text.replace("\n", " \r\n"))
    assert read_words(write(tmp_path / "g", "5 2\n" + text)) == words
    assert [read_words(path, limit) for limit in (0, 1, 3)] == [[], words[:1], words[:3]]
    assert read_words(path, 9) == words
    assert read_words(write(tmp_path / "empty", "")) == []
    broken = write(tmp_path / "broken", "x 1 2\ny 1\n")
    assert read_words(broken, 1) == ["x"]
    with pytest.raises(ValueError, match=r"broken:2: expected a word and 2 numbers, got 1 numbers"):
        read_words(broken)
    with pytest.raises(ValueError, match="a limit >= 0, got -1"):
        read_words(path, -1)


def test_the_order_of_the_file_does_not_matter(tmp_path, vocabulary):
    expected = read_vectors(write(tmp_path / "f", TEXT), vocabulary)
    lines = TEXT.splitlines(keepends=True)
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        vectors = read_vectors(write(tmp_path / "f", "".join(lines)), vocabulary)
        np.testing.assert_array_equal(vectors.matrix, expected.matrix)
        np.testing.assert_array_equal(vectors.found, expected.found)
        assert vectors.coverage == expected.coverage


def test_the_first_of_equal_words_counts(tmp_path, vocabulary):
    vectors = read_vectors(write(tmp_path / "f", "the 1 2\nlondon 3 4\nthe 5 6\nlondon 7 8\n"), vocabulary)
    np.testing.assert_array_equal(vectors.matrix[2:4], [[1, 2], [3, 4]])


def test_rows_not_found_are_normal_with_the_std_of_those_found(tmp_path):
    """1,000 rows of 20 numbers: the sample std is within 2 % (ten times its standard error is 5 %)."""
    rng = np.random.default_rng(0)
    found = 3 + 0.25 * rng.standard_normal((50, 20))  # the mean is not taken over
    text = "".join(f"w{place} {' '.join(map(repr, row.tolist()))}\n" for place, row in enumerate(found))
    vocabulary = Vocabulary([f"w{place}" for place in range(1050)], [1] * 1050)
    path = write(tmp_path / "f", text)
    vectors = read_vectors(path, vocabulary, seed=1)
    np.testing.assert_array_equal(vectors.matrix[2:52], found.astype(np.float32))
    drawn = vectors.matrix[~vectors.found][1:]
    assert drawn.shape == (1001, 20)  # the unknown word among them
    assert abs(np.std(drawn) / np.std(found) - 1) < 0.02
    assert abs(np.mean(drawn)) < 0.01
    assert len(np.unique(drawn)) > 19000
    np.testing.assert_array_equal(read_vectors(path, vocabulary, seed=1).matrix, vectors.matrix)
    assert np.all(read_vectors(path, vocabulary, seed=2).matrix[~vectors.found][1:] != drawn)


def test_unknown_words_take_the_vector_of_unk_and_padding_none(tmp_path, vocabulary):
    vectors = read_vectors(write(tmp_path / "f", "<pad> 9 9\n<unk> 1 2\nthe 3 4\n"), vocabulary)
    np.testing.assert_array_equal(vectors.matrix[[PADDING, UNKNOWN]], [[0, 0], [1, 2]])
    assert vectors.found.tolist() == [False, True, True, False, False, False]
    assert vectors.coverage.exact == 1 and vectors.coverage.entries == 4  # neither is an entry


def test_a_word2vec_header_is_no_vector(tmp_path, vocabulary):
    with_header = read_vectors(write(tmp_path / "f", "5 3\n" + TEXT.replace("\n", " \n")), vocabulary)
    plain = read_vectors(write(tmp_path / "g", TEXT), vocabulary)
    np.testing.assert_array_equal(with_header.matrix, plain.matrix)
    with pytest.raises(ValueError, match=r"f:2: expected a word and 4 numbers, got 3 numbers"):
        read_vectors(write(tmp_path / "f", "5 4\n" + TEXT), vocabulary)
    # A first line of one whole number and more is a vector.
    numbers = Vocabulary(["5"], [1])
    assert read_vectors(write(tmp_path / "f", "5 3 1\n"), numbers).matrix[2].tolist() == [3, 1]
    assert read_vectors(write(tmp_path / "f", "5 3.0\n"), numbers).matrix[2].tolist() == [3]


def test_line_ends_byte_order_mark_and_a_missing_last_line_end(tmp_path, vocabulary):
    plain = read_vectors(write(tmp_path / "f", TEXT), vocabulary)
    for text in (TEXT.replace("\n", "\r\n"), "\ufeff" + TEXT, TEXT.removesuffix("\n"), "\ufeff5 3\n" + TEXT, "5 3\r\n" + TEXT):
        np.testing.assert_array_equal(read_vectors(write(tmp_path / "g", text), vocabulary).matrix, plain.matrix)


def test_words_with_spaces_and_unicode_spaces(tmp_path):
    words = [". . .", "at name@domain.com", "5\xa0storm", "\x85", "a\u2028b", "\u3000", "é"]
    text = "first 0 0\n" + "".join(f"{word} {place} .5\n" for place, word in enumerate(words))
    vectors = read_vectors(write(tmp_path / "f", text), Vocabulary(words, [1] * len(words)))
    np.testing.assert_array_equal(vectors.matrix[2:], [[place, 0.5] for place in range(len(words))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"f: expected vectors .* got an empty file"),
        ("5 3\n", r"f: expected vectors of words among the vocabulary's 4, got none of them"),
        ("x 1 2\n", r"f: expected vectors .* got none of them"),
        ("the\n", r"f:1: expected a word and its numbers, got b'the'"),
        ("\nthe 1 2\n", r"f:1: expected a word and its numbers"),
        ("x 1 2\ny 1\n", r"f:2: expected a word and 2 numbers, got 1 numbers"),
        ("x 1 2\n\nthe 1 2\n", r"f:2: expected a word and 2 numbers, got 0 numbers"),
        ("x 1 2\ny 1 2 3\n", r"f:2: expected a word and 2 numbers, got more"),
        ("x 1 2\nthe 1 2 3\n", r"f:2: expected a word and 2 numbers, got more"),
        ("x 1 2\nthe 1 two\n", r"f:2: expected numbers after the word, got b'two'"),
        ("x 1 2\nthe 1 1_0\n", r"f:2: expected numbers after the word, got b'1_0'"),
        ("x 1 2\nthe  1\n", r"f:2: expected numbers after the word, got b''"),
        ("x 1 2\nthe 1 nan\n", r"f:2: expected finite float32 numbers"),
        ("x 1 2\nlondon 1 -inf\n", r"f:2: expected finite float32 numbers"),
        ("x 1 2\nthe 1 1e39\n", r"f:2: expected finite float32 numbers"),
        ("5 4097\nthe 1 2\n", r"f:1: expected at most 4096 numbers after a word, got 4097"),
        ("5 0" + "9" * 5000 + "\n", r"f:1: expected at most 4096 numbers after a word, got 9{40}$"),
        ("5 00\nthe 1 2\n", r"f:2: expected a word and 1 numbers, got more"),
        ("the" + " 1" * 4097 + "\n", r"f:1: expected at most 4096 numbers after a word, got 4097"),
        (b"x 1 2\ny 1 2\ncaf\xe9 1 2\n", r"f:3: expected a word in utf-8, got b'caf\\xe9'"),
    ],
)
def test_errors(tmp_path, vocabulary, text, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(write(tmp_path / "f", text), vocabulary)


def test_memory_is_that_of_the_vocabulary(tmp_path):
    """A file of 8 MB, of which 200 words are wanted: 40 kB of vectors."""
    line = " ".join(["0.123456"] * 50)
    path = write(tmp_path / "f", "".join(f"word{number} {line}\n" for number in range(18000)))
    assert path.stat().st_size > 8e6
    vocabulary = Vocabulary([f"word{number}" for number in range(0, 18000, 90)], [1] * 200)
    tracemalloc.start()
    vectors = read_vectors(path, vocabulary)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert vectors.found[2:].all()
    assert peak < 1e6


def test_numbers_are_read_as_float_reads_them(tmp_path):
    """A drawn file against a dict of lists."""
    rng = np.random.default_rng(0)
    table = {f"W{place}": rng.standard_normal(7).tolist() for place in range(100)}
    text = "".join(f"{word} {' '.join(f'{value:.5g}' for value in values)}\n" for word, values in table.items())
    vocabulary = Vocabulary(sorted(table)[:60], [1] * 60)
    vectors = read_vectors(write(tmp_path / "f", text), vocabulary)
    for word, row in zip(vocabulary.tokens[2:], vectors.matrix[2:], strict=True):
        np.testing.assert_array_equal(row, np.float32([float(f"{value:.5g}") for value in table[word]]))
