"""Encoded sentences against ids looked up by hand, and the way through JSON and back."""

import json

import numpy as np
import pytest

from colnorm.data.encoding import Encoder
from colnorm.data.vocabulary import UNKNOWN, word_shapes

SENTENCES = [("The", "the", "cat"), ("the", "1999"), ("The", "the", "extraordinarily")]
TAGS = ("O", "B-per", "I-per")


def build(**options):
    return Encoder.build(SENTENCES, TAGS, **options)


def test_what_a_tagger_reads():
    encoder = build(word_length=4, shapes=True)
    arrays = encoder.encode([("the", "dog"), ("extraordinarily",), ()], 3)
    the = encoder.words.tokens.index("the")
    long_word = encoder.words.tokens.index("extraordinarily")
    assert arrays["words"].tolist() == [[the, UNKNOWN, 0], [long_word, 0, 0], [0, 0, 0]]
    assert arrays["lengths"].tolist() == [2, 1, 0]
    assert arrays["character_lengths"].tolist() == [[3, 3, 0], [4, 0, 0], [0, 0, 0]]
    spelt = ["".join(encoder.characters.tokens[i] for i in word if i) for word in arrays["characters"][:, 0]]
    assert spelt == ["the", "exly", ""]  # the first and the last half of a long word
    assert arrays["characters"].dtype == np.uint16
    assert arrays["characters"][0, 1, 1] == encoder.characters.encode("o")[0]
    assert arrays["shapes"][0].tolist() == [*word_shapes(("the", "dog")).tolist(), 0]
    assert {name: values.shape for name, values in arrays.items()} == {
        "words": (3, 3),
        "lengths": (3,),
        "characters": (3, 3, 4),
        "character_lengths": (3, 3),
        "shapes": (3, 3),
    }


def test_only_what_is_asked_for():
    assert build(characters=False).encode(SENTENCES, 3).keys() == {"words", "lengths"}
    assert build().encode(SENTENCES, 3).keys() == {"words", "lengths", "characters", "character_lengths"}


def test_options_of_the_word_vocabulary_leave_characters_alone():
    encoder = build(lowercase=True, fold_digits=True, min_count=2)
    words = encoder.encode([("THE", "cat", "2000", "0000")], 4)["words"][0]
    assert words[0] == encoder.words.tokens.index("the")
    assert words[1:].tolist() == [UNKNOWN] * 3  # each seen once
    assert {"T", "t", "9"} <= set(encoder.characters.tokens)


def test_tags():
    assert build().encode_tags([("O", "B-per", "I-per"), ("O",)], 4).tolist() == [[0, 1, 2, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="B-geo"):
        build().encode_tags([("B-geo",)], 1)


@pytest.mark.parametrize("options", [{}, {"characters": False}, {"shapes": True, "lowercase": True, "word_length": 5}])
def test_json_and_back(options):
    encoder = build(**options)
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    for name, values in encoder.encode(SENTENCES, 3).items():
        np.testing.assert_array_equal(again.encode(SENTENCES, 3)[name], values)
    assert build(word_length=7) != encoder
