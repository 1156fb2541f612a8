"""``tagger.json`` changed at random: it is refused, or the tagger that it makes is the very one that was written.

The digest finds every change. Where it is made anew or missing, as in files of older versions, what the tagger's parts say of
each other and the parameters' shapes has to find all that these can tell. ``-m long`` tries 12,000 changes of each kind.
"""

import collections
import copy
import functools
import json

import numpy as np
import pytest
from tagger_cases import make_tagger

from colnorm import tagger_file
from colnorm.tagger import build, check_parameters

ODD = (
    *(None, True, False, 0, 1, -1, 2, 17, 1.5, 1.0, -0.0, 1e300, 10**9, 2**63, 10**40, -(2**70)),
    *("", "x", "O", "B-per", "I-loc", "B-", "crf", "softmax", "gates", "float64", "int8", "\ud800", "\x00", "x" * 1_000),
    *([], {}, [[]], [None], ["O"], {"entries": [], "counts": []}),
)
BROKEN = {
    b"": "expected JSON",
    b"\x00": "expected JSON",
    b"\xff\xfe{}": "expected utf-8, got the byte 0xff at 0",
    b"\xef\xbb\xbf{}": "expected JSON",
    b"{}": "expected the keys tagger, encoder and sha256, got none",
    b"[]": "expected the keys tagger, encoder and sha256, got list",
    b"null": "expected the keys tagger, encoder and sha256, got NoneType",
    b"NaN": "expected finite numbers, got NaN",
    b'{"tagger": 1e999, "encoder": {}, "sha256": ""}': "Out of range float",
    b"9" * 5_000: "Exceeds the limit",
    b"[" * 100_000: "nested too deeply",
    b'{"a":' * 100_000: "nested too deeply",
    b'{"tagger": {}}': "expected the keys tagger, encoder and sha256, got 'tagger'",
    b'{"tagger": {}, "encoder": {}, "more": 1}': "got 'tagger', 'encoder', 'more'",
    b'{"tagger": {}, "encoder": {}, "sha256": null}': "its sha256 is that of another content",
    b'{"tagger": [], "encoder": {}}': "expected an object as tagger, got []",
    b'{"tagger": {}, "encoder": {}}': "expected all arguments of a tagger, got none of tag_names, num_words",
}


@functools.cache
def original():
    fields, encoder, _ = make_tagger()
    return {"tagger": fields, "encoder": encoder.to_json()}


def write(path, content):
    (path / "tagger.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def refusal(path):
    """The message of the ``ValueError``, None if the file is read."""
    try:
        tagger_file.read_tagger(path)
    except ValueError as error:
        assert f"{path / 'tagger.json'} doesn't describe a tagger: " in str(error)
        assert "restore it from a copy, or train again" in str(error)
        return str(error)
    return None


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: content[:20].decode("ascii", "replace"))
def test_what_is_no_tagger(tmp_path, content):
    write(tmp_path, content)
    assert BROKEN[content] in refusal(tmp_path)


def test_a_file_that_is_cut_off(tmp_path):
    fields, encoder, _ = make_tagger()
    tagger_file.write_tagger(tmp_path, fields, encoder)
    whole = (tmp_path / "tagger.json").read_bytes()
    for size in range(0, len(whole) - 3, 61):
        write(tmp_path, whole[:size])
        assert "expected JSON" in refusal(tmp_path)


