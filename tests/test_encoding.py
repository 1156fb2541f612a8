"""Encoded sentences against ids looked up by hand, and the way through JSON and back."""

import json

import numpy as np
import pytest

from colnorm.data.encoding import Encoder
from colnorm.data.vocabulary import UNKNOWN, Vocabulary, word_shapes

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


def changed(stored, path, value):
    """A copy of what JSON holds with another value in one place."""
    if not path:
        return value
    copy = stored.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


HUGE = 10**400


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), None, "expected an encoder, an object, got None"),
        ((), [1], r"expected an encoder, an object, got \[1\]"),
        ((), {}, "expected an encoder with the keys words, tags, characters, word_length, shapes, got none"),
        (("words",), None, "words: expected an object, got None"),
        (("words",), ["the"], r"words: expected an object, got \['the'\]"),
        (("words",), {"entries": []}, "words: expected a vocabulary with the keys .*, got entries"),
        (("words", "entries"), "the", "words: entries: expected a list, got 'the'"),
        (("words", "entries"), None, "words: entries: expected a list, got None"),
        (("words", "entries", 1), 7, r"words: entries\[1\]: expected a text, got 7"),
        (("words", "entries", 1), ["The"], r"words: entries\[1\]: expected a text, got \['The'\]"),
        (("words", "entries", 1), "the", r"words: expected distinct entries .* repeated \['the'\]"),
        (("words", "entries", 1), "<pad>", r"words: expected distinct entries .* repeated \['<pad>'\]"),
        (("words", "counts"), {}, "words: counts: expected a list, got {}"),
        (("words", "counts"), [1], "words: expected a count for each of 5 entries, got 1"),
        (("words", "counts", 2), -1, r"words: counts\[2\]: expected a whole number from 0 to 9\d*, got -1"),
        (("words", "counts", 2), 1.0, r"words: counts\[2\]: expected a whole number .* got 1.0"),
        (("words", "counts", 2), float("nan"), r"words: counts\[2\]: expected a whole number .* got nan"),
        (("words", "counts", 2), True, r"words: counts\[2\]: expected a whole number .* got True"),
        (("words", "counts", 2), "1", r"words: counts\[2\]: expected a whole number .* got '1'"),
        (("words", "counts", 2), 2**63, r"words: counts\[2\]: expected a whole number .* got 9223372036854775808"),
        (("words", "counts", 2), HUGE, r"words: counts\[2\]: expected a whole number .* got 10+\.\.\.0+$"),
        (("words", "lowercase"), 1, "words: lowercase: expected true or false, got 1"),
        (("words", "fold_digits"), None, "words: fold_digits: expected true or false, got None"),
        (("characters",), [], r"characters: expected an object or null, got \[\]"),
        (("characters", "counts", 0), None, r"characters: counts\[0\]: expected a whole number .* got None"),
        (("tags",), "O", "tags: expected a list, got 'O'"),
        (("tags", 1), None, r"tags\[1\]: expected a text, got None"),
        (("tags", 1), "O", "tags: expected distinct tag names"),
        (("word_length",), 0, "word_length: expected a whole number from 1 to 4096, got 0"),
        (("word_length",), 16.0, "word_length: expected a whole number .* got 16.0"),
        (("word_length",), 10**12, "word_length: expected a whole number .* got 1000000000000"),
        (("shapes",), "no", "shapes: expected true or false, got 'no'"),
    ],
)
def test_stored_values_that_are_none_of_an_encoder(path, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Encoder.from_json(changed(build().to_json(), path, value))


def test_keys_that_are_missing_or_too_many():
    stored = build().to_json()
    for keys in ([], ["words"], ["characters"]):
        place = stored[keys[0]] if keys else stored
        for key in place:
            less = {other: value for other, value in place.items() if other != key}
            for wrong in (less, place | {"more": 1}, less | {"more": 1}):
                with pytest.raises(ValueError, match=r"expected an? (encoder|vocabulary) with the keys .*, got"):
                    Encoder.from_json(changed(stored, keys, wrong))


def test_limits_of_what_an_array_holds():
    with pytest.raises(ValueError, match="word_length: expected a whole number from 1 to 4096, got 4097"):
        build(word_length=4097)
    alphabet = Vocabulary([chr(0x10000 + place) for place in range(2**16 - 1)], [1] * (2**16 - 1))
    with pytest.raises(ValueError, match="characters: expected at most 65536 ids, which uint16 holds, got 65537"):
        Encoder(build().words, build().tags, alphabet)


def test_a_stored_encoder_stays_readable():
    """As the first version wrote them."""
    stored = """{"words": {"entries": ["the", "Oslo"], "counts": [2, 0], "lowercase": false, "fold_digits": true},
        "tags": ["O", "B-geo", "I-geo"],
        "characters": {"entries": ["e"], "counts": [3], "lowercase": false, "fold_digits": false},
        "word_length": 16, "shapes": true}"""
    encoder = Encoder.from_json(json.loads(stored))
    assert encoder.to_json() == json.loads(stored)
    assert encoder.words.encode(["the", "oslo", "Oslo"]).tolist() == [2, UNKNOWN, 3]
    assert encoder.word_length == 16 and encoder.shapes and encoder.tags.names == ("O", "B-geo", "I-geo")
