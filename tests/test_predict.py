"""A tagger of random parameters on text: what it takes, the shapes that it compiles, memory, and what is refused.

What the tags and posteriors of a trained one are is in test_tagging_runs.py. ``-m long`` tags
10,000 texts, and with ``COLNORM_SOAK_SECONDS=3600`` for an hour.
"""

import io
import json
import os
import re
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tagger_cases import make_tagger

from colnorm import predict, programs, spelling, tagged, tagger_file
from colnorm.cli import tag
from colnorm.data import schemes
from colnorm.programs import FEW_BATCHES, LENGTHS, MOST_MOVES, MOST_TOKENS, ROWS, plan
from colnorm.run_directory import RunDirectory
from colnorm.spelling import Spellings
from colnorm.tagger import apply, build
from colnorm.training import TrainState

TEXT = "Mr. Obama flew to Paris on Monday. He met the president of Iran's navy there!"
SOAK_SECONDS = os.environ.get("COLNORM_SOAK_SECONDS")


@pytest.fixture(scope="module")
def predictor():
    fields, encoder, params = make_tagger()
    return predict.Predictor(encoder, fields, params)


@pytest.fixture(scope="module")
def small():
    """Without characters, which take most of the compiler's time."""
    fields, encoder, params = make_tagger(characters=False)
    return predict.Predictor(encoder, fields, params)


# ------------------------------------------------------------------------------------------------------------ what is given


def test_a_text_its_sentences_and_their_tokens_are_tagged_alike(predictor):
    sentences = predictor.tag(TEXT)
    words = [[token.word for token in sentence.tokens] for sentence in sentences]
    tags = [sentence.tags for sentence in sentences]
    assert [len(one) for one in words] == [8, 10] == [len(one) for one in tags]
    assert [sentence.tags for sentence in predictor.tag(words)] == tags
    assert [sentence.tags for sentence in predictor.tag(tuple(map(tuple, words)))] == tags
    assert [predictor.tag(one)[0].tags for one in words] == tags
    assert predictor.tag_tokens(words) == predictor.tag(words)


def test_nothing_is_no_sentence_and_a_sentence_of_nothing_is_one(predictor):
    assert predictor.tag("") == predictor.tag(" \n\n ") == predictor.tag([]) == predictor.tag_tokens([]) == []
    nothing = predict.TaggedSentence((), (), ())
    assert predictor.tag([[]]) == [nothing]
    first, second, third = predictor.tag([[], ["Paris"], []])
    assert (first, second, third) == (nothing, predictor.tag(["Paris"])[0], nothing)
    text, sentences = tagged.joined(["", "Paris", ""], [[first], [second], [third]])
    written = tagged.to_json_lines(sentences, text).splitlines()
    assert [json.loads(line)["text"] for line in written] == ["", "Paris", ""]


def test_many_texts_come_in_order_while_they_are_read(predictor, monkeypatch):
    texts = [TEXT, "", "Paris", f"{TEXT} {TEXT}", " "] * 2

    def tags(of_text):
        return [(sentence.tokens, sentence.tags) for sentence in of_text]

    expected = [tags(predictor.tag(text)) for text in texts]
    assert [tags(of_text) for of_text in predictor.tag_many(texts)] == expected
    assert list(predictor.tag_many([])) == []
    monkeypatch.setattr(predict, "MANY_TOKENS", 20)
    read = []
    stream = predictor.tag_many(read.append(text) or text for text in texts)
    assert tags(next(stream)) == expected[0] and len(read) < len(texts)
    assert [tags(of_text) for of_text in stream] == expected[1:]
    with pytest.raises(ValueError, match="text 12: expected a text, got int"):
        list(predictor.tag_many([*texts, "Paris", 3]))
    monkeypatch.setattr(programs, "LENGTHS", (16,))
    with pytest.raises(ValueError, match="texts 2 to 3: expected sentences of at most 16 tokens"):
        list(predictor.tag_many([f"{TEXT} {TEXT}", "Paris", "a " * 20]))


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (None, "NoneType"),
        (3, "int"),
        (b"Paris", "bytes"),
        ({"Paris": 1}, "dict"),
        (iter(["Paris"]), "list_iterator"),
        (np.array(["Paris"]), "ndarray"),
        ([1, 2], "list of int"),
        (["Paris", None], "list of NoneType and str"),
        (["Paris", ["Paris"]], "list of list of str and str"),
        ([["Paris", 3]], "list of list of int and str"),
        ([b"Paris"], "list of bytes"),
        ([["Paris"], "Paris"], "list of list of str and str"),
        ([[["Paris"]]], "list of list of list"),
    ],
)
def test_anything_else_is_refused(predictor, given, got):
    with pytest.raises(ValueError, match=rf"^expected a text, the tokens of a sentence, .* got {got}$"):
        predictor.tag(given)


