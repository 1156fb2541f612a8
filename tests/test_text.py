"""Raw text into sentences and tokens: cases written by hand, and what holds for any text."""

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from colnorm.data import text as raw_text
from colnorm.data.text import sentences, tokenize

CASES = {
    "Mr. Smith didn't go to the U.S. in 2004.": "Mr. Smith did n't go to the U.S. in 2004 .",
    "Iran's capital, Tehran": "Iran 's capital , Tehran",
    '"It can\'t be won!"': '" It ca n\'t be won ! "',
    "J. R. Ewing (of the al-Qaida-linked group)": "J. R. Ewing ( of the al-Qaida-linked group )",
    "left at 10:30 a.m. on Nov. 5th ...": "left at 10:30 a.m. on Nov. 5th ...",
    "It costs $1,000.50 -- 5% more": "It costs $ 1,000.50 -- 5 % more",
    "a 16-year-old from O'Brien's": "a 16-year-old from O'Brien 's",
    "See https://x.org/a_b. Or mail a.b@c.org!": "See https://x.org/a_b . Or mail a.b@c.org !",
    "don\u2019t, I'm, AT&T": "do n\u2019t , I 'm , AT&T",
    "``quoted''": "`` quoted ''",
    "Zürich und 北京": "Zürich und 北京",
    "": "",
    " \t\n": "",
}


@pytest.mark.parametrize("text", CASES)
def test_tokens(text):
    assert " ".join(token.word for token in tokenize(text)) == CASES[text]


@given(st.text("aB.'\u2019-,!?\") 0\nz\u00a0é", max_size=30) | st.text(max_size=30))
def test_tokens_are_the_text_without_spaces(text):
    tokens = tokenize(text)
    assert "".join(token.word for token in tokens) == "".join(text.split())
    assert all(text[token.start : token.end] == token.word for token in tokens)
    assert [token.start for token in tokens] == sorted(token.start for token in tokens)
    assert [token for sentence in sentences(text) for token in sentence] == tokens
    assert all(sentences(text))


SENTENCES = {
    "He left. She stayed! Why? No.": ["He left .", "She stayed !", "Why ?", "No ."],
    "Mr. Bush met Dr. Annan of the U.S. Senate.": ["Mr. Bush met Dr. Annan of the U.S. Senate ."],
    'He said: "Go." Then he went.': ['He said : " Go . "', "Then he went ."],
    "It rose 0.5 percent ... and fell.": ["It rose 0.5 percent ... and fell ."],
    "A headline without an end\n\nA paragraph\nover two lines.": [
        "A headline without an end",
        "A paragraph over two lines .",
    ],
    "(It ended.) 42 men left.": ["( It ended . )", "42 men left ."],
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences(text):
    assert [" ".join(token.word for token in sentence) for sentence in sentences(text)] == SENTENCES[text]


# ------------------------------------------------------------------------------------------------- the rules, plainly put

PLAIN_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)[^\s<>"]*[^\s<>".,;:!?'()\]]
  | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
  | (?:[^\W\d_]\.){2,}
  | \d+(?:[.,:/]\d+)*[^\W\d_]*(?:-[^\W_]+)*
  | (?-i:[A-Z]['\u2019][A-Z][^\W\d_]+)
  | [^\W_]+(?:[-.&][^\W_]+)*
  | '(?:s|re|ve|ll|d|m|t)\b | [\u2019](?:s|re|ve|ll|d|m|t)\b
  | \.\.\. | -- | `` | ''
  | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
PLAIN_NEGATION = re.compile(r"(\w+)(n['\u2019]t)\b", re.IGNORECASE)


def plain_tokens(text):
    """One expression that may scan a run from each of its places: quadratic, and easier to believe than what is tested."""
    words = []
    for stretch in re.findall(r"\S+", text):
        while stretch:
            word = PLAIN_TOKEN.match(stretch).group()
            if stretch[len(word) :].startswith(".") and raw_text._is_abbreviation(word):
                word += "."
            negation = PLAIN_NEGATION.match(stretch) if word.isalpha() else None
            parts = negation.groups() if negation else (word,)
            words += parts
            stretch = stretch[sum(map(len, parts)) :]
    return words


PIECES = [
    "http://",
    "www.",
    "@",
    "a@b.c",
    "n't",
    "n\u2019T",
    "_",
    "+",
    "-",
    ".",
    "'",
    "'s",
    "O'B",
    "1",
    ",",
    "a",
    "N",
    "Mr",
    "U.S.",
]
PIECES += ["<", '"', "&", "é", "\u212a", "\u017f", "²", " ", "\n", "\n \n", "\x85", "--", "...", "''", "``", ")", "A"]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_tokens_are_those_of_the_plain_rules(text):
    assert [token.word for token in tokenize(text)] == plain_tokens(text)


@given(st.lists(st.sampled_from(["a", ".", "B", " ", "\n", "\t", "\r", "\x85", "\u2028"]), max_size=12).map("".join))
def test_paragraphs_end_at_blank_lines(text):
    paragraphs = re.findall(r"(?:[^\n]|\n(?!\s*\n))+", text)
    expected = [[token.word for token in sentence] for paragraph in paragraphs for sentence in sentences(paragraph)]
    assert [[token.word for token in sentence] for sentence in sentences(text)] == expected
