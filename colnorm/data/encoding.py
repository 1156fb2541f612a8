"""Sentences as the arrays that a tagger reads, and everything that has to be stored to do it again: the vocabularies."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from colnorm.data import stored as stored_value
from colnorm.data.batching import pad_characters, pad_sequences
from colnorm.data.vocabulary import TagIds, Vocabulary, word_shapes

_Part = TypeVar("_Part")
_LONGEST = 4096
_STORED: dict[str, stored_value.Kind | list[stored_value.Kind]] = {
    "words": stored_value.OBJECT,
    "tags": [stored_value.TEXT],
    "characters": stored_value.OBJECT_OR_NULL,
    "word_length": stored_value.whole(1, _LONGEST),
    "shapes": stored_value.FLAG,
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns words into ids.

    Attributes:
      words: the word vocabulary; padding is 0, a word outside it 1.
      tags: the tags.
      characters: the character vocabulary, None for a tagger without characters.
      word_length: characters read of a word; of a longer one the first and the last half.
      shapes: whether the tagger reads :func:`~colnorm.data.vocabulary.word_shapes`.

    Example:
      >>> from colnorm.data.encoding import Encoder
      >>> encoder = Encoder.build([["Ann", "sleeps"]], ["O", "B-per", "I-per"], characters=False)
      >>> arrays = encoder.encode([["Ann", "reads"], ["Ann"]], length=3)
      >>> arrays["words"].tolist(), arrays["lengths"].tolist()  # 0 padding, 1 an unknown word
      ([[2, 1, 0], [2, 0, 0]], [2, 1])
    """

    words: Vocabulary
    tags: TagIds
    characters: Vocabulary | None = None
    word_length: int = 16
    shapes: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError unless 1 <= word_length <= 4096 and the characters have at most 65,536 ids."""
        # Every word takes word_length numbers: a large one in a stored file would take all memory.
        if not 1 <= self.word_length <= _LONGEST:
            raise ValueError(f"word_length: expected a whole number from 1 to {_LONGEST}, got {self.word_length}")
        if self.characters is not None and len(self.characters) > 2**16:
            raise ValueError(f"characters: expected at most {2**16} ids, which uint16 holds, got {len(self.characters)}")

    @classmethod
    def build(
        cls,
        sentences: Iterable[Sequence[str]],
        tag_names: Sequence[str],
        *,
        min_count: int = 1,
        lowercase: bool = False,
        fold_digits: bool = False,
        characters: bool = True,
        word_length: int = 16,
        shapes: bool = False,
    ) -> "Encoder":
        """The encoder of the training sentences' words.

        Args:
          sentences: words of each.
          tag_names: of all splits.
          min_count: a word seen less often in training is unknown.
          lowercase, fold_digits: what the word vocabulary ignores; characters and shapes are those of the word as it is.
          characters, word_length, shapes: what else the tagger reads.
        """
        sentences = list(sentences)
        words = Vocabulary.build(sentences, min_count=min_count, lowercase=lowercase, fold_digits=fold_digits)
        alphabet = Vocabulary.build(word for sentence in sentences for word in sentence) if characters else None
        return cls(words, TagIds(tag_names), alphabet, word_length, shapes)

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> dict[str, np.ndarray]:
        """Arrays padded to ``length``, a row a sentence: what :class:`~colnorm.Tagger` takes, by name.

        Returns:
          ``words (n, length)`` and ``lengths (n,)`` int32; with characters ``characters (n, length, word_length)`` uint16 and
          ``character_lengths (n, length)`` int32; with shapes ``shapes (n, length)`` int32.

        Raises:
          ValueError: a sentence is longer than ``length``.
        """
        arrays = {
            "words": pad_sequences([self.words.encode(sentence) for sentence in sentences], length),
            "lengths": np.array([len(sentence) for sentence in sentences], np.int32),
        }
        if self.characters is not None:
            spellings = {word: self.characters.encode(word) for sentence in sentences for word in sentence}
            spelt = [[spellings[word] for word in sentence] for sentence in sentences]
            characters, arrays["character_lengths"] = pad_characters(spelt, length, self.word_length)
            # Held on the device for a whole data set: the smallest integers that hold any alphabet.
            arrays["characters"] = characters.astype(np.uint16)
        if self.shapes:
            arrays["shapes"] = pad_sequences([word_shapes(sentence) for sentence in sentences], length)
        return arrays

    def encode_tags(self, tags: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """``(n, length)`` int32, padded with 0, the first tag."""
        return pad_sequences([self.tags.encode(sentence) for sentence in tags], length)

    def to_json(self) -> dict[str, Any]:
        """What JSON holds; :meth:`from_json` turns it back."""
        return {
            "words": self.words.to_json(),
            "tags": list(self.tags.names),
            "characters": None if self.characters is None else self.characters.to_json(),
            "word_length": self.word_length,
            "shapes": self.shapes,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Encoder":
        """The encoder that :meth:`to_json` was called on.

        Raises:
          ValueError: a key is missing or another one there, or a value is none that an encoder has; it says which key, what
            was expected and what came.
        """
        stored_value.check("an encoder", stored, _STORED)

        def part(key: str, make: Callable[[Any], _Part]) -> _Part:
            try:
                return make(stored[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None

        characters = None if stored["characters"] is None else part("characters", Vocabulary.from_json)
        words, tags = part("words", Vocabulary.from_json), part("tags", TagIds)
        return cls(words, tags, characters, stored["word_length"], stored["shapes"])
