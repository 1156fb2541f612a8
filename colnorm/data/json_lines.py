"""Texts with entities by character ranges, as annotation tools write them: one JSON object a line.

Doccano's, Prodigy's and spaCy's forms are read::

    {"text": "Ann sleeps.", "entities": [[0, 3, "per"]]}
    {"text": "Ann sleeps.", "label": [[0, 3, "per"]]}
    {"text": "Ann sleeps.", "spans": [{"start": 0, "end": 3, "label": "per"}]}
    {"text": "Ann sleeps.", "entities": [{"start_offset": 0, "end_offset": 3, "label": "per"}]}

and the first is written. Ranges are half-open and count characters (code points), as Python does.
"""

import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from colnorm.data import text as raw_text
from colnorm.data.schemes import Sentence, split_tag
from colnorm.data.text import Token

EXTENSIONS = (".jsonl", ".ndjson")

KEYS = ("entities", "label", "labels", "spans")
"""Where a line may hold its entities; the first that is there counts."""


class Span(NamedTuple):
    """An entity of a text: ``text[start:end]``."""

    start: int
    end: int
    type: str


class AnnotatedText(NamedTuple):
    """A text, its entities in the order of the text, and where it stands, as ``file:line``."""

    text: str
    spans: tuple[Span, ...]
    place: str


class Aligned(NamedTuple):
    """The sentences of texts, and what had to be changed for entities to be made of whole tokens, a line each."""

    sentences: list[Sentence]
    notes: list[str]


def read_json_lines(path: str | os.PathLike[str]) -> list[AnnotatedText]:
    """The texts of a file, UTF-8 with or without a byte order mark; blank lines are skipped.

    A line without entities is a text in which there are none. Other keys are not read.

    Raises:
      ValueError: with file and line, for what is not UTF-8, not a JSON object or has no text; for a range that is not in the
        text or holds nothing but spaces; for a type that is no name; and for a file without a text.

    Example:
      >>> import pathlib, tempfile
      >>> from colnorm.data import json_lines
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = pathlib.Path(directory, "train.jsonl")
      ...     _ = path.write_text('{"text": "Ann sleeps.", "entities": [[0, 3, "per"]]}')
      ...     (annotated,) = json_lines.read_json_lines(path)
      >>> annotated.spans
      (Span(start=0, end=3, type='per'),)
    """
    path = Path(path)
    found = []
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        place = f"{path}:{number}"
        try:
            line = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: expected utf-8, got the byte 0x{raw[error.start]:02x}") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{place}: expected a JSON object, but {error}") from None
        found.append(_annotated(line, place))
    if not found:
        raise ValueError(f"{path}: expected at least one text, got none")
    return found


def align(texts: Iterable[AnnotatedText]) -> Aligned:
    """Cuts texts into sentences and tokens (:mod:`colnorm.data.text`) and gives every token its BIO tag.

    A tagger tags whole tokens. So an entity that begins or ends inside a token is widened to the whole of it, and of two
    entities that share a token the longer one stays, the first of two as long. Sentences between which an entity lies are
    one. Each of these changes but the last is a note.

    Example:
      >>> from colnorm.data.json_lines import AnnotatedText, Span, align
      >>> aligned = align([AnnotatedText("Annan's plan", (Span(0, 3, "per"),), "a.jsonl:1")])
      >>> aligned.sentences[0].tags, aligned.notes
      (('B-per', 'O', 'O'), ["a.jsonl:1: per 'Ann' cuts a token and is widened to 'Annan'"])
    """
    sentences: list[Sentence] = []
    notes: list[str] = []
    for annotated in texts:
        tokens = raw_text.sentences(annotated.text)
        flat = [token for sentence in tokens for token in sentence]
        ranges = _whole_tokens(annotated, flat, notes)
        inside = {place for first, last, _ in ranges for place in range(first + 1, last)}
        tags = ["O"] * len(flat)
        for first, last, kind in ranges:
            tags[first:last] = [f"B-{kind}", *[f"I-{kind}"] * (last - first - 1)]
        end = 0
        words: list[str] = []
        for number, sentence in enumerate(tokens):
            words += [token.word for token in sentence]
            end += len(sentence)
            if end in inside and number + 1 < len(tokens):
                continue  # an entity goes on in the next
            sentences.append(Sentence(tuple(words), tuple(tags[end - len(words) : end])))
            words = []
    return Aligned(sentences, notes)


def to_json_line(text: str, spans: Iterable[Span]) -> str:
    """A text and its entities as :func:`read_json_lines` reads them; without a line end.

    Example:
      >>> from colnorm.data.json_lines import Span, to_json_line
      >>> to_json_line("Ann sleeps.", [Span(0, 3, "per")])
      '{"text": "Ann sleeps.", "entities": [[0, 3, "per"]]}'
    """
    return json.dumps({"text": text, "entities": [list(span) for span in spans]}, ensure_ascii=False)


def _whole_tokens(annotated: AnnotatedText, tokens: Sequence[Token], notes: list[str]) -> list[tuple[int, int, str]]:
    """The entities as (first token, the one after its last, type): none shares a token with another."""
    text, spans, place = annotated
    starts, ends = ([getattr(token, side) for token in tokens] for side in ("start", "end"))
    taken: dict[int, Span] = {}
    ranges = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
        first, last = bisect_right(ends, span.start), bisect_left(starts, span.end)
        start, end, covered = starts[first], ends[last - 1], range(first, last)
        said = f"{place}: {span.type} {text[span.start : span.end]!r}"
        other = next((taken[number] for number in covered if number in taken), None)
        if other is not None:
            if other != span:
                notes.append(f"{said} shares a token with {other.type} {text[other.start : other.end]!r} and is left out")
            continue
        if start < span.start or end > span.end:
            notes.append(f"{said} cuts a token and is widened to {text[start:end]!r}")
        taken |= dict.fromkeys(covered, span)
        ranges.append((first, last, span.type))
    return ranges


def _annotated(line: Any, place: str) -> AnnotatedText:
    if not isinstance(line, dict) or not isinstance(line.get("text"), str):
        got = f"the keys {', '.join(map(repr, line)) or 'none'}" if isinstance(line, dict) else type(line).__name__
        raise ValueError(f'{place}: expected an object with a "text", got {got}')
    text = line["text"]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: expected characters that utf-8 can hold, got {text[error.start]!r}") from None
    entities: Any = next((line[key] for key in KEYS if line.get(key) is not None), [])
    if not isinstance(entities, list):
        raise ValueError(f"{place}: expected a list of entities, got {type(entities).__name__}")
    return AnnotatedText(text, tuple(sorted(_span(entity, text, place) for entity in entities)), place)


def _span(entity: Any, text: str, place: str) -> Span:
    match entity:
        case [start, end, kind] | {"start": start, "end": end, "label": kind}:
            pass
        case {"start_offset": start, "end_offset": end, "label": kind} | {"start": start, "end": end, "type": kind}:
            pass
        case _:
            raise ValueError(f"{place}: expected an entity as [start, end, type], got {json.dumps(entity)[:80]}")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise ValueError(
            f"{place}: expected a range in the text's {len(text):,} characters, got {json.dumps([start, end])[:80]}"
        )
    if not text[start:end].strip():
        raise ValueError(f"{place}: expected an entity of characters, got only spaces at {start} to {end}")
    try:
        split_tag(f"B-{kind}" if isinstance(kind, str) else "")
    except ValueError:
        raise ValueError(f"{place}: expected a type of one word, got {json.dumps(kind)[:80]}") from None
    return Span(start, end, kind)