def test_no_file_and_no_file_that_can_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tagger: there is no tagger\.json in it"):
        tagger_file.read_tagger(tmp_path)
    (tmp_path / "tagger.json").mkdir()
    with pytest.raises(ValueError, match=r"tagger\.json can't be read: Is a directory"):
        tagger_file.read_tagger(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no tagger"):
        tagger_file.read_tagger(tmp_path / "tagger.json" / "none")


def test_files_of_older_versions_and_other_layouts_are_read(tmp_path):
    fields, encoder, _ = make_tagger()
    write(tmp_path, original())
    assert tagger_file.read_tagger(tmp_path) == (fields, encoder)
    stored = {tagger_file.DIGEST: tagger_file.digest(original()), "encoder": original()["encoder"], "tagger": fields}
    write(tmp_path, json.dumps(stored, indent=7, ensure_ascii=False).encode())
    assert tagger_file.read_tagger(tmp_path) == (fields, encoder)
    older = copy.deepcopy(original())
    del older["tagger"]["longest"]
    write(tmp_path, {**older, tagger_file.DIGEST: tagger_file.digest(older)})
    assert tagger_file.read_tagger(tmp_path) == ({**fields, "longest": 12}, encoder)


def edit(*path, value):
    def change(stored):
        for key in path[:-1]:
            stored = stored[key]
        stored[path[-1]] = value(stored[path[-1]]) if callable(value) else value

    return change


def on_tags(change):
    """To the tagger and the encoder alike."""

    def both(stored):
        stored["tagger"]["tag_names"] = change(stored["tagger"]["tag_names"])
        stored["encoder"]["tags"] = change(stored["encoder"]["tags"])

    return both


def without_a_word(stored):
    for name in ("entries", "counts"):
        del stored["encoder"]["words"][name][3]


# The change, and what is said of it where the digest is made anew, "" for anything; None where nothing else finds it.
EDITS = {
    "a word dropped": (without_a_word, "expected num_words of the tagger to be the encoder's"),
    "a word less said": (edit("tagger", "num_words", value=lambda n: n - 1), "expected num_words"),
    "two words swapped": (edit("encoder", "words", "entries", value=lambda w: [w[1], w[0], *w[2:]]), None),
    "a word repeated": (edit("encoder", "words", "entries", value=lambda w: [w[1], w[1], *w[2:]]), "got repeated"),
    "a count less": (edit("encoder", "words", "counts", value=lambda c: c[1:]), "expected a count for each"),
    "a word that is a number": (edit("encoder", "words", "counts", value=lambda c: [str(c[0]), *c[1:]]), ""),
    "lower case": (edit("encoder", "words", "lowercase", value=True), None),
    "tags reversed": (on_tags(lambda tags: tags[::-1]), None),
    "tags reversed in one part": (edit("encoder", "tags", value=lambda tags: tags[::-1]), "expected tag_names of the tagger"),
    "a tag less": (on_tags(lambda tags: tags[:-1]), "expected tags in BIO, got 'B-per' without 'I-per'"),
    "a type less": (on_tags(lambda tags: tags[:3]), "crf/transitions: expected (3, 3), got (5, 5)"),
    "a tag twice": (on_tags(lambda tags: [*tags[:4], "O"]), "expected tag_names of a tagger to be distinct names"),
    "a tag of another scheme": (on_tags(lambda tags: ["E-per", *tags[1:]]), "expected a tag O or with a prefix of B, I"),
    "a tag that is none": (on_tags(lambda tags: [*tags[:4], 3]), "expected tag_names of a tagger to be distinct names"),
    "no tags": (on_tags(lambda tags: []), "expected tag_names of a tagger to be distinct names"),
    "another head": (edit("tagger", "head", value="softmax"), "crf/end: expected nothing, got (5,)"),
    "an unknown head": (
        edit("tagger", "head", value="hmm"),
        "expected head of a tagger to be softmax or crf or segments, got 'hmm'",
    ),
    "unconstrained": (edit("tagger", "constrained", value=False), None),
    "constrained by a word": (edit("tagger", "constrained", value="no"), "expected constrained of a tagger to be true or"),
    "another dtype": (edit("tagger", "dtype", value="bfloat16"), None),
    "a dtype that is none": (edit("tagger", "dtype", value="int8"), "expected dtype of a tagger to be float32"),
    "another hidden": (edit("tagger", "hidden", value=7), "emission/kernel: expected (14, 5), got (12, 5)"),
    "an endless hidden": (edit("tagger", "hidden", value=10**30), "the parameters are another tagger's"),
    "a negative hidden": (edit("tagger", "hidden", value=-6), "expected hidden of a tagger to be an integer of at least 0"),
    "a hidden that is true": (edit("tagger", "hidden", value=True), "an integer of at least 0, got True"),
    "no layer norm": (edit("tagger", "layer_norm", value=None), "output_bias: expected nothing, got (6,)"),
    "another layer norm": (edit("tagger", "layer_norm", value="gates"), "lstm/backward/cell_bias: expected (6,), got nothing"),
    "word features": (edit("tagger", "word_features", value=8), "word_embedding/embedding: expected (23, 8), got (23, 7)"),
    "characters out": (edit("tagger", "num_characters", value=0), "expected num_characters of the tagger to be the encoder's"),
    "no alphabet": (edit("encoder", "characters", value=None), "expected num_characters of the tagger to be the encoder's, 0"),
    "another word length": (edit("encoder", "word_length", value=16), None),
    "shapes out": (
        edit("encoder", "shapes", value=False),
        "the encoder makes no shapes, but shape_features of the tagger is 3",
    ),
    "shape features out": (edit("tagger", "shape_features", value=0), "the encoder makes shapes, but shape_features"),
    "a dropout of 2": (edit("tagger", "dropout", value=2), "expected dropout of a tagger to be a number from 0 to 1, got 2"),
    "an argument more": (edit("tagger", value=lambda fields: {**fields, "depth": 2}), "not known: ['depth']"),
    "no encoder": (edit("encoder", value=None), ""),
    "an empty encoder": (edit("encoder", value={}), ""),
    "more in the encoder": (edit("encoder", value=lambda part: {**part, "more": 1}), ""),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_by_hand(tmp_path, name):
    """With the old digest each is found; with a new one, and with none, what can be."""
    change, message = EDITS[name]
    changed = copy.deepcopy(original())
    change(changed)
    assert changed != original()
    write(tmp_path, {**changed, tagger_file.DIGEST: tagger_file.digest(original())})
    assert "its sha256 is that of another content: it was changed or damaged" in refusal(tmp_path)
    for more in ({tagger_file.DIGEST: tagger_file.digest(changed)}, {}):
        write(tmp_path, {**changed, **more})
        found = refusal(tmp_path)
        if found is None:
            try:
                check_parameters(build(tagger_file.read_tagger(tmp_path)[0]), make_tagger()[2])
            except ValueError as error:
                found = str(error)
        assert (found is None) if message is None else (message in found)


# ------------------------------------------------------------------------------------------------------------------- at random


def change_bytes(rng, data):
    """A few bytes flipped, replaced, cut out, put in, doubled or swapped, or the end cut off."""
    at, end = sorted(rng.integers(0, len(data), 2).tolist())
    some = rng.integers(0, 256, rng.integers(1, 5), np.uint8).tobytes()
    printed = rng.choice(list(b'0123456789"[]{}:,-.eE\\ntfu \n'), 1).astype(np.uint8).tobytes()
    match rng.integers(0, 8):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(0, 8))]) + data[at + 1 :]
        case 1:
            return data[:at] + some + data[at + len(some) :]
        case 2:
            return data[:at] + data[at + int(rng.integers(1, 9)) :]
        case 3:
            return data[:at] + some + data[at:]
        case 4:
            return data[:at] + printed + data[at + int(rng.integers(0, 2)) :]
        case 5:
            return data[:end] + data[at:end] + data[end:]
        case 6:
            return data[:at] + data[end : end + 1] + data[at + 1 : end] + data[at : at + 1] + data[end + 1 :]
        case _:
            return data[:at]


