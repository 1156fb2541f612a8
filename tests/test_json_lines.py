"""Texts with entities by character ranges: the tools' forms, whole tokens, what is refused, and back."""

import json
import string

import hypothesis.strategies as st
import pytest
from hypothesis import given

from colnorm.data import sample
from colnorm.data.json_lines import AnnotatedText, Span, align, read_json_lines, to_json_line
from colnorm.data.schemes import entities
from colnorm.data.text import sentences as cut

ANN = '{"text": "Ann sleeps.", '


def write(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "line",
    [
        ANN + '"entities": [[0, 3, "per"]]}',
        ANN + '"label": [[0, 3, "per"]]}',
        ANN + '"labels": [[0, 3, "per"]], "id": 7}',
        ANN + '"spans": [{"start": 0, "end": 3, "label": "per", "token_start": 0}], "meta": {}}',
        ANN + '"entities": [{"id": 1, "label": "per", "start_offset": 0, "end_offset": 3}], "Comments": []}',
        ANN + '"entities": [{"start": 0, "end": 3, "type": "per", "posterior": 0.9}]}',
    ],
)
def test_the_forms_of_the_tools_are_one(tmp_path, line):
    (annotated,) = read_json_lines(write(tmp_path / "a.jsonl", "\ufeff" + line, ""))
    assert annotated == ("Ann sleeps.", (Span(0, 3, "per"),), f"{tmp_path / 'a.jsonl'}:1")


def test_a_text_may_have_no_entities(tmp_path):
    texts = read_json_lines(write(tmp_path / "a.jsonl", '{"text": "Rain."}', "", ANN + '"label": null}', '{"text": ""}'))
    assert [len(annotated.spans) for annotated in texts] == [0, 0, 0]
    assert [sentence.words for sentence in align(texts).sentences] == [("Rain", "."), ("Ann", "sleeps", ".")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", 'expected an object with a "text", got list'),
        ('{"txt": "a"}', "expected an object with a \"text\", got the keys 'txt'"),
        ("{", "expected a JSON object, but"),
        ("[" * 100_000, "expected a JSON object, but"),
        (r'{"text": "\ud800"}', r"expected characters that utf-8 can hold, got '\\ud800'"),
        (ANN + '"entities": 3}', "expected a list of entities, got int"),
        (ANN + '"entities": ["per"]}', r'expected an entity as \[start, end, type\], got "per"'),
        (ANN + '"entities": [[0, 12, "per"]]}', r"expected a range in the text's 11 characters, got \[0, 12\]"),
        (ANN + '"entities": [[3, 3, "per"]]}', r"expected a range in the text's 11 characters, got \[3, 3\]"),
        (ANN + '"entities": [[true, 3, "per"]]}', r"got \[true, 3\]"),
        (ANN + '"entities": [[3, 4, "per"]]}', "got only spaces at 3 to 4"),
        (ANN + '"entities": [[0, 3, "a person"]]}', 'expected a type of one word, got "a person"'),
        (ANN + '"entities": [[0, 3, ""]]}', 'expected a type of one word, got ""'),
        (ANN + '"entities": [[0, 3, null]]}', "expected a type of one word, got null"),
    ],
)
def test_what_is_refused_is_named_by_line(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{message}"):
        read_json_lines(write(tmp_path / "a.jsonl", '{"text": "Rain."}', line))


def test_bytes_and_files_without_a_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: expected utf-8, got the byte 0xff"):
        read_json_lines(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"b\.jsonl: expected at least one text, got none"):
        read_json_lines(write(tmp_path / "b.jsonl", "", ""))


def test_spans_become_whole_tokens_and_the_longer_of_two_stays():
    text = "Kofi Annan's plan for New York City"
    spans = (Span(5, 8, "per"), Span(22, 30, "geo"), Span(22, 35, "geo"), Span(26, 35, "geo"), Span(22, 35, "geo"))
    aligned = align([AnnotatedText(text, spans, "a.jsonl:3")])
    assert aligned.sentences[0].tags == ("O", "B-per", "O", "O", "O", "B-geo", "I-geo", "I-geo")
    assert aligned.notes == [
        "a.jsonl:3: geo 'York City' shares a token with geo 'New York City' and is left out",
        "a.jsonl:3: geo 'New York' shares a token with geo 'New York City' and is left out",
        "a.jsonl:3: per 'Ann' cuts a token and is widened to 'Annan'",
    ]


def test_an_entity_over_two_sentences_makes_them_one():
    text = "He read Who? What? Why? and left. It rained."
    apart = align([AnnotatedText(text, (), "")]).sentences
    together = align([AnnotatedText(text, (Span(8, 23, "art"),), "")]).sentences
    assert len(apart) == 4 and len(together) == 2
    assert entities(together[0].tags) == [("art", 2, 8)]
    assert sum((sentence.words for sentence in apart), ()) == sum((sentence.words for sentence in together), ())


@given(st.data())
def test_whatever_is_marked_tokens_stay_and_entities_cover_the_longest(data):
    text = data.draw(st.text(string.ascii_letters[:4] + " .'\n\u00e9", min_size=1, max_size=30))
    places = st.integers(0, len(text))
    drawn = data.draw(st.lists(st.tuples(places, places, st.sampled_from(["x", "y"])), max_size=4))
    spans = tuple(Span(*sorted(pair), kind) for *pair, kind in drawn if text[min(pair) : max(pair)].strip())
    aligned = align([AnnotatedText(text, spans, "here")])
    tokens = [token for sentence in cut(text) for token in sentence]
    assert [word for sentence in aligned.sentences for word in sentence.words] == [token.word for token in tokens]
    found = []
    at = 0
    for sentence in aligned.sentences:
        found += [
            Span(tokens[at + first].start, tokens[at + last - 1].end, kind) for kind, first, last in entities(sentence.tags)
        ]
        at += len(sentence.words)
    # Each is one of those given, with all of the tokens that it is in; the longest is among them, and none are in another.
    whole = []
    for start, end, kind in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
        inside = [token for token in tokens if token.start < end and token.end > start]
        covering = Span(inside[0].start, inside[-1].end, kind)
        if all(covering.end <= other.start or covering.start >= other.end for other in whole):
            whole.append(covering)
    assert found == sorted(whole)


def test_a_thousand_sentences_there_and_back(tmp_path):
    """Entities of whole tokens, as predictions are, have the same ranges again."""
    lines = []
    for words, tags in sample.generate(0)[0][:1000]:
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        spans = [Span(starts[first], starts[last] - 1, kind) for kind, first, last in entities(tags)]
        lines.append(to_json_line(" ".join(words), spans))
    texts = read_json_lines(write(tmp_path / "a.jsonl", *lines))
    assert len(texts) == 1000 and [to_json_line(annotated.text, annotated.spans) for annotated in texts] == lines
    for line, annotated in zip(lines, texts, strict=True):
        tokens = [token for sentence in cut(annotated.text) for token in sentence]
        aligned = align([annotated])
        tags = [tag for sentence in aligned.sentences for tag in sentence.tags]
        found = [[tokens[first].start, tokens[last - 1].end, kind] for kind, first, last in entities(tags)]
        if not aligned.notes:
            assert found == json.loads(line)["entities"]
