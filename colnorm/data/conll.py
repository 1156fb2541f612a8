"""Sentences with tags: column files as CoNLL has them, the GMB table, and data sets of three splits out of these or of JSON
lines (:mod:`colnorm.data.json_lines`).

Text is cut only where a file format says so: lines at "\\n" and "\\r\\n", columns at spaces and tabs. Python's own
`splitlines`, `split` and `strip` also cut at U+0085, U+00A0, U+2028 and U+3000, which are (parts of) words in real data.
"""

import codecs
import csv
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colnorm.data import json_lines, sample, schemes
from colnorm.data.schemes import Sentence
from colnorm.data.split import shuffled_shares

__all__ = ["Sentence", "TaggingData", "load", "read_columns", "read_gmb"]

_SPLIT_NAMES = {"train": ("train",), "validation": ("dev", "valid", "validation", "testa"), "test": ("test", "testb")}
_EXTENSIONS = (*json_lines.EXTENSIONS, ".txt", ".conll", ".conllu", ".iob", ".iob2", ".bio", ".tsv")
_GMB_COLUMNS = ("Sentence #", "Word", "Tag")
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class TaggingData:
    """Tagged sentences in three splits. In what `load` returns, no split holds a sentence (equal words) of another, unless
    repeats were to be kept.

    `dropped` is the number of sentences that `load` left out for that; `notes` are what it changed to read the data.
    """

    name: str
    train: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
    dropped: int = 0
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, list[Sentence]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def entity_types(self) -> tuple[str, ...]:
        """The types of all splits in alphabetical order."""
        tags = {tag for sentences in self.splits.values() for sentence in sentences for tag in sentence.tags}
        return tuple(sorted({schemes.split_tag(tag)[1] for tag in tags} - {""}))

    @property
    def tag_names(self) -> tuple[str, ...]:
        """ "O", then B-x and I-x for each of `entity_types`, both even where only one occurs."""
        return ("O", *(f"{prefix}-{kind}" for kind in self.entity_types for prefix in "BI"))


def load(
    source: str | os.PathLike[str],
    seed: int = 0,
    word_column: int = 0,
    tag_column: int = -1,
    *,
    keep_repeats: bool = False,
    percents: Sequence[int] = (60, 20, 20),
) -> TaggingData:
    """The data set that `source` names; for the same arguments the same splits.

    - "sample": the sentences of `colnorm.data.sample` (a directory of that name is "./sample").
    - a file: a `.csv` (`read_gmb`), JSON lines (.jsonl .ndjson, `json_lines`), or columns (`read_columns` with `word_column`
      and `tag_column`). Of sentences, or of texts in JSON lines, with equal words the first is kept. Of
      `np.random.default_rng(seed).permutation` the last of `percents` is the test split, the one before it the validation
      split, and the rest, in that order, the training split; 20 percent are a fifth, rounded down.
    - a directory: one file for each split, JSON lines or columns. The last part of a file's name, parts being separated by
      ".", "-" or "_" and an extension (.jsonl .ndjson .txt .conll .conllu .iob .iob2 .bio .tsv) left off, says which split
      it is: train; dev, valid, validation or testa; test or testb. "eng.testa" and "en-dev.txt" are validation files.

    Training sentences that occur in validation or test, and validation sentences that occur in test, are dropped, so that
    published test sets stay whole; sentences that repeat within a split of a directory stay. `keep_repeats` drops nothing:
    published comparisons don't.

    Raises FileNotFoundError where nothing is there or a split has no file, and ValueError for a split with several
    files, a file of another kind, a file of too few distinct sentences for each split to have one, percents that are not three
    positive ones of 100 in all, a training or validation split of which nothing is left, and what the readers raise.

    Example:
      >>> from colnorm.data import conll
      >>> data = conll.load("sample")
      >>> len(data.train) > 1000, data.tag_names[:3]
      (True, ('O', 'B-art', 'I-art'))
    """
    if source == "sample":
        return TaggingData("sample", *sample.generate(seed))
    if len(percents) != 3 or min(percents) < 1 or sum(percents) != 100:
        raise ValueError(f"expected three positive percents that add up to 100, got {', '.join(map(str, percents))}")
    path = Path(source)
    notes: list[str] = []
    if path.is_dir():
        splits = _read_directory(path, word_column, tag_column, notes)
        name, repeated = path.resolve().name, 0
    elif not path.exists():
        raise FileNotFoundError(f"{path}: expected 'sample', a file or a directory of tagged sentences, found nothing there")
    else:
        splits, repeated = _split_file(path, seed, word_column, tag_column, notes, keep_repeats, percents)
        name = path.name
    train, validation, test = splits
    if keep_repeats:
        return TaggingData(name, train, validation, test, notes=tuple(notes))
    in_test = {sentence.words for sentence in test}
    kept_validation = [sentence for sentence in validation if sentence.words not in in_test]
    in_either = in_test.union(sentence.words for sentence in validation)
    kept_train = [sentence for sentence in train if sentence.words not in in_either]
    for what, kept in (("training", kept_train), ("validation", kept_validation)):
        if not kept:
            raise ValueError(f"{path}: expected {what} sentences that are not in the splits after it, got none")
    dropped = repeated + len(train) + len(validation) - len(kept_train) - len(kept_validation)
    return TaggingData(name, kept_train, kept_validation, test, dropped, tuple(notes))


