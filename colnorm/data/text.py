"""Raw text into sentences and tokens, with the place of each in the text, in the manner of the Penn Treebank.

Time grows with the length of the text, whatever it holds.
"""

import re
from typing import NamedTuple


class Token(NamedTuple):
    """A token and its half-open range of characters: ``text[start:end] == word``."""

    word: str
    start: int
    end: int


# Words that end in a period without ending a sentence; a single letter and a word with periods inside do, too.
_ABBREVIATION = re.compile(
    "mr|mrs|ms|dr|prof|st|jr|sr|gen|col|lt|capt|sgt|maj|adm|rep|sen|gov|pres|vs|etc|inc|corp|co|ltd|bros|vol|fig"
    "|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
# Text may be anything, a megabyte of underscores too, so that time has to grow with its length alone. What one place of the
# text scans and then refuses, the next must not scan again; hence every repetition here is possessive (it gives nothing
# back), and the two kinds of runs that may be scanned in vain are scanned once and remembered: see `_split`.
_STRETCH = re.compile(r"\S++")
_TOKEN = re.compile(
    r"""
    # An address, without the punctuation that follows it: this alone gives back, and what it gives back begins no other.
    (?P<address>(?:https?://|www\.)[^\s<>"]*[^\s<>".,;:!?'()\]])
  | (?:[^\W\d_]\.){2,}+                                      # U.S.
  | \d++(?:[.,:/]\d++)*+[^\W\d_]*+(?:-[^\W_]++)*+            # 1,000.5   10:30   20th   16-year-old
  | (?-i:[A-Z]['\u2019][A-Z][^\W\d_]++)                      # O'Brien
  | [^\W_]++(?:[-.&][^\W_]++)*+                              # words, with hyphens and periods inside
  | '(?:s|re|ve|ll|d|m|t)\b | [\u2019](?:s|re|ve|ll|d|m|t)\b # clitics, left by the words before them
  | \.\.\. | -- | `` | ''                                    # what is longer than one sign
  | \S                                                       # any other sign alone
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MAIL = re.compile(r"(?P<name>[\w.+-]++)(?P<domain>@[\w-]++(?:\.[\w-]++)++)?+")  # a mail address, or what would be its name
_WORD_RUN = re.compile(r"\w++")
_NEGATION = re.compile(r"n['\u2019]t\b", re.IGNORECASE)
_FINAL = frozenset([".", "!", "?", "..."])
_CLOSING = frozenset("\"'\u201d\u2019)]''")


def tokenize(text: str) -> list[Token]:
    """The tokens of ``text`` in order, without regard to sentences.

    Punctuation stands alone, but for the period of an abbreviation (``Mr.``, ``U.S.``); ``don't`` is ``do n't`` and
    ``Iran's`` is ``Iran 's``.
    """
    tokens: list[Token] = []
    for stretch in _STRETCH.finditer(text):
        tokens += _split(text, *stretch.span())
    return tokens


def sentences(text: str) -> list[list[Token]]:
    """The sentences of ``text``, each a list of its tokens; a blank line ends one, too.

    A sentence ends at ``.``, ``!`` or ``?``, with any closing quotes and brackets after it, before a word that begins with
    anything but a lower-case letter.
    """
    found: list[list[Token]] = []
    current: list[Token] = []
    ended = False
    end = 0
    for stretch in _STRETCH.finditer(text):
        if text.count("\n", end, stretch.start()) > 1:  # a blank line
            found += [current] if current else []
            current, ended = [], False
        end = stretch.end()
        for token in _split(text, *stretch.span()):
            if ended and token.word not in _CLOSING and not token.word[0].islower():
                found.append(current)
                current, ended = [], False
            current.append(token)
            if token.word in _FINAL:
                ended = True
            elif token.word not in _CLOSING:
                ended = False
    return [*found, current] if current else found


def _split(text: str, first: int, last: int) -> list[Token]:
    """The tokens of a stretch without spaces."""
    tokens: list[Token] = []
    may_mail = text.find("@", first, last) >= 0
    # The ends of the run of word characters and of the possible name of a mail address scanned last, and of the address:
    # a token that begins within a run finds the same end of it as the one before. An address of -1 is none.
    run_end = name_end = mail_end = -1
    at = first
    while at < last:
        match = _TOKEN.match(text, at, last)
        assert match is not None  # the last alternative takes any character that is no space
        word = match.group()
        if may_mail and match.lastgroup is None:
            if at >= name_end and (mail := _MAIL.match(text, at, last)):
                name_end, mail_end = mail.end("name"), mail.end("domain")
            if at < name_end and mail_end >= 0:
                word = text[at:mail_end]
        end = at + len(word)
        if text.startswith(".", end, last) and _is_abbreviation(word):
            end += 1
            word += "."
        elif word.isalpha():
            if at >= run_end and (run := _WORD_RUN.match(text, at, last)):
                run_end = run.end()
            if at < run_end - 1 and _NEGATION.match(text, run_end - 1, last):
                tokens.append(Token(text[at : run_end - 1], at, run_end - 1))
                at, end = run_end - 1, run_end + 2
                word = text[at:end]
        tokens.append(Token(word, at, end))
        at = end
    return tokens


def _is_abbreviation(word: str) -> bool:
    return _ABBREVIATION.fullmatch(word.lower()) is not None or (len(word) == 1 and word.isalpha() and word.isupper())
