"""Runs of taggers from end to end, on a few sentences of the grammar that are written as a directory of CoNLL files."""

import io
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics import classification_report
from tiny_training import interrupt

from colnorm import cli, crf, posteriors, predict, tagger_file
from colnorm.cli import tag
from colnorm.data import conll, json_lines, sample, schemes
from colnorm.run_directory import COUNTS, PREDICTIONS, RunDirectory
from colnorm.tagger import build
from colnorm.tasks import tagging
from colnorm.tasks.configs import TaggingConfig, from_stored
from colnorm.training import eval_step, take_batch
from experiments import compare, evaluate
from experiments import train as train_command

SIZES = {"train": 150, "valid": 30, "test": 30}
TINY = ["random", "--characters", "--shape-features", "3", "--head", "crf", "--hidden", "24", "--buckets", "1"]
ADAM = ["--optimizer", "adam", "--learning-rate", "0.02", "--average-decay", "0.9", "--devices", "1"]
BATCHES = ["--batch-size", "10", "--word-dropout", "0.1"]
TIMES = {"train_seconds", "seconds", "compile_seconds", "train_tokens_per_second", "peak_memory_mib"}
TEXT = "Mr. Obama flew to Paris on Monday. He met the president of Iran's navy there!"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A directory with the first sentences of the grammar."""
    directory = tmp_path_factory.mktemp("conll")
    for (name, size), sentences in zip(SIZES.items(), sample.generate(), strict=True):
        blocks = ("".join(f"{w} x {t}\n" for w, t in zip(*s, strict=True)) for s in sentences[:size])
        (directory / f"{name}.txt").write_text("\n".join(blocks), encoding="utf-8")
    return directory


def train(data, run, *more):
    return train_command.main([*TINY, *ADAM, *BATCHES, "--data", str(data), "--run", str(run), *more])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Three epochs without a break."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(data, run, "--epochs", "3") == 0
    return run


def read_records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5_000


# ------------------------------------------------------------------------------------------------------ train and evaluate


def test_a_run_holds_config_tagger_records_checkpoints_and_a_picture(whole, data):
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    assert config["task"] == "tagging"
    config = config["config"]
    assert (config["hidden"], config["average_decay"], config["data"]) == (24, 0.9, str(data))
    records = read_records(whole)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert all(np.isfinite(value) for record in records for value in record.values())
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert 0.2 < records[0]["train_accuracy"] < records[-1]["train_accuracy"] < 1
    assert records[-1]["validation_loss"] < records[0]["validation_loss"]
    assert [record["compile_seconds"] > 0 for record in records] == [True, False, False]
    fields, encoder = tagger_file.read_tagger(whole)
    assert fields["num_words"] == len(encoder.words)
    assert encoder.tags.names == conll.load(data).tag_names
    best = 1 + int(np.argmax([record["validation_micro_f1"] for record in records]))
    assert {int(path.name) for path in (whole / "checkpoints").iterdir()} == {best, 3}
    assert is_picture(whole / "curves.png")


@pytest.fixture(scope="module")
def predictor(whole):
    return predict.load(whole)


def test_evaluation_is_seqeval_of_what_the_tagger_predicts(whole, data, predictor, capsys):
    assert evaluate.main([str(whole)]) == 0
    shown = capsys.readouterr().out
    assert "micro average" in shown
    assert "conlleval" in shown
    evaluated = json.loads((whole / "evaluation.json").read_text(encoding="utf-8"))
    for name, sentences in conll.load(data).splits.items():
        result = evaluated["splits"][name]
        predicted = [list(s.tags) for s in predictor.tag_tokens([sentence.words for sentence in sentences])]
        gold = [list(sentence.tags) for sentence in sentences]
        report = classification_report(gold, predicted, output_dict=True, zero_division=0)
        assert result["micro"]["f1"] == pytest.approx(report["micro avg"]["f1-score"])
        assert result["macro"]["recall"] == pytest.approx(report["macro avg"]["recall"])
        for kind, metrics in result["classes"].items():
            assert metrics["precision"] == pytest.approx(report[kind]["precision"])
            assert metrics["support"] == report[kind]["support"]
        right = [a == b for one, other in zip(gold, predicted, strict=True) for a, b in zip(one, other, strict=True)]
        assert result["accuracy"] == pytest.approx(np.mean(right))
    best = max(read_records(whole), key=lambda record: record["validation_micro_f1"])
    validation = evaluated["splits"]["validation"]
    assert validation["micro"]["f1"] == pytest.approx(best["validation_micro_f1"])
    assert validation["loss"] == pytest.approx(best["validation_loss"], rel=1e-5)
    assert is_picture(whole / "entity_types.png")
    assert is_picture(whole / "transitions.png")


def test_the_loss_counts_the_correct_tokens(data, predictor):
    sentences = conll.load(data).test
    (arrays,) = tagging.Split.make(sentences, predictor.encoder, 1).arrays
    indices = jnp.asarray([*range(len(sentences)), -1, -1])  # padding counts nothing
    loss_fn = tagging.make_loss(TaggingConfig(), predictor.model)
    sums = eval_step({"params": predictor.params}, arrays, indices, loss_fn=loss_fn)
    tagged = predictor.tag_tokens([sentence.words for sentence in sentences])
    pairs = [pair for s, t in zip(sentences, tagged, strict=True) for pair in zip(s.tags, t.tags, strict=True)]
    assert sums["correct"] == sum(gold == found for gold, found in pairs) and sums["tokens"] == len(pairs)


@pytest.mark.slow
def test_rare_words_are_dropped_at_their_rates(data, predictor):
    """And in a step, where nothing else is drawn, as if the sentence had the unknown word."""
    rates, words = jnp.asarray([0.0, 0.0, 0.2, 1.0]), jnp.tile(jnp.asarray([0, 1, 2, 3]), (4000, 1))
    dropped = tagging.drop_rare(words, rates, jax.random.key(0), jnp.arange(4000))
    np.testing.assert_array_equal(dropped[:, [0, 1, 3]], jnp.asarray([[0, 1, 1]] * 4000))
    assert abs(float(jnp.mean(dropped[:, 2] == 1)) - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
    part = tagging.drop_rare(words[1000:], rates, jax.random.key(0), jnp.arange(1000, 4000))
    np.testing.assert_array_equal(part, dropped[1000:])

    (arrays,) = tagging.Split.make(conll.load(data).test, predictor.encoder, 1).arrays
    counts = np.where(np.arange(predictor.model.num_words) > 1, 1, 0)
    config = TaggingConfig(rare_dropout=1e9)  # words that are seen are dropped for sure
    model = predictor.model.clone(dropout=0.0, word_dropout=0.0)
    loss_fn = tagging.make_loss(config, model, counts)
    variables, indices = {"params": predictor.params}, jnp.arange(len(arrays["lengths"]))
    batch = take_batch(jax.tree.map(jnp.asarray, arrays), indices)
    sums, _ = loss_fn(variables, batch, jax.random.key(0), True)
    inside = jnp.arange(batch["words"].shape[1])[None] < batch["lengths"][:, None]
    unknown = {**batch, "words": jnp.where(inside, 1, batch["words"])}
    expected, _ = loss_fn(variables, unknown, jax.random.key(0), False)
    np.testing.assert_allclose(sums["loss"], expected["loss"], rtol=1e-5)
    kept, _ = loss_fn(variables, batch, jax.random.key(0), False)
    assert abs(float(kept["loss"]) - float(expected["loss"])) > 1
    with pytest.raises(ValueError, match="needs the counts"):
        tagging.make_loss(config, model)


def test_evaluation_keeps_predictions_calibration_and_the_chain(whole, data, predictor):
    """What is stored is what the predictor says, sentence by sentence and entity by entity."""
    evaluate.evaluate(evaluate.Command(whole), quiet=True)
    evaluated = json.loads((whole / "evaluation.json").read_text(encoding="utf-8"))
    test = conll.load(data).test
    calibrated = predict.load(whole)  # as it is after an evaluation
    assert calibrated.temperature == evaluated["temperature"] != 1
    tagged = calibrated.tag_tokens([sentence.words for sentence in test])
    assert [sentence.tags for sentence in tagged] == [
        sentence.tags for sentence in predictor.tag_tokens([sentence.words for sentence in test])
    ]
    blocks = (whole / PREDICTIONS).read_text(encoding="utf-8").removesuffix("\n").split("\n\n")
    stored = [[tuple(line.split(" ")) for line in block.split("\n")] for block in blocks]
    assert stored == [list(zip(s.words, s.tags, t.tags, strict=True)) for s, t in zip(test, tagged, strict=True)]

    counts = np.array(json.loads((whole / COUNTS).read_text(encoding="utf-8")))
    right, found, gold = counts.sum(0)
    assert counts.shape == (len(test), 3)
    assert gold == sum(len(schemes.entities(sentence.tags)) for sentence in test)
    assert 2 * right / (found + gold) == pytest.approx(evaluated["splits"]["test"]["micro"]["f1"])

    calibrated = evaluated["splits"]["test"]["calibration"]
    said, right = [], []
    for sentence, found in zip(test, tagged, strict=True):
        gold = schemes.entities(sentence.tags)
        said += [entity.posterior for entity in found.entities]
        right += [(entity.type, entity.first, entity.last) in gold for entity in found.entities]
    assert sum(row["count"] for row in calibrated["bins"]) == len(said) > 20
    assert sum(row["count"] * row["right"] for row in calibrated["bins"]) == pytest.approx(sum(right))
    assert sum(row["count"] * row["probability"] for row in calibrated["bins"]) == pytest.approx(sum(said), rel=1e-4)
    assert is_picture(whole / "calibration.png") and is_picture(whole / "precision_recall.png")
    for rows in evaluated["min_posterior"].values():  # those above 0 are what seqeval counts
        assert rows[0]["min_posterior"] == 0 and [row["kept"] for row in rows] == sorted(
            (row["kept"] for row in rows), reverse=True
        )
    validation = evaluated["splits"]["validation"]
    for name, metrics in (("all", validation["micro"]), *validation["classes"].items()):
        if name in evaluated["min_posterior"]:
            assert {key: evaluated["min_posterior"][name][0][key] for key in ("precision", "recall", "f1")} == pytest.approx(
                {key: metrics[key] for key in ("precision", "recall", "f1")}
            )
    before, after = (evaluated["splits"]["validation"][key] for key in ("calibration_before", "calibration"))
    assert before["bins"] != after["bins"] and sum(row["count"] for row in before["bins"]) == sum(
        row["count"] for row in after["bins"]
    )

    chain = evaluated["chain"]
    assert chain["tag_names"] == list(predictor.encoder.tags.names)
    learned = predictor.params["crf"]["transitions"]
    for i, before in enumerate(chain["tag_names"]):
        for j, after in enumerate(chain["tag_names"]):
            score = chain["transitions"][i][j]
            if after.startswith("I-") and before not in (after, f"B-{after[2:]}"):
                assert score is None
            else:
                assert score == pytest.approx(float(learned[i, j]))


def test_runs_side_by_side(whole, tmp_path, capsys):
    named = tmp_path / "gmb-crf"
    shutil.copytree(whole, named)
    (named / "evaluation.json").unlink(missing_ok=True)

    def table(*runs):
        assert compare.main([*map(str, runs), "--output", str(tmp_path / "table")]) == 0
        header, _, *rows = (tmp_path / "table" / "table.md").read_text(encoding="utf-8").splitlines()
        return [dict(zip(header.split(" | "), row.split(" | "), strict=True)) for row in rows]

    (cells,) = table(named)
    best = max(read_records(named), key=lambda line: line["validation_micro_f1"])
    shown = [best[f"validation_{name}"] for name in ("micro_f1", "macro_f1", "accuracy")]
    assert cells["validation"] == " / ".join(f"{value:.2%}" for value in shown)
    assert cells["train"] == f"- / - / ~{best['train_accuracy']:.2%}" and "test" not in cells
    nothing = {"f1": 0.0}
    splits = {
        name: {
            **{"accuracy": 0.9, "micro": {"f1": number / 10}, "macro": {"f1": number / 20}, "weighted": nothing},
            **({"types": {}, "sentences": 3} if number == 3 else {"classes": {}}),  # earlier runs had another form
        }
        for number, name in enumerate(("train", "validation", "test"), 1)
    }
    (named / "evaluation.json").write_text(json.dumps({"epoch": 2, "splits": splits}), encoding="utf-8")
    (cells,) = table(named)
    assert (cells["test"], cells["best epoch"]) == ("30.00% / 15.00% / 90.00%", "2 of 3") and "report's test" not in cells
    config = json.loads((named / "config.json").read_text())
    config["config"]["data"] = "somewhere/ner_dataset.csv"  # the report's data
    (named / "config.json").write_text(json.dumps(config))
    assert table(named, whole)[0]["report's test"] == "69.00% / 44.00% / -"
    assert json.loads((tmp_path / "table" / "runs.json").read_text(encoding="utf-8"))["gmb-crf"] == read_records(whole)
    assert is_picture(tmp_path / "table" / "curves.png")
    RunDirectory.create(tmp_path / "image", "images", {}).close()
    assert compare.main([str(named), str(tmp_path / "image")]) == 1
    assert "expected runs of one task, got images and tagging" in capsys.readouterr().err


@pytest.mark.slow
def test_a_softmax_tagger_trains_from_vectors_evaluates_and_tags(data, tmp_path, capsys):
    words = sorted({word for sentence in conll.load(data).train for word in sentence.words})[:40]
    rng = np.random.default_rng(0)
    lines = [f"{word} " + " ".join(f"{value:.4f}" for value in rng.standard_normal(7)) for word in words]
    lines.insert(40, "zyxwv 1 2 3 4 5 6 7")  # training lacks it
    lines.append("vwxyz 1 2 3 4 5 6 7")
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    arguments = [
        "glove",
        "--vector-words",
        "41",
        "--hidden",
        "8",
        "--layer-norm",
        "output",
        "--epochs",
        "1",
        "--buckets",
        "1",
        "--loss",
        "token",
        "--schedule",
        "cosine",
    ]
    more = ["--glove", str(tmp_path / "vectors.txt"), "--data", str(data), "--run", str(run), "--devices", "1"]
    assert train_command.main([*arguments, *more]) == 0
    assert f"vectors for {len(words)} of" in capsys.readouterr().out.replace("\n", " ")
    assert tagger_file.read_tagger(run)[0]["word_features"] == 7
    assert cli.main(["evaluate", str(run)]) == 0
    assert "micro average" in capsys.readouterr().out
    evaluated = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert "chain" not in evaluated and evaluated["splits"]["test"]["calibration"]["bins"]
    tagger = predict.load(run)
    vocabulary, embedding = tagger.encoder.words, tagger.params["word_embedding"]["embedding"]
    assert vocabulary.tokens[-1] == "zyxwv" and "Zyxwv" in vocabulary and "vwxyz" not in vocabulary
    np.testing.assert_allclose(embedding[-1], [1, 2, 3, 4, 5, 6, 7], rtol=1e-3)  # but for weight decay
    sentences = tagger.tag(TEXT)
    assert [len(sentence.tokens) for sentence in sentences] == [8, 10]
    assert not (run / "transitions.png").exists()


@pytest.mark.slow
def test_a_tagger_of_segments_trains_evaluates_and_tags(data, tmp_path, capsys, monkeypatch):
    """With the commands of the package, which keep a run under the name of its data."""
    monkeypatch.chdir(tmp_path)
    run = Path("runs") / data.name
    arguments = ["--head", "segments", "--longest", "4", "--hidden", "24", "--layer-norm", "None", "--no-characters"]
    arguments += ["--shape-features", "0", "--buckets", "1", "--epochs", "5", "--schedule", "constant", *ADAM, *BATCHES]
    assert cli.main(["train", "--data", str(data), *arguments]) == 0
    assert f"colnorm evaluate {run}" in capsys.readouterr().out
    losses = [record["validation_loss"] for record in read_records(run)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0]
    assert cli.main(["evaluate", str(run)]) == 0
    assert "micro average" in capsys.readouterr().out
    evaluated = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert "chain" not in evaluated and evaluated["splits"]["test"]["calibration"]["bins"]
    found = predict.load(run, "latest").tag([sentence.words for sentence in conll.load(data).test])
    assert all(schemes.to_bio(sentence.tags) == sentence.tags for sentence in found)
    posteriors = [entity.posterior for sentence in found for entity in sentence.entities]
    assert posteriors and all(0 < posterior <= 1 for posterior in posteriors)


@pytest.mark.slow
def test_devices_share_the_batches(data, tmp_path):
    """Two and four devices take the same steps as one over two epochs, dropout included, up to rounding."""
    options = ["--hidden", "8", "--dropout", "0.3", "--word-dropout", "0.1", "--rare-dropout", "0.5", "--head", "crf"]
    options += ["--epochs", "2", "--batch-size", "32", "--buckets", "1", "--learning-rate", "0.02"]
    trained = []
    for devices in ("1", "2", "4"):
        run = tmp_path / devices
        assert train_command.main(["random", *options, "--data", str(data), "--run", str(run), "--devices", devices]) == 0
        params = RunDirectory.open(run).restore_variables(2)["params"]
        losses = [[line["train_loss"], line["validation_loss"]] for line in read_records(run)]
        trained.append((losses, jax.tree.leaves(params)))
    (expected, expected_params), *others = trained
    assert expected[1][0] < expected[0][0] - 1  # it did learn
    for losses, params in others:
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        for ours, theirs in zip(params, expected_params, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


# ----------------------------------------------------------------------------------------------------------- stop and resume


def assert_same_run(run, other):
    """Bit for bit but for times."""

    def lasting(records):
        return [{name: value for name, value in record.items() if name not in TIMES} for record in records]

    assert lasting(read_records(run)) == lasting(read_records(other))
    config = from_stored(TaggingConfig, RunDirectory.open(run).config, str(run))
    fields, encoder = tagger_file.read_tagger(run)
    template = tagging.make_state(config, build(fields), encoder, tagging.make_schedule(config, 1))
    for epoch in RunDirectory.open(run).epochs():
        states = []
        for path in (run, other):
            opened = RunDirectory.open(path)
            states.append(opened.restore(template, epoch))
            opened.close()
        jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_as_if_it_had_not_been(whole, data, tmp_path):
    run = tmp_path / "run"
    arguments = [*TINY, *ADAM, *BATCHES, "--data", str(data), "--run", str(run), "--epochs", "3"]
    status, _ = interrupt("2:3", signal.SIGKILL, *arguments)
    assert status == -signal.SIGKILL
    assert [record["epoch"] for record in read_records(run)] == [1]
    assert train(data, run, "--epochs", "3", "--resume") == 0
    assert_same_run(run, whole)


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(data, tmp_path):
    run = tmp_path / "run"
    arguments = [*TINY, *ADAM, *BATCHES, "--data", str(data), "--run", str(run)]
    status, errors = interrupt("2:1", signal.SIGINT, *arguments)
    assert status == 130
    assert f"--resume --run {run}" in errors


@pytest.mark.slow
def test_resume_refuses_other_data(whole, data, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in SIZES:
        text = (data / f"{name}.txt").read_text(encoding="utf-8")
        (other / f"{name}.txt").write_text(text.replace(" B-per", " B-who").replace(" I-per", " I-who"), encoding="utf-8")
    assert train(other, whole, "--epochs", "4", "--resume") == 1
    assert "is not the data that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["crf", "--data", "some.csv"], "crf starts from GloVe vectors: name their file with --glove"),
        (["random", "--data", "nowhere.csv"], "nowhere.csv: expected 'sample', a file or a directory"),
        (["glove", "--glove", "nothing.txt"], "nothing.txt"),
        (["random", "--vector-words", "9"], "--vector-words are words of the file that --glove names, and there is none"),
        (["random", "--batch-size", "3", "--devices", "2"], "a batch of 3 can't be split evenly over 2 devices"),
    ],
)
def test_what_cannot_be_trained_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert train_command.main([*arguments, "--run", "run"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("main", [evaluate.main, lambda arguments: tag.main(["--model", *arguments, "text"])])
def test_runs_that_are_none(tmp_path, capsys, main):
    assert main([str(tmp_path)]) == 1
    assert "is not a run directory" in capsys.readouterr().err
    RunDirectory.create(tmp_path / "run", "tagging", {}).close()
    assert main([str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "run has no checkpoint yet" in error or "there is no tagger.json" in error


# ------------------------------------------------------------------------------------------------------------------- tagging


def test_entities_of_raw_text(predictor):
    sentences = predictor.tag(TEXT)
    assert [len(sentence.tokens) for sentence in sentences] == [8, 10]
    for sentence in sentences:
        assert all(TEXT[token.start : token.end] == token.word for token in sentence.tokens)
        assert [(e.type, e.first, e.last) for e in sentence.entities] == schemes.entities(sentence.tags)
        for entity in sentence.entities:
            assert TEXT[entity.start : entity.end] == entity.text
            assert 0 < entity.posterior <= 1
    assert predictor.tag("") == []
    # A sentence by itself, and among others of other lengths.
    alone = [predictor.tag(TEXT[:35])[0], *predictor.tag_tokens([["Paris"]])]
    assert alone[0].tags == sentences[0].tags
    np.testing.assert_allclose(
        [entity.posterior for entity in alone[0].entities], [entity.posterior for entity in sentences[0].entities], rtol=1e-4
    )
    assert predictor.tag(["Paris"]) == [alone[1]]
    with pytest.raises(ValueError, match="a word is empty"):
        predictor.tag(["Paris", ""])


@pytest.mark.slow
def test_the_posterior_of_an_entity_is_its_share_of_sampled_paths(predictor):
    """Of 20,000 paths drawn from the chain, those in which the very entity stands."""
    words = ["President", "Barack", "Obama", "visited", "New", "York", "on", "Monday"]
    inputs = jax.tree.map(np.asarray, predictor.encoder.encode([words], len(words)))
    emissions, chain = predictor.model.apply({"params": predictor.params}, **inputs)
    draws = 20_000
    paths = crf.sample(jax.random.key(0), chain, np.repeat(np.asarray(emissions), draws, 0))
    names = predictor.encoder.tags.names
    found = [{*schemes.entities([names[tag] for tag in path])} for path in np.asarray(paths)]
    ((_, labels),) = predictor._label([[predict.raw_text.Token(word, 0, 0) for word in words]])
    for span in [("per", 1, 3), ("geo", 4, 6), ("tim", 7, 8), ("per", 0, 3), ("org", 4, 5)]:
        exact = posteriors.entity_posterior(predictor.encoder.tags.names, labels, *span)
        share = np.mean([span in entities for entities in found])
        assert abs(share - exact) < 5 * np.sqrt(max(exact * (1 - exact), 1e-5) / draws), span


def test_a_trained_crf_never_writes_an_illegal_sequence(whole, data):
    sentences = [sentence.words for sentence in conll.load(data).test]
    for tagged in predict.load(whole, "latest").tag_tokens([*sentences, ["xyz"] * 40]):
        assert schemes.to_bio(tagged.tags) == tagged.tags  # what is legal is not repaired


def run_tag(capsys, model, *arguments):
    assert tag.main(["--model", str(model), *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_tag_writes_text_conll_json_and_html(whole, tmp_path, capsys):
    sentences = predict.load(whole).tag(TEXT)  # at the temperature that an evaluation may have stored by now
    entities = [entity for sentence in sentences for entity in sentence.entities]
    assert entities

    shown = run_tag(capsys, whole, *TEXT.split())
    assert re.sub(r" \[\w+ [01]\.\d\d\]", "", shown) == TEXT + "\n"
    assert len(re.findall(r"\[\w+ [01]\.\d\d\]", shown)) == len(entities)

    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    lines = run_tag(capsys, whole, "--file", tmp_path / "text.txt", "--format", "json").splitlines()
    for line, sentence in zip(map(json.loads, lines), sentences, strict=True):
        assert line["tags"] == list(sentence.tags)
        assert TEXT[line["start"] : line["end"]] == line["text"]
        for written, entity in zip(line["entities"], sentence.entities, strict=True):
            assert TEXT[written["start"] : written["end"]] == written["text"] == entity.text
            assert written["posterior"] == pytest.approx(entity.posterior, abs=1e-6)

    run_tag(capsys, whole, TEXT + " <b>&amp;", "--format", "html", "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<mark style") >= len(entities) + 8  # and one a type in the legend
    assert "&lt;" in page
    assert "<b>" not in page
    assert not re.search(r"https?:|<script|<link|<img", page)


@pytest.mark.slow
def test_annotations_go_through_training_and_back(whole, predictor, tmp_path, capsys):
    """A run on JSON lines learns; what tag writes of texts has their ranges, and is read as it was written."""
    for name, sentences in conll.load("sample").splits.items():
        lines = []
        for words, tags in sentences[: SIZES.get(name, 12)]:
            starts = [len(" ".join([*words[:place], ""])) for place in range(len(words))]
            ends = [start + len(word) for start, word in zip(starts, words, strict=True)]
            spans = [json_lines.Span(starts[first], ends[last - 1], kind) for kind, first, last in schemes.entities(tags)]
            lines.append(json_lines.to_json_line(" ".join(words), spans))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert train(tmp_path, tmp_path / "run", "--epochs", "1") == 0
    assert "validation loss" in capsys.readouterr().out

    texts = [TEXT, "", f"{TEXT}\nIt rained."]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json_lines.to_json_line(text, []) + "\n" for text in texts), encoding="utf-8")
    output = tmp_path / "labelled.jsonl"
    run_tag(capsys, whole, "--file", source, "--format", "spans", "--output", output)
    written = json_lines.read_json_lines(output)
    assert [annotated.text for annotated in written] == texts
    entities = [[entity for sentence in predictor.tag(text) for entity in sentence.entities] for text in texts]
    assert entities[0]
    for annotated, expected in zip(written, entities, strict=True):
        assert annotated.spans == tuple((entity.start, entity.end, entity.type) for entity in expected)
    shown = run_tag(capsys, whole, "--file", source, "--format", "json")
    for line in map(json.loads, shown.splitlines()):
        assert "\n".join(texts)[line["start"] : line["end"]] == line["text"]


def test_tag_reads_token_lines_from_standard_input(whole, predictor, capsys, monkeypatch):
    given = "Mr. x O\nObama x O\n\n\nParis\tx\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8"))
    written = run_tag(capsys, whole, "--tokens", "--format", "conll")
    words = [line.split("\t")[0] for line in written.split("\n")]
    assert words == ["Mr.", "Obama", "", "Paris", "", ""]
    tags = [line.split("\t")[1] for line in written.split("\n") if line]
    expected = predictor.tag_tokens([["Mr.", "Obama"], ["Paris"]])
    assert tags == [*expected[0].tags, *expected[1].tags]

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8"))
    lines = [json.loads(line) for line in run_tag(capsys, whole, "--tokens", "--format", "json").splitlines()]
    assert [(line["text"], line["start"], line["end"]) for line in lines] == [("Mr. Obama", 0, 9), ("Paris", 10, 15)]


def test_tag_says_what_it_cannot_read(whole, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(b"one\ntwo \xe9\n")
    assert tag.main(["--model", str(whole), "--file", str(tmp_path / "text.txt")]) == 1
    assert "text.txt:2: expected utf-8, got the byte 0xe9" in capsys.readouterr().err
    assert tag.main(["--model", str(whole), "text", "--file", "other.txt"]) == 1
    assert "not both" in capsys.readouterr().err