def read_columns(
    path: str | os.PathLike[str],
    word_column: int = 0,
    tag_column: int = -1,
    comment: str = "#",
    tag_scheme: str | None = None,
) -> list[Sentence]:
    """The sentences of a column file, UTF-8 with or without a byte order mark; tags are converted to BIO.

    A line is a token; an empty one (spaces and tabs count as nothing) or one whose first column is "-DOCSTART-" ends a
    sentence. Columns are separated by single tabs where the first token line has one (words may then hold spaces), else
    by runs of spaces and tabs. Separators at the end of a line are no column: the first token line has as many columns as
    it has texts up to the last, and empty ones after that many are nothing. An empty column before the last one is a column.
    Columns count from 0, negative ones from the last.

    A line that starts with `comment` is a comment only in front of a sentence's first token, and there only where it
    can't be a token: it has another number of columns than the other lines, or no tag in the tag column. So a word "#"
    or "#tag" is never lost. `comment=""` makes every line a token.

    `tag_scheme` is one of `schemes.to_bio`; without it the prefixes of the whole file tell (`schemes.recognise`).
    Illegal tags are repaired as `to_bio` does.

    Raises ValueError, with file and line, for bytes that are no UTF-8, a carriage return inside a line, a number of
    columns that differs from the first token's, a column that is not there, an empty word, a tag with another prefix
    or without a type, and prefixes of several schemes; and for a file without a sentence.
    """
    path = Path(path)
    prefixes = schemes.ANY_PREFIX if tag_scheme is None else schemes.prefixes_of(tag_scheme)
    lines = [line.removesuffix("\r") for line in _decode(path, path.read_bytes(), "utf-8").split("\n")]
    first = _first_token_line(path, lines, comment, tag_column)
    tabs = _has_tabs(lines[first])
    width = len(_columns(lines[first].rstrip(" \t"), tabs))
    place = f"{path}:{first + 1}"
    word_at, tag_at = (_column(place, column, width) for column in (word_column, tag_column))
    if word_at == tag_at:
        raise ValueError(f"{place}: expected words and tags in two columns, got column {word_column} for both of {width}")

    found = _Found(prefixes)
    begun = False
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if "\r" in line:
            raise ValueError(f"{place}: expected lines that end with \\n or \\r\\n, got a carriage return inside one")
        if _ends_sentence(line):
            begun = False
            continue
        columns = _columns(line, tabs, width)
        if not begun and _is_comment(line, comment) and (len(columns) != width or not schemes.is_tag(columns[tag_at])):
            continue
        if len(columns) != width:
            raise ValueError(f"{place}: expected {width} columns as in line {first + 1}, got {len(columns)}: {line!r}")
        word, tag = columns[word_at], columns[tag_at]
        if not word:
            raise ValueError(f"{place}: expected a word in column {word_column}, got an empty one")
        found.check_tag(place, tag)
        if not begun:
            found.begin()
            begun = True
        found.add(word, tag)
    return found.in_bio(schemes.recognise(found.of_prefix.values()) if tag_scheme is None else tag_scheme)


