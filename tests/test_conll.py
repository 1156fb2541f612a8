"""Oracles: files written by hand for every rule, seqeval for entities, round trips of drawn sentences."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from colnorm.data import sample, schemes
from colnorm.data.conll import Sentence, TaggingData, load, read_columns, read_gmb
from colnorm.data.schemes import entities, is_tag, recognise, split_tag, to_bio


def make_sentence(text):
    """Words, each with "/" and its tag, or without and O."""
    pairs = [part.rsplit("/", 1) if "/" in part else (part, "O") for part in text.split(" ")]
    return Sentence(tuple(word for word, _ in pairs), tuple(tag for _, tag in pairs))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def format_columns(sentences, separator=" ", end="\n"):
    return end.join(
        "".join(f"{word}{separator}{tag}{end}" for word, tag in zip(*sentence, strict=True)) for sentence in sentences
    )


# -------------------------------------------------------------------------------------------------------------- schemes

CONVERSIONS = [
    # one long entity, two that touch, one alone, another type
    ("O I-a I-a O I-b", "IOB1", "O B-a I-a O B-b"),
    ("I-a B-a I-a I-b B-b", "IOB1", "B-a B-a I-a B-b B-b"),
    ("B-a I-a B-a O B-b", "BIO", "B-a I-a B-a O B-b"),
    ("B-a I-a B-a O B-b", "IOB2", "B-a I-a B-a O B-b"),
    ("B-a I-a E-a S-a B-b E-b O S-b", "BIOES", "B-a I-a I-a B-a B-b I-b O B-b"),
    ("B-a I-a E-a S-a B-b E-b O S-b", "IOBES", "B-a I-a I-a B-a B-b I-b O B-b"),
    ("B-a I-a L-a U-a B-b L-b O U-b", "BILOU", "B-a I-a I-a B-a B-b I-b O B-b"),
    ("I-a-b I-a-b I-a", "IOB1", "B-a-b I-a-b B-a"),  # a type with a dash
    # repaired: an I or E where no entity of its type is open
    ("O I-a B-b I-a", "BIO", "O B-a B-b B-a"),
    ("E-a O E-a", "BIOES", "B-a O B-a"),
    ("B-a E-a I-a", "BIOES", "B-a I-a B-a"),
    ("S-a I-a E-a", "BIOES", "B-a B-a I-a"),
    ("B-a E-b S-b E-b", "BIOES", "B-a B-b B-b B-b"),
    ("U-a L-a L-a", "BILOU", "B-a B-a B-a"),
]


@pytest.mark.parametrize(("tags", "scheme", "expected"), CONVERSIONS)
def test_schemes_become_bio(tags, scheme, expected):
    assert to_bio(tags.split(), scheme) == tuple(expected.split())


def encode_entities(spans, length, scheme):
    """The tags of (type, start, end) by the definition of each scheme."""
    tags = ["O"] * length
    for kind, start, end in spans:
        touches = any(other == kind and stop == start for other, _, stop in spans)
        for place in range(start, end):
            tags[place] = ("B-" if place == start and (scheme != "IOB1" or touches) else "I-") + kind
        if scheme in ("BIOES", "BILOU"):
            last, alone = ("E", "S") if scheme == "BIOES" else ("L", "U")
            tags[end - 1] = f"{alone if end - start == 1 else last}-{kind}"
    return tags


@st.composite
def drawn_spans(draw):
    spans, end = [], 0
    for gap, length, kind in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from("xyz")))):
        spans.append((kind, end + gap, end + gap + length))
        end += gap + length
    return spans, end + draw(st.integers(0, 2))


@given(drawn_spans())
def test_every_scheme_tells_the_same_entities(drawn):
    spans, length = drawn
    bio = tuple(encode_entities(spans, length, "BIO"))
    assert entities(bio) == spans
    for scheme in ("IOB1", "BIO", "BIOES", "BILOU"):
        tags = encode_entities(spans, length, scheme)
        assert to_bio(tags, scheme) == bio
        assert to_bio(tags, recognise(tags)) == bio


@given(st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y", "B-x-y", "I-x-y"])))
def test_entities_match_seqeval_legal_or_not(tags):
    expected = [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
    assert entities(tags) == expected
    assert entities(to_bio(tags)) == expected  # the repair keeps what is read
    assert all(tag[0] != "I" or before[1:] == tag[1:] for before, tag in zip(("O", *to_bio(tags)), to_bio(tags), strict=False))


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("B-", "with a type"),
        ("B", "with a type"),
        ("I", "with a type"),
        ("B-a b", "type of one word"),
        ("B-a\tb", "type of one word"),
        ("X-a", "prefix of B, I, E, S, L, U"),
        ("o", "prefix"),
        ("", "prefix"),
        ("BI-a", "prefix"),
        ("-a", "prefix"),
        ("O-a", "prefix"),
        ("b-a", "prefix"),
        ("B_a", "prefix"),
    ],
)
def test_what_is_no_tag(tag, message):
    with pytest.raises(ValueError, match=message):
        split_tag(tag)
    assert not is_tag(tag)


def test_scheme_errors():
    with pytest.raises(ValueError, match="prefix of B, I, got 'E-a'"):
        to_bio(["E-a"], "BIO")
    with pytest.raises(ValueError, match="prefix of B, I, got 'S-a'"):
        entities(["S-a"])
    with pytest.raises(ValueError, match="prefix of B, I, L, U, got 'E-a'"):
        to_bio(["E-a"], "BILOU")
    with pytest.raises(ValueError, match=r"scheme of IOB1, .*got 'IO'"):
        to_bio(["O"], "IO")
    with pytest.raises(ValueError, match="one scheme"):
        recognise(["E-a", "U-a"])
    assert recognise(["O", "I-a"]) == recognise([]) == "BIO"
    assert recognise(["E-a"]) == recognise(["S-a"]) == "BIOES"
    assert recognise(["L-a"]) == recognise(["U-a"]) == "BILOU"


# --------------------------------------------------------------------------------------------------------- column files


def test_a_file_as_conll_2003_has_it(tmp_path):
    text = (
        "-DOCSTART- -X- O O\n\n"
        "EU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\n\n\n"
        "Peter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER\n"
        "-DOCSTART- -X- O O\nLondon NNP I-NP I-LOC\nParis NNP I-NP B-LOC"
    )
    expected = ["EU/B-ORG rejects German/B-MISC", "Peter/B-PER Blackburn/I-PER", "London/B-LOC Paris/B-LOC"]
    assert read_columns(write(tmp_path / "train", text)) == [make_sentence(line) for line in expected]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", "\t", "  ", " \t "])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_separators_line_ends_and_byte_order_mark(tmp_path, end, separator, bom):
    sentences = [make_sentence("Anna/B-per left Oslo/B-geo ."), make_sentence("Rain/O")]
    path = write(tmp_path / "f", bom + end + format_columns(sentences, separator, end) + end + " \t" + end)
    assert read_columns(path) == sentences


def test_columns_by_number(tmp_path):
    path = write(tmp_path / "f", "1\tB-per\tAnna\tNNP\n2\tO\truns\tVB\n")
    expected = [make_sentence("Anna/B-per runs")]
    assert read_columns(path, word_column=2, tag_column=1) == expected
    assert read_columns(path, word_column=-2, tag_column=-3) == expected


def test_tab_separated_words_may_hold_spaces(tmp_path):
    path = write(tmp_path / "f", "10 000\tO\n New York \tB-geo\n")
    assert read_columns(path) == [Sentence(("10 000", "New York"), ("O", "B-geo"))]


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("end", [" ", "\t", "\t\t", " \t ", "  "])
def test_separators_at_the_end_of_a_line_are_no_column(tmp_path, separator, end):
    """Of every line, of the first token line alone, and of all but that."""
    expected = [make_sentence("Anna/B-per left"), make_sentence("#oslo/B-geo is")]
    lines = format_columns(expected, separator).split("\n")
    ended = [line + end for line in lines]
    comment = ["# text = Anna left" + end, "#" + end]
    for mixed in (ended, [ended[0], *lines[1:]], [lines[0], *ended[1:]], [*comment, *ended], [*comment, *lines]):
        assert read_columns(write(tmp_path / "f", "\n".join(mixed))) == expected
        assert read_columns(write(tmp_path / "f", "\r\n".join(mixed)), tag_column=1) == expected


def test_empty_columns_before_the_last_are_columns(tmp_path):
    path = write(tmp_path / "f", "a\t\tB-x\t\nb\tNN\tO\t\t\nc\tNN\tO\n")
    assert read_columns(path) == [make_sentence("a/B-x b c")]
    # What is not read may be empty in a line that has the width of the first.
    path = write(tmp_path / "f", "a\tO\tNN\nb\tO\t\nc\tO\t \t\n")
    assert read_columns(path, tag_column=1) == [make_sentence("a b c")]
    with pytest.raises(ValueError, match=r"f:2: expected a tag O or with a prefix .*got ''"):
        read_columns(write(tmp_path / "f", "a\tNN\tO\nb\tNN\t\n"))
    with pytest.raises(ValueError, match=r"f:2: expected 2 columns as in line 1, got 3"):
        read_columns(write(tmp_path / "f", "a\tO\t\nb\tO\tNN\n"))
    with pytest.raises(ValueError, match=r"f:2: expected 2 columns as in line 1, got 4"):
        read_columns(write(tmp_path / "f", "a\tO\nb\tO\t\tx\n"))
    with pytest.raises(ValueError, match=r"f:1: expected a word in column 0, got an empty one"):
        read_columns(write(tmp_path / "f", "\tO\t\n"))


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_words_of_unicode_spaces_and_line_breaks(tmp_path, separator):
    words = ("5\xa0storm", "\x85", "a\u2028b", "\u3000", "\x0b\x0c\x1c", "\u200b", "é", "e\u0301")
    sentence = Sentence(words, ("O",) * len(words))
    assert read_columns(write(tmp_path / "f", format_columns([sentence], separator))) == [sentence]


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r \t\ufeff"), min_size=1, max_size=6)
WORDS = WORD | st.sampled_from(["#", "##", "#tag", "-", "O", "B-x", ",", '"'])
TOKENS = st.lists(st.tuples(WORDS, st.sampled_from(["O", "O", "B-x", "B-y-z"])), min_size=1, max_size=6)
COMMENTS = st.lists(st.sampled_from(["# text = one # two", "#", "# x", "# sent_id = 1", "#global"]), max_size=2)


@given(st.lists(st.tuples(COMMENTS, TOKENS), min_size=1, max_size=5), st.sampled_from(" \t"), st.booleans())
def test_round_trip_loses_no_token(tmp_path_factory, drawn, separator, column):
    """Comments stand in front of sentences; with a middle column or without."""
    text, expected = "", []
    for comments, tokens in drawn:
        text += "".join(f"{comment}\n" for comment in comments)
        text += "".join(f"{word}{separator}{'NN' + separator if column else ''}{tag}\n" for word, tag in tokens) + "\n"
        expected.append(Sentence(tuple(word for word, _ in tokens), tuple(tag for _, tag in tokens)))
    assert read_columns(write(tmp_path_factory.mktemp("columns") / "f", text)) == expected


def test_comments_and_words_with_the_comment_character(tmp_path):
    text = (
        "# text = one two\n# sent_id = 1 2 3\n#\n# NN\n"
        "Rule NN O\n# NN O\n1 CD O\n\n"
        "# NN O\nis NN O\n\n"
        "#oslo NN B-geo\n\n"
        "# just words here\n# a b\n\nend NN O\n# NN O\n"
    )
    expected = ["Rule # 1", "# is", "#oslo/B-geo", "end #"]
    assert read_columns(write(tmp_path / "f", text)) == [make_sentence(line) for line in expected]


def test_a_file_where_every_line_starts_with_the_comment_character(tmp_path):
    path = write(tmp_path / "f", "# id 1\n#a\tB-x\n#b\tI-x\n")
    assert read_columns(path) == [make_sentence("#a/B-x #b/I-x")]


def test_a_comment_inside_a_sentence_is_a_token_with_too_few_columns(tmp_path):
    path = write(tmp_path / "f", "a NN O\n# B-x\nb NN O\n")
    with pytest.raises(ValueError, match=r"f:2: expected 3 columns as in line 1, got 2: '# B-x'"):
        read_columns(path)


def test_another_comment_character_and_none(tmp_path):
    text = "% a comment of words\n#x O\ny O\n"
    assert read_columns(write(tmp_path / "f", text), comment="%") == [make_sentence("#x y")]
    with pytest.raises(ValueError, match="f:1: "):
        read_columns(write(tmp_path / "f", text), comment="")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-a I-a O B-a", "B-a I-a O B-a"),
        ("B-a E-a O S-a", "B-a I-a O B-a"),
        ("B-a L-a O U-a", "B-a I-a O B-a"),
    ],
)
def test_the_scheme_is_that_of_the_whole_file(tmp_path, tags, expected):
    """The first sentence alone, "B-a I-a", does not tell."""
    first = "w B-a\nw I-a\n\n"
    path = write(tmp_path / "f", first + "".join(f"w {tag}\n" for tag in tags.split()))
    assert [sentence.tags for sentence in read_columns(path)] == [("B-a", "I-a"), tuple(expected.split())]


def test_a_given_scheme(tmp_path):
    path = write(tmp_path / "f", "a B-x\nb E-x\n")
    assert read_columns(path, tag_scheme="BIOES")[0].tags == ("B-x", "I-x")
    with pytest.raises(ValueError, match=r"f:2: expected a tag O or with a prefix of B, I, got 'E-x'"):
        read_columns(path, tag_scheme="BIO")
    with pytest.raises(ValueError, match=r"scheme of IOB1.*'bio'"):
        read_columns(path, tag_scheme="bio")


def test_each_tag_is_looked_at_once(tmp_path, monkeypatch):
    """However many distinct tags there are: a file may have as many as lines."""
    looked_at = []
    recognise = schemes.recognise

    def count(tags):
        looked_at.extend(tags := list(tags))
        return recognise(tags)

    monkeypatch.setattr(schemes, "recognise", count)
    path = write(tmp_path / "f", "".join(f"w {prefix}-{number}\n" for number in range(500) for prefix in "BIES"))
    assert len(read_columns(path)[0].tags) == 2000
    assert len(looked_at) <= 2000 * (1 + 4) + 4  # each with one of each prefix, and these once more


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", r"f:2: expected 2 columns as in line 1, got 1: 'b'"),
        ("\na NN O\nb NN NN O\n", r"f:3: expected 3 columns as in line 2, got 4"),
        ("a\tO\n\tO\n", r"f:2: expected a word in column 0, got an empty one"),
        ("a\tO\n \tO\n", r"f:2: expected a word in column 0"),
        ("a\tO\nb\t\n", r"f:2: expected a tag O or with a prefix .*got ''"),
        ("a\tO\nb\tB-x B-y\n", r"f:2: expected a tag with a type of one word"),
        ("a O\n\u3000\nb O\n", r"f:2: expected 2 columns as in line 1, got 1"),  # no empty line
        ("a O\nb Q-x\n", r"f:2: expected a tag O or with a prefix of B, I, E, S, L, U, got 'Q-x'"),
        ("a O\nb B-\n", r"f:2: expected a tag with a type .*got 'B-'"),
        ("a S-x\nb O\nc U-x\nd I-x\n", r"f:3: expected tags of one scheme, got prefixes of BIOES and BILOU"),
        ("a\n", r"f:1: expected words and tags in two columns"),
        ("a O\rb O\r\n", r"f:1: expected lines that end .*carriage return"),
        ("a O\r\r\n", r"f:1: expected lines that end"),
        ("", r"f: expected at least one sentence, got none"),
        ("\n \n\t\n", r"f: expected at least one sentence, got none"),
        ("# a comment\n# more\n", r"f: expected at least one sentence, got none"),
        ("-DOCSTART- -X- O O\n\n", r"f: expected at least one sentence, got none"),
    ],
)
def test_column_file_errors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_columns(write(tmp_path / "f", text))


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path / "f", "# c\na O\n")
    for columns in ({"word_column": 2}, {"tag_column": 2}, {"tag_column": -3}):
        with pytest.raises(ValueError, match=r"f:2: expected a column -?[23], got 2 columns"):
            read_columns(path, **columns)
    with pytest.raises(ValueError, match="f:2: expected words and tags in two columns, got column 1 for both of 2"):
        read_columns(path, word_column=1)


def test_undecodable_bytes(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a O\n\nMuse\xe9 O\n")
    with pytest.raises(ValueError, match=r"f:3: expected text in utf-8, got the bytes e9"):
        read_columns(path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_columns(tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------------------------ GMB


def write_gmb(path, sentences, encoding="cp1252", fill_down=False):
    out = io.StringIO(newline="")
    writer = csv.writer(out)  # ends lines with \r\n
    writer.writerow(["Sentence #", "Word", "POS", "Tag"])
    for number, sentence in enumerate(sentences, 1):
        for place, (word, tag) in enumerate(zip(*sentence, strict=True)):
            writer.writerow([f"Sentence: {number}" if place == 0 or fill_down else "", word, "NN", tag])
    return write(path, out.getvalue(), encoding)


GMB = [
    make_sentence("Thousands marched through London/B-geo to Café/B-org … ."),
    Sentence(('"', "NA", "null", "1,000", "5\xa0storm", "nan", "None", "N/A", "#", "—"), ("O",) * 10),
    make_sentence("New/B-geo York/I-geo City/I-geo"),
    make_sentence("x"),
    make_sentence("y"),
]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("fill_down", [False, True])
def test_gmb_in_its_encodings(tmp_path, encoding, fill_down):
    path = write_gmb(tmp_path / "f.csv", GMB, encoding, fill_down)
    assert read_gmb(path) == GMB
    if encoding == "cp1252":
        assert b"\x85" in path.read_bytes()  # the ellipsis, U+0085 in latin-1, where it would end a line


def test_gmb_line_ends_empty_lines_and_column_order(tmp_path):
    text = "Tag,Word,Sentence #\nO,a,Sentence: 1\n\nB-x,b,\n\nO,c,Sentence: 7\n\n"
    expected = [make_sentence("a b/B-x"), make_sentence("c")]
    assert read_gmb(write(tmp_path / "f.csv", text)) == expected
    assert read_gmb(write(tmp_path / "f.csv", text.replace("\n", "\r\n"))) == expected


def test_gmb_repairs_what_conlleval_would(tmp_path):
    path = write_gmb(tmp_path / "f.csv", [Sentence(("a", "b", "c"), ("I-x", "I-x", "I-y"))])
    assert read_gmb(path)[0].tags == ("B-x", "I-x", "B-y")


@given(st.lists(st.lists(WORD | st.sampled_from(['"', '""', ",", "a,b", "'", "\\", " a"]), min_size=1), min_size=1, max_size=4))
def test_gmb_round_trip(tmp_path_factory, drawn):
    sentences = [Sentence(tuple(words), ("O",) * len(words)) for words in drawn]
    assert read_gmb(write_gmb(tmp_path_factory.mktemp("gmb") / "f.csv", sentences, "utf-8")) == sentences


HEADER = "Sentence #,Word,POS,Tag\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"f.csv: expected a header and at least one sentence, got nothing"),
        (HEADER, r"f.csv: expected a header and at least one sentence, got a header"),
        ("Sentence: 1,a,NN,O\n", r"f.csv:1: expected a header with Sentence #, Word, Tag once each"),
        ("Sentence #,Word,Tag,Tag\n", r"f.csv:1: expected a header with Sentence #, Word, Tag once each"),
        (HEADER + "Sentence: 1,a,NN,O\n,b,NN\n", r"f.csv:3: expected 4 columns as in the header, got 3"),
        (HEADER + "\nSentence: 1,a,b,NN,O\n", r"f.csv:3: expected 4 columns as in the header, got 5"),
        (HEADER + ",a,NN,O\n", r"f.csv:2: expected 'Sentence: ' and a number in the first row"),
        (HEADER + "Sentence 1,a,NN,O\n", r"f.csv:2: expected 'Sentence: ' and a number or nothing, got 'Sentence 1'"),
        (HEADER + "Sentence: 1,,NN,O\n", r"f.csv:2: expected a word, got ''"),
        (HEADER + "Sentence: 1, ,NN,O\n", r"f.csv:2: expected a word, got ' '"),
        (HEADER + "Sentence: 1,a,NN,E-x\n", r"f.csv:2: expected a tag O or with a prefix of B, I, got 'E-x'"),
        (HEADER + "Sentence: 1,a,NN,B-\n", r"f.csv:2: expected a tag with a type"),
        (HEADER + 'Sentence: 1,a,NN,O\n,"b,NN,O\n,c,NN,O\n', r"f.csv:3: expected a row of comma-separated values, got"),
        (HEADER + 'Sentence: 1,"a\nb",NN,O\n', r"f.csv:2: expected a word on one line, got 'a\\nb'"),
        (HEADER + 'Sentence: 1,"a\rb",NN,O\n', r"f.csv:2: expected a word on one line"),
        (HEADER + 'Sentence: 1,"a"b,NN,O\n', r"f.csv:2: expected a row of comma-separated values"),
        (HEADER.replace("\n", "\r") + "Sentence: 1,a,NN,O\r", r"f.csv:1: expected a row of comma-separated values"),
    ],
)
def test_gmb_errors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_gmb(write(tmp_path / "f.csv", text))


def test_gmb_bytes_of_no_encoding(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(HEADER.encode() + b"Sentence: 1,caf\xe9,NN,O\n,\x81,NN,O\n")
    with pytest.raises(ValueError, match=r"f.csv:3: expected text in cp1252, got the bytes 81"):
        read_gmb(path)
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"Sentence: 1,caf\xe9,NN,O\n")
    with pytest.raises(ValueError, match=r"f.csv:2: expected text in utf-8, got the bytes e9"):
        read_gmb(path)


# ------------------------------------------------------------------------------------------------------------ data sets


def numbered(count):
    return [make_sentence(f"word{number} is") for number in range(count)]


def test_csv_is_deduplicated_and_split_by_the_seed(tmp_path):
    distinct = numbered(23)
    again = Sentence(distinct[3].words, ("B-x", "O"))  # other tags, the same words
    path = write_gmb(tmp_path / "gmb.CSV", [*distinct[:10], again, *distinct[10:], distinct[0]])
    data = load(path, seed=5)
    order = [distinct[place] for place in np.random.default_rng(5).permutation(23)]
    assert data == TaggingData("gmb.CSV", order[:15], order[15:19], order[19:], dropped=2)
    assert list(data.splits.items()) == [("train", order[:15]), ("validation", order[15:19]), ("test", order[19:])]
    assert load(str(path), seed=6) != data
    with pytest.raises(ValueError, match="at least 5 distinct sentences to split, got 4"):
        load(write_gmb(tmp_path / "four.csv", numbered(4) * 2))
    assert [len(split) for split in load(write_gmb(tmp_path / "five.csv", numbered(5))).splits.values()] == [3, 1, 1]


def test_tag_names_hold_both_tags_of_every_type():
    data = TaggingData("x", [make_sentence("a/B-per b/I-per")], [make_sentence("a/B-geo")], [make_sentence("a/B-a-z b")])
    assert data.entity_types == ("a-z", "geo", "per")
    assert data.tag_names == ("O", "B-a-z", "I-a-z", "B-geo", "I-geo", "B-per", "I-per")
    assert data.dropped == 0
    empty = TaggingData("x", [make_sentence("a")], [], [])
    assert (empty.entity_types, empty.tag_names) == ((), ("O",))


SPLITS = (numbered(5), [make_sentence("in validation/B-x")], [make_sentence("in test/B-y")])


def write_directory(root, names, splits=SPLITS, separator=" "):
    root.mkdir()
    for name, sentences in zip(names, splits, strict=True):
        write(root / name, format_columns(sentences, separator))
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("train", "dev", "test"),
        ("train.txt", "valid.txt", "test.txt"),
        ("train.conll", "validation.conll", "test.conll"),
        ("Train.iob", "testa.iob", "Testb.IOB"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("wnut17.train.tsv", "emerging.dev.bio", "emerging.test.iob2"),
        ("en_ewt-ud-train.iob2", "en_ewt-ud-dev.conllu", "de_test.txt"),
        ("train", "testa", "test"),
    ],
)
def test_directories(tmp_path, names):
    root = write_directory(tmp_path / "set", names)
    for other in (
        "readme.txt",
        "train.json",
        "test.predictions",
        ".dev",
        "._train.txt",
        "testing.txt",
        "retrain.txt",
        "dev.gz",
    ):
        (root / other).write_bytes(b"\xff")
    (root / "validation").mkdir() if "valid" not in " ".join(names) else (root / "notes").mkdir()
    assert load(root) == TaggingData("set", *SPLITS)
    assert load(str(root), seed=3) == load(root)


def test_directory_of_this_place_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_directory(tmp_path / "set", ("train", "dev", "test")))
    assert load(".").name == "set"


def test_directory_columns_are_passed_on(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("train", "dev", "test"):
        write(root / name, f"B-x\tNN\t{name}\n")
    data = load(root, word_column=2, tag_column=0)
    assert data.test == [make_sentence("test/B-x")]


def test_repeated_sentences_leave_the_earlier_split(tmp_path):
    a, b, c, d = (make_sentence(text) for text in ("a one", "b/B-x two", "c three", "d four"))
    other_tags = Sentence(b.words, ("O", "B-y"))
    train = [a, a, b, c, d]  # a repeats within: kept
    validation = [other_tags, c, c, make_sentence("e five")]
    test = [c, make_sentence("f six"), make_sentence("f six")]
    data = load(write_directory(tmp_path / "set", ("train", "dev", "test"), (train, validation, test)))
    assert data.train == [a, a, d]
    assert data.validation == [other_tags, make_sentence("e five")]
    assert data.test == test
    assert data.dropped == 4
    with pytest.raises(ValueError, match=r"set2: expected training sentences .* got none"):
        load(write_directory(tmp_path / "set2", ("train", "dev", "test"), ([c], [a, c], [c])))
    with pytest.raises(ValueError, match=r"set3: expected validation sentences .* got none"):
        load(write_directory(tmp_path / "set3", ("train", "dev", "test"), ([a], [c], [c])))


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected 'sample', a file or a directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv: expected 'sample'"):
        load(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"train.json: expected 'sample', a file \(.csv .*\) or a directory"):
        load(write(tmp_path / "train.json", "a O\n"))
    root = write_directory(tmp_path / "set", ("train.txt", "dev.txt", "tests.txt"))
    with pytest.raises(
        FileNotFoundError, match=r"set: expected a file named test or testb, .*there are: dev.txt, tests.txt, train"
    ):
        load(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: expected a file named train, .*there are: no files"):
        load(tmp_path / "empty")
    root = write_directory(tmp_path / "two", ("train.txt", "dev.txt", "test.txt"))
    write(root / "valid.txt", "a O\n")
    with pytest.raises(ValueError, match=r"two: expected one file named dev or valid .*got 2: dev.txt, valid.txt"):
        load(root)


def test_any_file_is_split_by_percents(tmp_path):
    sentences = numbered(10)
    order = [sentences[place] for place in np.random.default_rng(4).permutation(10)]
    path = write(tmp_path / "all.conll", format_columns([*sentences, sentences[2]]))
    data = load(path, seed=4, percents=(50, 20, 30))
    assert data == TaggingData("all.conll", order[:5], order[5:7], order[7:], dropped=1)
    with pytest.raises(ValueError, match=r"expected at least 20 distinct sentences to split, got 10"):
        load(path, percents=(90, 5, 5))
    for percents in ((50, 50), (60, 40, 0), (60, 20, 21)):
        with pytest.raises(ValueError, match="three positive percents that add up to 100, got"):
            load(path, percents=percents)


def test_repeats_are_kept_where_that_is_wanted(tmp_path):
    a, b = make_sentence("a one"), make_sentence("b/B-x two")
    root = write_directory(tmp_path / "set", ("train", "dev", "test"), ([a, b, a], [a], [b]))
    data = load(root, keep_repeats=True)
    assert data == TaggingData("set", [a, b, a], [a], [b])
    path = write(tmp_path / "all.conll", format_columns([a] * 5))
    assert [len(split) for split in load(path, keep_repeats=True).splits.values()] == [3, 1, 1]


def test_json_lines_are_split_by_text(tmp_path):
    lines = [f'{{"text": "Ann{number} ran. She won.", "entities": [[0, 3, "per"]]}}' for number in range(10)]
    path = write(tmp_path / "all.jsonl", "\n".join([*lines, lines[0]]))
    data = load(path, seed=1)
    order = np.random.default_rng(1).permutation(10)
    assert [sentence.words[0] for sentence in data.train] == [f"Ann{number}" for number in order[:6]]
    assert data.test[:2] == [Sentence((f"Ann{order[8]}", "ran", "."), ("B-per", "O", "O")), make_sentence("She won .")]
    # The text that is there twice, and what training and validation say that test says, too.
    assert data.dropped == 2 + 6 + 2 and len(data.notes) == 11
    assert "all.jsonl:1: per 'Ann' cuts a token and is widened to 'Ann0'" in data.notes[0]
    whole = load(path, seed=1, keep_repeats=True)
    assert (whole.dropped, len(whole.train)) == (0, 2 * (11 - 2 * 2))


def test_a_directory_of_json_lines(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.jsonl", f'{{"text": "{name} Bob", "label": [[{len(name) + 1}, {len(name) + 4}, "per"]]}}')
    data = load(tmp_path)
    assert [split[0].tags for split in data.splits.values()] == [("O", "B-per")] * 3 and data.notes == ()


def test_the_sample_by_its_name():
    data = load("sample", seed=2)
    assert (data.train, data.validation, data.test) == sample.generate(2)
    assert (data.name, data.dropped) == ("sample", 0)
    assert data.entity_types == ("art", "eve", "geo", "gpe", "nat", "org", "per", "tim")
