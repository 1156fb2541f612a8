"""The sentences are checked against the grammar's promises, by reading them alone."""

import collections
import hashlib

import pytest

from colnorm.data import conll, schemes
from colnorm.data.sample import _PARTS, _RULES, _alternatives, generate

TYPES = {"art", "eve", "geo", "gpe", "nat", "org", "per", "tim"}


@pytest.fixture(scope="module")
def splits():
    return generate()


def words_of(split):
    return {word for sentence in split for word in sentence.words}


def entity_texts(split):
    """{words of an entity: how often it has each type}."""
    types = collections.defaultdict(collections.Counter)
    for words, tags in split:
        for kind, start, end in schemes.entities(tags):
            types[words[start:end]][kind] += 1
    return types


def test_sizes_and_shape(splits):
    assert [len(split) for split in splits] == [4000, 600, 600]
    everything = [sentence for split in splits for sentence in split]
    assert all(type(sentence) is conll.Sentence for sentence in everything)
    assert all(len(sentence.words) == len(sentence.tags) > 0 for sentence in everything)
    for split in splits:
        lengths = [len(sentence.words) for sentence in split]
        assert 10 <= sum(lengths) / len(lengths) <= 18 and max(lengths) <= 60


def test_no_sentence_twice(splits):
    words = [sentence.words for split in splits for sentence in split]
    assert len(set(words)) == len(words) == 5200


def test_words_and_tags_are_well_formed(splits):
    """No sign of the rules' language is left, and a column file holds every sentence."""
    for split in splits:
        for words, tags in split:
            assert schemes.to_bio(tags) == tags  # legal BIO
            for word in words:
                assert word == "$" or (word and not set(word) & set("$+=|[]()_ \t\n"))
            start = next(word for word in words if word[0].isalnum())
            assert start[0] == start[0].upper() or all(word == word.lower() for word in words)


def test_eight_types_of_one_to_five_tokens_in_every_split(splits):
    for split in splits:
        found = [entity for sentence in split for entity in schemes.entities(sentence.tags)]
        counts = collections.Counter(kind for kind, _, _ in found)
        assert set(counts) == TYPES
        assert min(counts.values()) >= len(split) / 20
        assert {end - start for _, start, end in found} == {1, 2, 3, 4, 5}


def test_a_function_of_the_seed():
    first = generate(0)
    assert generate(0) == first
    assert generate(1) != first
    with pytest.raises(ValueError, match="seed >= 0, got -1"):
        generate(-1)


def test_the_same_with_every_version(splits):
    text = "\n".join(" ".join((*words, *tags)) for split in splits for words, tags in split)
    assert hashlib.sha256(text.encode()).hexdigest() == "817ae26ce264b03f93824341f732393c64dcc0f6df629e8663d7bc4b57dc7f45"


def test_validation_and_test_hold_words_that_training_never_shows(splits):
    train, validation, test = splits
    known = words_of(train)
    for split in (validation, test):
        tokens = [(word, tag) for words, tags in split for word, tag in zip(words, tags, strict=True)]
        unknown = [(word, tag) for word, tag in tokens if word not in known]
        assert 0.1 < len(unknown) / len(tokens) < 0.25
        assert {tag[2:] for _, tag in unknown} == {"", *TYPES}
    for seen, held_out in _PARTS.values():
        assert not set(seen.split(" ")) & set(held_out.split(" "))
    whole = [name for name in _PARTS if name != "stem"]
    held_out = {word for name in whole for word in _PARTS[name][1].split(" ")}
    assert len(held_out) > 50
    assert not {word.lower() for word in held_out} & {word.lower() for word in known}
    assert len(held_out & words_of(test)) > 40
    stems = tuple(_PARTS["stem"][1].lower().split(" "))
    invented = [word for word in known if word.lower().removeprefix("al-").startswith(stems)]
    assert invented == []


def test_context_is_needed(splits):
    """The same words are entities of several types, and none."""
    types = entity_texts(splits[0])
    assert set(types["Washington",]) >= {"geo", "per", "org"}
    assert set(types["Jordan",]) >= {"geo", "gpe"}
    assert set(types["May",]) >= {"tim", "per"}
    tags = collections.defaultdict(set)
    for words, sentence_tags in splits[0]:
        for word, tag in zip(words, sentence_tags, strict=True):
            tags[word].add(tag)
    assert tags["May"] >= {"O", "B-tim", "I-per"}
    assert tags["march"] == {"O"} or "O" in tags["march"]
    assert sum(len(kinds) > 1 for kinds in types.values()) > 100


def test_headlines_in_upper_and_lower_case(splits):
    lower = [words for words, _ in splits[0] if all(word == word.lower() for word in words)]
    upper = [words for words, tags in splits[0] if all(word == word.upper() for word in words)]
    assert len(upper) > 100 and len(lower) > 50
    assert len(upper) + len(lower) < 0.1 * 4000


def test_rules_use_every_rule_and_name_no_other():
    reached, todo = set(), ["sentence", "headline"]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in _PARTS:
            continue
        nested = list(_alternatives(name))
        while nested:
            part = nested.pop()
            if isinstance(part, tuple):
                nested.extend(part)
                continue
            kind, equals, rule = part.partition("=")
            assert not equals or kind in TYPES
            todo.extend([rule] if equals else [piece[1:] for piece in part.split("+") if piece[0] == "$" and len(piece) > 1])
    assert reached == {*_RULES, *_PARTS}
    assert not set(_RULES) & set(_PARTS)