def read_gmb(path: str | os.PathLike[str]) -> list[Sentence]:
    """The sentences of the GMB table as published: comma-separated, with a header that names `Sentence #`, `Word`, `Tag`.

    Other columns, as `POS`, are not read. A row with "Sentence: n" begins a sentence, unless it repeats the n of the row
    before, as tables do that were filled down. Empty lines are skipped. The encoding is UTF-8 (with or without a byte
    order mark) where all bytes are UTF-8, else cp1252. Tags are BIO; an I-x where no entity of type x is open becomes
    B-x, as conlleval reads it (the published table has none).

    Raises ValueError, with file and line, for bytes that are neither, a missing header, a number of columns that differs
    from the header's, quotes that do not close, an empty word, a line break in a word, a first row without "Sentence: n",
    another text in its place, and a tag that is not BIO; and for a file without a sentence.
    """
    path = Path(path)
    raw = path.read_bytes()
    try:
        text = _decode(path, raw, "utf-8")
    except ValueError:
        if raw.startswith(codecs.BOM_UTF8):
            raise
        text = _decode(path, raw, "cp1252")
    # newline="\n": a StringIO of its own accord would cut lines at a carriage return inside quotes, too.
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    found = _Found("BI")
    header: list[str] = []
    marker = ""
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise ValueError(f"{place}: expected a row of comma-separated values, got: {error}") from None
        if not row:
            continue
        if not header:
            missing = [name for name in _GMB_COLUMNS if row.count(name) != 1]
            if missing:
                raise ValueError(f"{place}: expected a header with {', '.join(_GMB_COLUMNS)} once each, got {row}")
            header = row
            sentence_at, word_at, tag_at = (header.index(name) for name in _GMB_COLUMNS)
            continue
        if len(row) != len(header):
            raise ValueError(f"{place}: expected {len(header)} columns as in the header, got {len(row)}: {row}")
        begins, word, tag = row[sentence_at], row[word_at], row[tag_at]
        if not word.strip(" \t"):
            raise ValueError(f"{place}: expected a word, got {word!r}")
        if "\n" in word or "\r" in word:
            raise ValueError(f"{place}: expected a word on one line, got {word[:40]!r}: is there a quote that does not close?")
        found.check_tag(place, tag)
        if begins and not re.fullmatch("Sentence: [0-9]+", begins):
            raise ValueError(f"{place}: expected 'Sentence: ' and a number or nothing, got {begins!r}")
        if begins and begins != marker:
            marker = begins
            found.begin()
        if not found.sentences:
            raise ValueError(f"{place}: expected 'Sentence: ' and a number in the first row, got nothing")
        found.add(word, tag)
    if not found.sentences:
        raise ValueError(f"{path}: expected a header and at least one sentence, got {'a header' if header else 'nothing'}")
    return found.in_bio("BIO")