def nodes(value, path=()):
    """The paths of all that an object or a list holds, but of long lists only some."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 5)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from nodes(value[key], (*path, key))


def change_json(rng, stored):
    """One change of a value somewhere in it: removed, doubled, renamed, of another type, swapped with another."""
    stored = copy.deepcopy(stored)
    paths = list(nodes(stored))
    path, other = (paths[place] for place in rng.integers(0, len(paths), 2))

    def holder(path):
        return functools.reduce(lambda value, key: value[key], path[:-1], stored)

    value, key = holder(path), path[-1]
    match rng.integers(0, 6):
        case 0:
            del value[key]
        case 1:
            value[key] = copy.deepcopy(ODD[rng.integers(0, len(ODD))])
        case 2:
            a, b = value[key], holder(other)[other[-1]]
            value[key], holder(other)[other[-1]] = copy.deepcopy(b), copy.deepcopy(a)
        case 3 if isinstance(value, list):
            value.insert(int(rng.integers(0, len(value) + 1)), value[key])
        case 3:
            value[f"{key}s"] = value[key]
        case 4 if isinstance(value[key], list):
            value[key] = [value[key][place] for place in rng.permutation(len(value[key]))]
        case 4 if type(value[key]) is int:
            value[key] += int(rng.integers(-2, 3))
        case _:
            if isinstance(value, dict):
                value[str(rng.choice(["", "x", key[::-1], key.upper()]))] = value.pop(key)
            else:
                value[key] = value[int(rng.integers(0, len(value)))]
    return stored


def apply_edits(rng, stored):
    for _ in range(int(rng.integers(1, 4))):
        try:
            stored = change_json(rng, stored)
        except (KeyError, IndexError, TypeError):  # one value swapped with another that it is in
            continue
    return stored


BY_SHAPE = ("num_words", "word_features", "hidden", "num_characters", "character_features", "character_hidden")
BY_SHAPE += ("shape_features", "layer_norm", "head")


def fuzz(path, count, seed):
    """Counts of what became of ``count`` changes of each kind."""
    fields, encoder, params = make_tagger()
    tagger_file.write_tagger(path, fields, encoder)
    data = (path / "tagger.json").read_bytes()
    became = collections.Counter()

    def outcome():
        if refusal(path) is not None:
            return "refused"
        found = tagger_file.read_tagger(path)
        if found == (fields, encoder) and tagger_file.digest(found[0]) == tagger_file.digest(fields):
            return "the same"
        try:
            check_parameters(build(found[0]), params)
        except ValueError:
            return "refused for its shapes"
        assert all(found[0][name] == fields[name] for name in BY_SHAPE)
        assert len(found[0]["tag_names"]) == len(fields["tag_names"])
        return "another of the same shapes"

    for number in range(count):
        rng = np.random.default_rng((seed, number))
        write(path, change_bytes(rng, data))
        became["bytes", outcome()] += 1
        changed = apply_edits(rng, original())
        write(path, {**changed, tagger_file.DIGEST: tagger_file.digest(original())} if isinstance(changed, dict) else changed)
        became["old digest", outcome()] += 1
        write(path, {**changed, tagger_file.DIGEST: tagger_file.digest(changed)})
        became["new digest", outcome()] += 1
        write(path, changed)
        became["no digest", outcome()] += 1
    print(dict(sorted(became.items())))
    return became


def check(became, count):
    for kind in ("bytes", "old digest"):
        assert became[kind, "refused"] + became[kind, "the same"] == count
        assert became[kind, "refused"] > 0.6 * count
    for kind in ("new digest", "no digest"):
        assert became[kind, "refused"] + became[kind, "refused for its shapes"] > 0.6 * count
        assert became[kind, "another of the same shapes"] < 0.3 * count


def test_random_changes(tmp_path):
    check(fuzz(tmp_path, 150, 0), 150)


@pytest.mark.long
def test_thousands_of_random_changes(tmp_path):
    check(fuzz(tmp_path, 12_000, 1), 12_000)
