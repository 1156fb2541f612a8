"""Pretrained word vectors in text form, as GloVe and word2vec publish them, for the words of a vocabulary."""

import codecs
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colnorm.data.vocabulary import PADDING, Vocabulary

_MOST_NUMBERS = 4096  # of a vector; published ones have 25 to 1024
_HEADER = re.compile(rb"[0-9]+ 0*([1-9][0-9]*)")


class Coverage(NamedTuple):
    """How many of a vocabulary's `entries` have a vector under their own text, and how many only in lower case; without those
    that :meth:`~colnorm.data.vocabulary.Vocabulary.extended` added.

    `tokens`, `exact_tokens` and `lowercased_tokens` are the same weighted by the vocabulary's counts.
    """

    entries: int
    exact: int
    lowercased: int
    tokens: int
    exact_tokens: int
    lowercased_tokens: int

    @property
    def entry_share(self) -> float:
        return (self.exact + self.lowercased) / max(self.entries, 1)

    @property
    def token_share(self) -> float:
        return (self.exact_tokens + self.lowercased_tokens) / max(self.tokens, 1)

    def __str__(self) -> str:
        return (
            f"vectors for {self.exact + self.lowercased} of {self.entries} words ({self.entry_share:.1%}; "
            f"{self.lowercased} of them in lower case), {self.token_share:.1%} of tokens"
        )


class Vectors(NamedTuple):
    """`matrix` (len(vocabulary), D) float32, and `found` (len(vocabulary),) bool, which rows come from the file."""

    matrix: np.ndarray
    found: np.ndarray
    coverage: Coverage

    @property
    def exact(self) -> int:
        return self.coverage.exact

    @property
    def lowercased(self) -> int:
        return self.coverage.lowercased


def read_vectors(path: str | os.PathLike[str], vocabulary: Vocabulary, seed: int = 0) -> Vectors:
    """The vectors of `vocabulary`'s entries, from a UTF-8 text file with a word and D numbers a line.

    An entry takes the vector of its own text, else that of its text in lower case, wherever in the file they stand; of
    lines with the same word the first counts. "<unk>" is looked up for unknown words. Other rows are drawn from a normal
    distribution with mean 0 and the standard deviation of all numbers found, by `seed`; the padding row is zero.

    D is that of the first line, unless this is a word2vec header: two whole numbers, the second of which is D; at most
    4096, so that a file of one long line makes no matrix that no memory holds. A word may hold spaces: the last D fields
    are the numbers. The number of fields is checked in every line, numbers only where the word is wanted, and no more is
    kept in memory than vectors of wanted words.

    Raises ValueError, with file and line, for another number of fields, more than 4096 numbers, a field that is no finite
    float32, and bytes that are no UTF-8; and for an empty file and one without any of the words.
    """
    path = Path(path)
    entries = [token if index != PADDING else "" for index, token in enumerate(vocabulary.tokens)]
    wanted = {token for token in entries if token} | {token.lower() for token in entries if token}
    vectors: dict[str, np.ndarray] = {}
    for place, word, line, width in _lines(path):
        if word in wanted and word not in vectors:
            vectors[word] = _numbers(place, line.rsplit(b" ", width)[1:])
    if not vectors:
        got = "none of them" if path.stat().st_size else "an empty file"
        raise ValueError(f"{path}: expected vectors of words among the vocabulary's {len(entries) - 2}, got {got}")

    texts = [token if token in vectors else token.lower() for token in entries]
    found = np.array([text in vectors for text in texts])
    stored = np.stack([vectors[text] for text in texts if text in vectors])
    std = float(np.std(stored, dtype=np.float64))
    matrix = np.random.default_rng(seed).standard_normal((len(entries), width), np.float32) * np.float32(std)
    matrix[found] = stored
    matrix[PADDING] = 0

    counted = vocabulary.counts > 0
    exact = found & np.array([token == text for token, text in zip(entries, texts, strict=True)])
    chosen = (counted, counted & exact, counted & found & ~exact)
    numbers = [int(np.sum(which)) for which in chosen] + [int(np.sum(vocabulary.counts[which])) for which in chosen]
    return Vectors(matrix, found, Coverage(*numbers))


def read_words(path: str | os.PathLike[str], limit: int | None = None) -> list[str]:
    """The words of the first `limit` vectors of a file as :func:`read_vectors` takes it, of all by default.

    Raises ValueError, with file and line, for what :func:`read_vectors` refuses there, except for numbers, which are not
    looked at; and unless limit >= 0.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"expected a limit >= 0, got {limit}")
    return [word for _, word, _, _ in itertools.islice(_lines(Path(path)), limit)]


def _lines(path: Path) -> Iterator[tuple[str, str, bytes, int]]:
    """For each vector the place to name in an error, the word, the line without its end, and how many numbers end it."""
    width = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            line = line.rstrip(b"\r\n ")  # word2vec leaves a space at the end
            spaces = line.count(b" ")
            if not width:
                header = _HEADER.fullmatch(line)
                claimed = header[1] if header else b"%d" % spaces
                if claimed == b"0":
                    raise ValueError(f"{path}:{number}: expected a word and its numbers, got {line[:40]!r}")
                if len(claimed) > 9 or int(claimed) > _MOST_NUMBERS:
                    got = claimed[:40].decode()
                    raise ValueError(f"{path}:{number}: expected at most {_MOST_NUMBERS} numbers after a word, got {got}")
                width = int(claimed)
                if header:
                    continue
            if spaces < width:
                raise ValueError(f"{path}:{number}: expected a word and {width} numbers, got {spaces} numbers")
            raw = line[: line.index(b" ")] if spaces == width else line.rsplit(b" ", width)[0]
            if spaces > width and _is_number(raw[raw.rindex(b" ") + 1 :]):
                raise ValueError(f"{path}:{number}: expected a word and {width} numbers, got more numbers")
            try:
                word = raw.decode()
            except UnicodeDecodeError:
                raise ValueError(f"{path}:{number}: expected a word in utf-8, got {raw[:40]!r}") from None
            yield f"{path}:{number}", word, line, width


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(place: str, fields: list[bytes]) -> np.ndarray:
    for field in fields:
        if not _is_number(field) or b"_" in field:  # Python reads 1_0 as 10
            raise ValueError(f"{place}: expected numbers after the word, got {field[:40]!r}")
    with np.errstate(over="ignore"):  # what float32 can't hold is infinite, and refused below
        values = np.array([float(field) for field in fields]).astype(np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{place}: expected finite float32 numbers after the word, got nan or inf")
    return values