def _decode(path: Path, raw: bytes, encoding: str) -> str:
    """`raw` without the byte order mark that a file may begin with."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        got = raw[error.start : error.end].hex(" ")
        raise ValueError(f"{path}:{line}: expected text in {encoding}, got the bytes {got}") from None


class _Found:
    """The sentences of a file so far, as words and tags; each distinct tag is checked once."""

    def __init__(self, prefixes: str):
        self.prefixes = prefixes
        self.sentences: list[tuple[list[str], list[str]]] = []
        self.of_prefix: dict[str, str] = {}  # one tag for each prefix
        self._known: set[str] = set()

    def check_tag(self, place: str, tag: str) -> None:
        if tag in self._known:
            return
        try:
            prefix, _ = schemes.split_tag(tag, self.prefixes)
            schemes.recognise([*self.of_prefix.values(), tag])  # prefixes tell: all tags, for each new one, would take for ever
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        self._known.add(tag)
        self.of_prefix[prefix] = tag

    def begin(self) -> None:
        self.sentences.append(([], []))

    def add(self, word: str, tag: str) -> None:
        words, tags = self.sentences[-1]
        words.append(sys.intern(word))
        tags.append(sys.intern(tag))

    def in_bio(self, scheme: str) -> list[Sentence]:
        return [Sentence(tuple(words), schemes.to_bio(tags, scheme)) for words, tags in self.sentences]


def _is_comment(line: str, comment: str) -> bool:
    return bool(comment) and line.startswith(comment)


def _ends_sentence(line: str) -> bool:
    return not line.strip(" \t") or re.split("[ \t]", line, maxsplit=1)[0] == _DOCUMENT


def _has_tabs(line: str) -> bool:
    return "\t" in line.rstrip(" \t")


def _columns(line: str, tabs: bool, width: int | None = None) -> list[str]:
    """The columns of `line`, without the empty ones that separators at its end make beyond `width`."""
    if not tabs:
        return re.split("[ \t]+", line.strip(" \t"))
    columns = [column.strip(" ") for column in line.split("\t")]
    last = len(columns)
    while width is not None and last > width and not columns[last - 1]:
        last -= 1
    return columns[:last]


def _column(place: str, column: int, width: int) -> int:
    if not -width <= column < width:
        raise ValueError(f"{place}: expected a column {column}, got {width} columns")
    return column % width


def _first_token_line(path: Path, lines: Sequence[str], comment: str, tag_column: int) -> int:
    """The first line that is no comment; where every line starts as comments do, the first with a tag in its place."""
    candidates = [number for number, line in enumerate(lines) if not _ends_sentence(line)]
    for number in candidates:
        if not _is_comment(lines[number], comment):
            return number
    for number in candidates:
        columns = _columns(lines[number].rstrip(" \t"), _has_tabs(lines[number]))
        if -len(columns) <= tag_column < len(columns) and schemes.is_tag(columns[tag_column]):
            return number
    raise ValueError(f"{path}: expected at least one sentence, got none")


def _read_texts(path: Path, word_column: int, tag_column: int, notes: list[str]) -> list[list[Sentence]]:
    """What stays together when a file is split: the sentences of a text, else each sentence."""
    extension = path.suffix.lower()
    if extension in json_lines.EXTENSIONS:
        texts = []
        for text in json_lines.read_json_lines(path):
            aligned = json_lines.align([text])
            texts.append(aligned.sentences)
            notes += aligned.notes
        return texts
    if extension == ".csv":
        return [[sentence] for sentence in read_gmb(path)]
    return [[sentence] for sentence in read_columns(path, word_column, tag_column)]


def _split_file(
    path: Path, seed: int, word_column: int, tag_column: int, notes: list[str], keep_repeats: bool, percents: Sequence[int]
) -> tuple[list[list[Sentence]], int]:
    """The three splits, and how many sentences were left out as repeated."""
    if path.suffix.lower() not in (".csv", *_EXTENSIONS):
        kinds = f"a file ({' '.join(('.csv', *_EXTENSIONS))}) or a directory of such"
        raise ValueError(f"{path}: expected 'sample', {kinds}, got another kind of file")
    texts = [text for text in _read_texts(path, word_column, tag_column, notes) if text]
    first: dict[Any, list[Sentence]] = {}
    for number, text in enumerate(texts):
        first.setdefault(number if keep_repeats else tuple(sentence.words for sentence in text), text)
    kept = list(first.values())
    parts = shuffled_shares(len(kept), seed, percents)
    if not all(len(part) for part in parts):
        fewest = -(-100 // min(percents[1:]))
        raise ValueError(f"{path}: expected at least {fewest} distinct sentences to split, got {len(kept)}")
    splits = [[sentence for index in part for sentence in kept[index]] for part in parts]
    return splits, sum(map(len, texts)) - sum(map(len, kept))


def _read_directory(root: Path, word_column: int, tag_column: int, notes: list[str]) -> list[list[Sentence]]:
    files = sorted(path for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    splits = []
    for names in _SPLIT_NAMES.values():
        chosen = [path for path in files if _last_part(path) in names]
        if not chosen:
            looked_for = f"a file named {' or '.join(names)}, also with a prefix or with {' '.join(_EXTENSIONS)}"
            there = ", ".join(path.name for path in files) or "no files"
            raise FileNotFoundError(f"{root}: expected {looked_for}; there are: {there}")
        if len(chosen) > 1:
            got = ", ".join(path.name for path in chosen)
            raise ValueError(f"{root}: expected one file named {' or '.join(names)}, got {len(chosen)}: {got}")
        texts = _read_texts(chosen[0], word_column, tag_column, notes)
        splits.append([sentence for text in texts for sentence in text])
    return splits


def _last_part(path: Path) -> str:
    stem = path.stem if path.suffix.lower() in _EXTENSIONS else path.name
    return re.split("[._-]", stem.lower())[-1]