def test_words_and_batches_of_nothing_are_refused(predictor):
    with pytest.raises(ValueError, match="a word is empty in the sentence"):
        predictor.tag([["Paris"], ["Paris", ""]])
    with pytest.raises(ValueError, match=r"expected a text, the tokens of a sentence, .* got list of str"):
        predictor.tag_tokens(["Paris"])
    with pytest.raises(ValueError, match="expected a batch_size of at least 1, got 0"):
        predictor.tag_tokens([["Paris"]], 0)


STRANGE = {
    "a lone surrogate": "He met \ud800 in Paris.",
    "half of a pair": "\udfff\udc80",
    "NUL": "Paris\x00 \x00 and \x00.",
    "right to left": "التقى الرئيس في باريس. \u202eאבג\u202c שלום!",
    "Chinese": "奥巴马总统星期一访问了北京。他会见了主席。",
    "combining": "e\u0301\u0302\u0303 Zu\u0308rich \u200d\ufeff",
    "beyond the first plane": "\U0001f600 \U0001d400\U0001d401 \U0010ffff",
    "separators": "one\u2028two\u2029three\x0bfour\x85five",
    "one letter": "x",
    "a long word": "x" * 20_000,
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_texts_are_tagged(predictor, name, tmp_path):
    text = STRANGE[name]
    sentences = predictor.tag(text)
    assert sum(len(sentence.tokens) for sentence in sentences) >= 1
    for sentence in sentences:
        assert len(sentence.tokens) == len(sentence.tags)
        assert all(text[token.start : token.end] == token.word for token in sentence.tokens)
    written = tagged.to_json_lines(sentences, text)
    assert len(written.split("\n")) == len(sentences) + 1
    assert [json.loads(line)["tags"] for line in written.split("\n")[:-1]] == [list(sentence.tags) for sentence in sentences]


# ------------------------------------------------------------------------------------------------------- shapes and programs


def shapes(lengths, num_tags=17, batch_size=64):
    return {(length, rows) for length, rows, _ in plan(lengths, num_tags, batch_size)}


def test_a_plan_holds_each_sentence_once_and_wastes_little():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 3, 4, 5, 9, 33, 64, 65, 200):
        lengths = np.minimum(rng.geometric(0.04, count) - 1, 300).tolist()
        batches = plan(lengths, 17)
        places = [place for _, _, places in batches for place in places]
        assert sorted(places) == [place for place in range(count) if lengths[place]]
        for length, rows, places in batches:
            assert rows < 2 * len(places) and len(places) <= rows
            assert max(lengths[place] for place in places) <= length <= LENGTHS[-1]
            assert rows * length <= MOST_TOKENS


def test_few_shapes_for_sentences_of_all_lengths_and_numbers():
    """At most three a length, and a length for each doubling: 33 over all that can be."""
    everything = set()
    for length in LENGTHS:
        for count in range(1, 200):
            everything |= shapes([length] * count)
    assert len(everything) == 33
    assert max(length * rows for length, rows in everything if rows > 1) == MOST_TOKENS
    alone = {shape for length in range(1, 3001) for shape in shapes([length])}
    assert len(alone) == 11  # 16, 24, 32, 48, 64, 128 ... 4096


def test_batches_shrink_with_the_number_of_tags():
    assert shapes([16] * 64, num_tags=500) == {(16, 4)}
    assert shapes([16] * 64, num_tags=10**5) == {(16, 1)}
    for num_tags in (50, 100, 500):
        assert all(length * rows * num_tags**2 <= MOST_MOVES for length, rows in shapes([30] * 200, num_tags))


def test_the_longest_sentence(small):
    with pytest.raises(
        ValueError, match="of at most 32,768 tokens, got one of 32,769, number 2; cut it: of a text, by a blank"
    ):
        small.tag([["Paris"], ["x"] * 32_769])
    (sentence,) = small.tag(["Mr.", *["x"] * 3_000])
    assert len(sentence.tags) == 3_001
    assert schemes.to_bio(sentence.tags) == sentence.tags  # the CRF forbids the rest


