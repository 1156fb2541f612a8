"""Words, characters and tags as numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from colnorm.data import stored as stored_value

PADDING = 0
UNKNOWN = 1
NUM_SHAPES = 7
_SPECIAL = ("<pad>", "<unk>")
_STORED: dict[str, stored_value.Kind | list[stored_value.Kind]] = {
    "entries": [stored_value.TEXT],
    "counts": [stored_value.whole(0, 2**63 - 1)],
    "lowercase": stored_value.FLAG,
    "fold_digits": stored_value.FLAG,
}
_DIGIT = re.compile(r"\d")  # decimal digits of every script


class Vocabulary:
    """Texts with ids: words, or characters, which are the texts of a word.

    Id 0 is padding and 1 stands for every text that has no entry. Texts are looked up as `normalize` makes them; where that
    has no entry, the text in lower case counts if it is one of those that `extended` added.

    Attributes:
      tokens: the text of each id, "<pad>" and "<unk>" first. These two are no entries: looked up, they are unknown.
      counts: (len(self),) int64, how often each entry was seen; 0 for the two and for what `extended` added.
      lowercase, fold_digits: what `normalize` does.
    """

    def __init__(
        self, entries: Sequence[str], counts: Sequence[int], lowercase: bool = False, fold_digits: bool = False
    ) -> None:
        """`entries` get the ids from 2 on, in order; `counts` has one for each. Raises ValueError for repeated entries."""
        if len(entries) != len(counts):
            raise ValueError(f"expected a count for each of {len(entries)} entries, got {len(counts)}")
        self.tokens = [*_SPECIAL, *entries]
        self.counts = np.array([0, 0, *counts], np.int64)
        self.lowercase = lowercase
        self.fold_digits = fold_digits
        self._ids = {token: index for index, token in enumerate(entries, len(_SPECIAL))}
        self._unseen = {token: index for token, index in self._ids.items() if not self.counts[index]}
        if len(self._ids) != len(entries) or not self._ids.keys().isdisjoint(_SPECIAL):
            repeated = [token for token, times in Counter(self.tokens).items() if times > 1]
            raise ValueError(f"expected distinct entries other than {' and '.join(_SPECIAL)}, got repeated {repeated[:5]}")

    @classmethod
    def build(
        cls,
        sequences: Iterable[Iterable[str]],
        min_count: int = 1,
        lowercase: bool = False,
        fold_digits: bool = False,
        max_size: int | None = None,
    ) -> "Vocabulary":
        """The vocabulary of all texts in `sequences`, ids by descending count, then in the order of their code points.

        Normalized texts seen fewer than `min_count` times are left out, then all but the first `max_size` entries.
        "<pad>" and "<unk>" in the data get no entry. Raises ValueError unless min_count >= 1 and max_size >= 0.
        """
        if min_count < 1 or (max_size is not None and max_size < 0):
            raise ValueError(f"expected min_count >= 1 and max_size >= 0, got {min_count} and {max_size}")
        seen: Counter[str] = Counter()
        for sequence in sequences:
            seen.update(sequence)
        normal: Counter[str] = Counter()
        for token, count in seen.items():
            normal[_normalize(token, lowercase, fold_digits)] += count
        kept = [(token, count) for token, count in normal.items() if count >= min_count and token not in _SPECIAL]
        kept = sorted(kept, key=lambda entry: (-entry[1], entry[0]))[:max_size]
        return cls([token for token, _ in kept], [count for _, count in kept], lowercase, fold_digits)

    def extended(self, tokens: Iterable[str]) -> "Vocabulary":
        """This vocabulary and after it those of `tokens` that have no entry, normalized, in order, with a count of 0.

        Of use for words that have a pretrained vector but don't come, or not often enough, in training data. They are found
        in lower case too, as :func:`~colnorm.data.glove.read_vectors` finds vectors: of "oslo" added, "Oslo" is known.
        """
        added = dict.fromkeys(self.normalize(token) for token in tokens)
        entries = [token for token in added if token not in self._ids and token not in _SPECIAL]
        seen = self.tokens[len(_SPECIAL) :], self.counts[len(_SPECIAL) :].tolist()
        return Vocabulary([*seen[0], *entries], [*seen[1], *[0] * len(entries)], self.lowercase, self.fold_digits)

    def normalize(self, token: str) -> str:
        """`token` in lower case if `lowercase`, with every decimal digit of any script as "0" if `fold_digits`."""
        return _normalize(token, self.lowercase, self.fold_digits)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """The ids (n,) int32 of `tokens`, 1 for the unknown."""
        return np.array([self._find(token) for token in tokens], np.int32)

    def _find(self, token: str) -> int:
        normal = self.normalize(token)
        index = self._ids.get(normal)
        return self._unseen.get(normal.lower(), UNKNOWN) if index is None else index

    def __contains__(self, token: str) -> bool:
        """Whether `token` is known: has an id other than that of unknown texts."""
        return self._find(token) != UNKNOWN

    def __len__(self) -> int:
        """The number of ids, the two without an entry included."""
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes the same vocabulary of: lists, numbers and texts alone."""
        return {
            "entries": self.tokens[len(_SPECIAL) :],
            "counts": self.counts[len(_SPECIAL) :].tolist(),
            "lowercase": self.lowercase,
            "fold_digits": self.fold_digits,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Vocabulary":
        """The inverse of `to_json`.

        Raises ValueError for missing or other keys and for values that no vocabulary has: it says which key, what was
        expected and what came.
        """
        stored_value.check("a vocabulary", stored, _STORED)
        return cls(stored["entries"], stored["counts"], stored["lowercase"], stored["fold_digits"])


class TagIds:
    """Tags as their places in `names`: no padding, nothing unknown."""

    def __init__(self, tag_names: Iterable[str]) -> None:
        """Raises ValueError for repeated names."""
        self.names = tuple(tag_names)
        self._ids = {name: index for index, name in enumerate(self.names)}
        if len(self._ids) != len(self.names):
            raise ValueError(f"expected distinct tag names, got {self.names}")

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TagIds) and self.names == other.names

    def encode(self, tags: Iterable[str]) -> np.ndarray:
        """The ids (n,) int32 of `tags`. Raises ValueError for a tag that is none of `names`."""
        tags = list(tags)
        try:
            return np.array([self._ids[tag] for tag in tags], np.int32)
        except KeyError as error:
            raise ValueError(f"expected tags of {', '.join(self.names)}, got {error.args[0]!r}") from None

    def decode(self, ids: Iterable[int] | np.ndarray) -> tuple[str, ...]:
        """The tags of `ids`. Raises ValueError for an id that is none."""
        ids = [int(index) for index in ids]
        if any(not 0 <= index < len(self.names) for index in ids):
            raise ValueError(f"expected tag ids from 0 to {len(self.names) - 1}, got {ids}")
        return tuple(self.names[index] for index in ids)


def word_shapes(words: Iterable[str]) -> np.ndarray:
    """The capitalization (n,) int32 of each of `words`, from 1 to NUM_SHAPES - 1; 0 is left for padding.

    The first that holds of: 5 it has a digit; 6 it has no letter; 1 no letter is upper case ("the", and scripts without
    case); 2 the first letter alone is ("The", "I"); 3 every letter is ("USA", "U.S."); 4 another mixture ("McKay").
    """
    return np.array([_word_shape(word) for word in words], np.int32)


@lru_cache(maxsize=2**16)
def _word_shape(word: str) -> int:
    if any(character.isdigit() for character in word):
        return 5
    upper = [character.isupper() for character in word if character.isalpha()]
    if not upper:
        return 6
    if not any(upper):
        return 1
    if upper[0] and not any(upper[1:]):
        return 2
    return 3 if all(upper) else 4


def _normalize(token: str, lowercase: bool, fold_digits: bool) -> str:
    if lowercase:
        token = token.lower()
    return _DIGIT.sub("0", token) if fold_digits else token
