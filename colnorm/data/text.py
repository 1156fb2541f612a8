"""Raw text into sentences and tokens, with the place of each in the text, in the manner of the Penn Treebank."""

import re
from typing import NamedTuple


class Token(NamedTuple):
    """A token and its half-open range of characters: ``text[start:end] == word``."""

    word: str
    start: int
    end: int


# Words that end in a period without ending a sentence; a single letter and a word with periods inside do, too.
_ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "jr",
        "sr",
        "gen",
        "col",
        "lt",
        "capt",
        "sgt",
        "maj",
        "adm",
        "rep",
        "sen",
        "gov",
        "pres",
        "vs",
        "etc",
        "inc",
        "corp",
        "co",
        "ltd",
        "bros",
        "vol",
        "fig",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
    ]
)
_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)[^\s<>"]*[^\s<>".,;:!?'()\]]         # an address, without the punctuation that follows it
  | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                            # a mail address
  | (?:[^\W\d_]\.){2,}                                      # U.S.
  | \d+(?:[.,:/]\d+)*[^\W\d_]*(?:-[^\W_]+)*                # 1,000.5   10:30   20th   16-year-old
  | (?-i:[A-Z]['\u2019][A-Z][^\W\d_]+)                            # O'Brien
  | [^\W_]+(?:[-.&][^\W_]+)*                                # words, with hyphens and periods inside
  | '(?:s|re|ve|ll|d|m|t)\b | [\u2019](?:s|re|ve|ll|d|m|t)\b     # clitics, left by the words before them
  | \.\.\. | -- | `` | ''                                   # what is longer than one sign
  | \S                                                      # any other sign alone
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NEGATION = re.compile(r"(\w+)(n['\u2019]t)\b", re.IGNORECASE)
_CLOSING = frozenset("\"'\u201d\u2019)]''")


def tokenize(text: str) -> list[Token]:
    """The tokens of ``text`` in order, without regard to sentences.

    Punctuation stands alone, but for the period of an abbreviation (``Mr.``, ``U.S.``); ``don't`` is ``do n't`` and
    ``Iran's`` is ``Iran 's``.
    """
    tokens: list[Token] = []
    for match in re.finditer(r"\S+", text):
        tokens.extend(_split(text, match.start(), match.end()))
    return tokens


def sentences(text: str) -> list[list[Token]]:
    """The sentences of ``text``, each a list of its tokens; a blank line ends one, too.

    A sentence ends at ``.``, ``!`` or ``?``, with any closing quotes and brackets after it, before a word that begins with
    anything but a lower-case letter.
    """
    found: list[list[Token]] = []
    for paragraph in re.finditer(r"(?:[^\n]|\n(?!\s*\n))+", text):
        first = paragraph.start()
        tokens = [Token(word, first + start, first + end) for word, start, end in tokenize(paragraph.group())]
        current: list[Token] = []
        ended = False
        for token in tokens:
            if ended and token.word not in _CLOSING and not token.word[0].islower():
                found.append(current)
                current, ended = [], False
            current.append(token)
            if token.word in {".", "!", "?", "..."}:
                ended = True
            elif token.word not in _CLOSING:
                ended = False
        if current:
            found.append(current)
    return found


def _split(text: str, first: int, last: int) -> list[Token]:
    """The tokens of a stretch without spaces."""
    tokens: list[Token] = []
    at = first
    while at < last:
        match = _TOKEN.match(text, at, last)
        assert match is not None  # the last alternative takes any character that is no space
        start, end = match.span()
        word = match.group()
        if text[end:last].startswith(".") and _is_abbreviation(word):
            end += 1
        negation = _NEGATION.match(text, start, last) if text[start:end].isalpha() else None
        if negation is not None:
            middle = negation.start(2)
            tokens += [Token(text[start:middle], start, middle), Token(text[middle : negation.end()], middle, negation.end())]
            at = negation.end()
        else:
            tokens.append(Token(text[start:end], start, end))
            at = end
    return tokens


def _is_abbreviation(word: str) -> bool:
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word.isupper())