def test_padding_changes_no_tag_and_batches_neither(small):
    """Sentences alone, all together, and a few at once; and the model on exactly their lengths."""
    rng = np.random.default_rng(1)
    sentences = [rng.choice(small.encoder.words.tokens[2:], size).tolist() for size in (17, 3, *[5] * 40)]
    together, few = small.tag(sentences), small.tag_tokens(sentences[:3], batch_size=2)
    for words, whole, of_few in zip(sentences[:2], together, few, strict=False):
        inputs = jax.tree.map(jnp.asarray, small.encoder.encode([words], len(words)))
        tags = np.asarray(small._programs._full(small.params, inputs)[0])[0]
        alone = small.tag(words)[0]
        assert whole.tags == of_few.tags == alone.tags == tuple(small.encoder.tags.names[number] for number in tags)
        for other in (of_few, alone):
            found, expected = ([entity.posterior for entity in one.entities] for one in (other, whole))
            np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.slow
def test_a_larger_program_serves_until_a_shape_is_worth_its_own(monkeypatch):
    fields, encoder, params = make_tagger(characters=False)
    tagger = predict.Predictor(encoder, fields, params)
    monkeypatch.setattr(programs, "WORTH_COMPILING", 20 * 64 * (24 - 16))  # twenty batches of 16 that are padded to 24
    used, run = [], tagger._programs.run

    def note(program, sentences):
        used.extend([program] * bool(sentences))  # without sentences it is only compiled
        return run(program, sentences)

    monkeypatch.setattr(tagger._programs, "run", note)

    def tag(length, batches):
        used.clear()
        (tags,) = {sentence.tags for sentence in tagger.tag([["Paris"] * length] * 64 * batches)}
        assert len(used) == batches
        return tags, set(used)

    rare, chosen = tag(24, 1)
    assert chosen == {(24, 64, True)}
    assert tag(24, FEW_BATCHES) == (rare, chosen)
    tagger._programs._compiling[24, 64, False].result()  # meanwhile, in the background
    usual, chosen = tag(24, 1)
    assert chosen == {(24, 64, False)} and usual == rare
    padded, chosen = tag(16, 10)
    assert chosen == {(24, 64, False)}
    assert tag(16, 11) == (padded, {(24, 64, False)})
    tagger._programs._compiling[16, 64, False].result()
    own, chosen = tag(16, 1)
    assert chosen == {(16, 64, False)} and own == padded
    used.clear()
    (alone,) = tagger.tag([["Paris"] * 16])
    assert used == [(16, 64, False)] and alone.tags == own  # what is there is quicker than a second of compilation
    used.clear()
    tagger.tag([["Paris"] * 30])
    tagger.tag([["Paris"] * 30])
    assert used == [(32, 1, True)] * 2  # nothing that is there is long enough
    assert tag(48, FEW_BATCHES + 1)[1] == {(48, 64, False)}  # many at once, and nothing there


def resident_mib():
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(predictor, longest, seconds=None, texts=0):
    """Tags texts of random lengths, for that long or so many.

    Returns the numbers of texts, tokens and compiled programs, and the resident MiB after every ten texts.
    """
    vocabulary = np.array([*predictor.encoder.words.tokens[2:], "nowhere", "12", "(", "北京"])
    rng = np.random.default_rng(0)
    started, tokens, done = time.monotonic(), 0, 0
    # Every shape first: what is compiled stays.
    for length in LENGTHS[: 1 + np.searchsorted(LENGTHS, longest)]:
        for rows in ROWS:
            for _ in range(FEW_BATCHES + 1):
                predictor.tag([["Paris"] * length] * min(rows, max(MOST_TOKENS // length, 1)))
            for compiling in tuple(predictor._programs._compiling.values()):
                compiling.result()
    memory = []
    while done < texts if seconds is None else time.monotonic() < started + seconds:
        sizes = np.exp(np.log(longest) * rng.uniform(0, 1, rng.integers(1, 5)) ** 3).astype(int)  # most of them short
        sentences = [rng.choice(vocabulary, size).tolist() for size in sizes]
        found = predictor.tag(sentences) if done % 2 else predictor.tag("\n\n".join(map(" ".join, sentences)))
        tokens += sum(len(sentence.tags) for sentence in found)
        done += 1
        if done % 10 == 0 and Path("/proc/self/statm").exists():
            memory.append(resident_mib())
    compiled = sum(each._cache_size() for each in (predictor._programs._full, predictor._programs._quick))
    return done, tokens, compiled, memory


def check_soak(fields, encoder, params, longest, programs, **how):
    done, tokens, compiled, memory = soak(predict.Predictor(encoder, fields, params), longest, **how)
    print(f"{done:,} texts, {tokens:,} tokens, {compiled} programs")
    assert done >= 100 and compiled == programs
    if memory:
        first, second = np.array_split(memory, 2)
        print(
            f"{np.median(first):,.0f} MiB in the first half, {np.median(second):,.0f} in the second, {max(memory):,.0f} at most"
        )
        assert np.median(second) < np.median(first) + 30 and max(second) < max(first) + 60


@pytest.mark.slow
def test_hundreds_of_texts_take_no_more_programs_and_memory():
    check_soak(*make_tagger(characters=False), 24, 5, texts=400)


@pytest.mark.long
def test_thousands_of_texts_take_no_more_programs_and_memory():
    check_soak(*make_tagger(), 3_000, 33, **({"seconds": float(SOAK_SECONDS)} if SOAK_SECONDS else {"texts": 10_000}))


# ------------------------------------------------------------------------------------------------------------- a run on disk


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch that was never trained."""
    path = tmp_path_factory.mktemp("run") / "tagger"
    write_run(path, *make_tagger())
    return path


def write_run(path, fields, encoder, params):
    with RunDirectory.create(path, "tagging", {}) as directory:
        tagger_file.write_tagger(directory.path, fields, encoder)
        state = TrainState.create(apply_fn=build(fields).apply, params=params, tx=optax.sgd(0.1))
        directory.save(state.replace(step=jnp.ones((), jnp.int32)), 1, 1)


def test_a_stored_tagger_is_the_one_that_was_written(run):
    fields, encoder, _ = make_tagger()
    assert tagger_file.read_tagger(run) == (fields, encoder)
    assert [len(sentence.tags) for sentence in predict.load(run, "latest").tag(TEXT)] == [8, 10]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path, value):
    fields, encoder, params = make_tagger()
    params["crf"]["end"] = params["crf"]["end"].at[0].set(value)
    write_run(tmp_path / "run", fields, encoder, params)
    message = re.escape(f"{tmp_path / 'run'}/checkpoints/1 ") + r"holds numbers that are not finite, in params/crf/end"
    with pytest.raises(ValueError, match=message):
        predict.load(tmp_path / "run", "latest")


def test_posteriors_that_are_not_finite_are_refused():
    """Finite parameters whose products are not."""
    fields, encoder, params = make_tagger(characters=False, head="softmax", layer_norm=None)
    params["emission"] = {"kernel": jnp.full((12, 5), 3e38), "bias": jnp.zeros(5)}
    params["lstm"] = jax.tree.map(lambda leaf: jnp.full_like(leaf, 100), params["lstm"])
    with pytest.raises(ValueError, match="the tagger's posteriors are not finite"):
        predict.Predictor(encoder, fields, params).tag([["Paris", "Paris", "Paris"]])


OTHERS = {
    "hidden": 9,
    "word_features": 8,
    "character_features": 4,
    "character_hidden": 2,
    "shape_features": 2,
    "layer_norm": "gates",
    "head": "softmax",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tagger_of_other_shapes_than_its_checkpoint_is_refused(run, tmp_path, name):
    """Whoever wrote it and whatever its digest says."""
    fields, encoder, _ = make_tagger()
    other = tmp_path / "run"
    other.mkdir()
    for part in run.iterdir():
        (other / part.name).symlink_to(part)
    (other / "tagger.json").unlink()
    tagger_file.write_tagger(other, {**fields, name: OTHERS[name]}, encoder)
    assert tagger_file.read_tagger(other)[0][name] == OTHERS[name] != fields[name]
    with pytest.raises(ValueError, match=r"tagger\.json make no tagger: the parameters are another tagger's: "):
        predict.load(other, "latest")


# ------------------------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def tag_main(predictor, tmp_path, monkeypatch):
    """The command, with a tagger that needs no run."""
    monkeypatch.setattr(predict, "load", lambda run, checkpoint: predictor)
    return lambda *arguments: tag.main(["--model", str(tmp_path), *map(str, arguments)])


@pytest.mark.parametrize("form", ["color", "conll", "json", "html"])
def test_strange_texts_are_written(tag_main, tmp_path, form):
    for name, text in STRANGE.items():
        if not re.search("[\ud800-\udfff]", text):
            (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
            output = tmp_path / f"output.{form}"
            assert tag_main("--file", tmp_path / "text.txt", "--format", form, "--output", output) == 0, name
            assert len(output.read_bytes().decode("utf-8")) >= len(text)


def test_what_utf_8_cannot_hold_is_one_line(tag_main, capsys):
    assert tag_main("Caf\udce9", "in Paris") == 1
    expected = "the text of the arguments: expected characters that utf-8 can hold, got '\\udce9' at 3"
    assert capsys.readouterr().err == f"error: {expected}\n"


@pytest.mark.parametrize("text", ["word " * 40_000, "北京、" * 20_000, "--" * 40_000], ids=["words", "Chinese", "signs"])
def test_a_sentence_that_is_too_long_is_one_line(tag_main, tmp_path, capsys, text):
    (tmp_path / "text.txt").write_text("One.\n\n" + text, encoding="utf-8")
    assert tag_main("--file", tmp_path / "text.txt") == 1
    error = capsys.readouterr().err
    assert "expected sentences of at most 32,768 tokens, got one of 40,000, number 2" in error
    assert error.count("\n") == 1


def test_a_terminal_that_lacks_a_character_is_one_line(tag_main, capsys):
    with mock.patch.object(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii")):
        assert tag_main("Zürich") == 1
    expected = "standard output takes ascii, which has no 'ü'; write to a file with --output, or set PYTHONIOENCODING=utf-8"
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_words_are_spelt_once_and_as_in_a_batch(monkeypatch):
    """The states that are kept by word are those that a tagger reads in a batch; when too many are kept all are forgotten."""
    fields, encoder, params = make_tagger()
    model = build(fields)
    spellings = Spellings(model, params, encoder)
    rng = np.random.default_rng(0)
    alphabet = np.array([*encoder.characters.tokens[2:], "ß"])
    words = ["".join(rng.choice(alphabet, rng.integers(1, 20))) for _ in range(400)]
    sentences = [words[:150], [], words[100:400], ["", "Paris"]]
    arrays = jax.tree.map(jnp.asarray, encoder.encode(sentences, 300))
    states = jnp.asarray(spellings(sentences, 300))
    assert len(spellings) == len({word for sentence in sentences for word in sentence})
    emissions, _ = apply(model, params, arrays)
    read = {name: arrays[name] for name in ("words", "lengths", "shapes")}
    inside = np.arange(300) < np.asarray(arrays["lengths"])[:, None]
    from_states, _ = apply(model, params, {**read, "character_states": states})
    np.testing.assert_allclose(np.asarray(from_states)[inside], np.asarray(emissions)[inside], rtol=1e-4, atol=1e-4)

    np.testing.assert_array_equal(spellings(sentences, 300), states)  # nothing is read again
    monkeypatch.setattr(spelling, "MOST_WORDS", 500)
    more = [["new" + str(number) for number in range(150)]]
    fresh = Spellings(model, params, encoder)
    np.testing.assert_allclose(spellings(more, 150), fresh(more, 150), atol=1e-6)
    assert len(spellings) == 150


def test_a_tagger_is_given_characters_or_their_states():
    fields, encoder, params = make_tagger()
    arrays = encoder.encode([["Paris"]], 1) | {"character_states": np.zeros((1, 1, 6), np.float32)}
    with pytest.raises(ValueError, match="give the characters or the character_states, not both"):
        apply(build(fields), params, jax.tree.map(jnp.asarray, arrays))


@pytest.mark.slow
def test_of_a_long_word_no_more_is_kept_than_is_read():
    fields, encoder, params = make_tagger()
    spellings = Spellings(build(fields), params, encoder)
    read = encoder.word_length
    long = [["x" * (read // 2) + str(number) * 10_000 + "y" * (read // 2)] for number in range(3)]
    states = spellings(long, 1)
    assert len(spellings) == 1 and max(map(len, spellings._places)) == read
    emissions = [apply(build(fields), params, encoder.encode(words, 1))[0] for words in (long[:1], [[long[0][0][:read]]])]
    assert not np.allclose(*emissions)
    arrays = encoder.encode(long, 1)
    whole, _ = apply(build(fields), params, arrays)
    kept = {name: arrays[name] for name in ("words", "lengths", "shapes")} | {"character_states": states}
    np.testing.assert_allclose(apply(build(fields), params, kept)[0], whole, rtol=1e-4, atol=1e-4)
