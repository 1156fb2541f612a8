"""What is done with tagged sentences: the unsure entities left out, the most uncertain sentences found."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from tagger_cases import SENTENCES, make_tagger

from colnorm import cli, crf, model_file, predict, tagged
from colnorm.data import json_lines, schemes
from colnorm.metrics import precision_recall
from colnorm.tagger import apply

TEXTS = [" ".join(words) for words in SENTENCES] + ["Paris", ""]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    fields, encoder, params = make_tagger()
    return model_file.save(tmp_path_factory.mktemp("model") / "t.safetensors", predict.Predictor(encoder, fields, params), {})


@pytest.fixture(scope="module")
def of_texts(stored):
    return list(model_file.load(stored).tag_many(TEXTS))


def run(stored, tmp_path, *arguments):
    source, output = tmp_path / "texts.jsonl", tmp_path / "out"
    source.write_text("".join(json_lines.to_json_line(text, []) + "\n" for text in TEXTS), encoding="utf-8")
    command = ["tag", "--model", str(stored), "--file", str(source), "--output", str(output), *arguments]
    assert cli.main(command) == 0
    return output.read_text(encoding="utf-8")


def test_entities_below_a_posterior_are_left_out(stored, of_texts, tmp_path):
    sentences = [sentence for of_text in of_texts for sentence in of_text]
    posteriors = sorted(entity.posterior for sentence in sentences for entity in sentence.entities)
    middle = posteriors[len(posteriors) // 2]
    assert posteriors[0] < middle
    for sentence in sentences:
        assert tagged.keep_sure(sentence, {}) == sentence
        for types in (("geo", "per"), ("geo",)):
            kept = tagged.keep_sure(sentence, dict.fromkeys(types, middle))
            sure = [e for e in sentence.entities if e.posterior >= middle or e.type not in types]
            assert list(kept.entities) == sure and kept.tokens == sentence.tokens
            assert schemes.entities(kept.tags) == [(e.type, e.first, e.last) for e in sure]
    shown = run(stored, tmp_path, "--format", "json", "--min-posterior", "0", "--min-posterior", f"geo={middle}")
    found = [entity for line in shown.splitlines() for entity in json.loads(line)["entities"]]
    expected = [e for s in sentences for e in s.entities if e.type == "per" or e.posterior >= middle]
    assert [(e["type"], e["text"]) for e in found] == [(e.type, e.text) for e in expected] and len(found) < len(posteriors)


def test_the_most_uncertain_sentences(stored, of_texts, tmp_path):
    entropies = {text: of_text[0].entropy for text, of_text in zip(TEXTS, of_texts, strict=True) if of_text}
    order = sorted(entropies, key=lambda text: -entropies[text])
    assert len(set(entropies.values())) == len(entropies) == 4
    lines = run(stored, tmp_path, "--format", "spans", "--most-uncertain", "3").splitlines()
    assert [json.loads(line)["text"] for line in lines] == order[:3]
    for line in lines:
        text, spans = json.loads(line)["text"], json.loads(line)["entities"]
        (whole,) = of_texts[TEXTS.index(text)]
        assert spans == [[entity.start, entity.end, entity.type] for entity in whole.entities]
    lines = run(stored, tmp_path, "--format", "json", "--most-uncertain", "9").splitlines()
    said = [json.loads(line)["entropy"] for line in lines]
    assert said == sorted(said, reverse=True) and said == pytest.approx([entropies[text] for text in order], abs=1e-4)


def test_entropy_is_that_of_the_paths(stored):
    """Against all paths of a sentence of three tokens: their number is small."""
    predictor = model_file.load(stored)
    words = ["Mr.", "Obama", "flew"]
    inputs = {name: jnp.asarray(values) for name, values in predictor.encoder.encode([words], 3).items()}
    emissions, chain = apply(predictor.model, predictor.params, inputs)
    paths = jnp.asarray(list(itertools.product(range(emissions.shape[-1]), repeat=3)))
    scores = np.asarray(crf.score(chain, jnp.repeat(emissions, len(paths), 0), paths), np.float64)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    assert predictor.tag(words)[0].entropy == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-posterior", "1.5"], "expected a number from 0 to 1, or one for a type of geo, per, as per=0.9; got '1.5'"),
        (["--min-posterior", "nan"], "got 'nan'"),
        (["--min-posterior", "0.5", "--min-posterior", "org=0.5"], "got 'org=0.5'"),
        (["--min-posterior", "per="], "got 'per='"),
        (["--most-uncertain", "0"], "--most-uncertain must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked(stored, capsys, arguments, message):
    assert cli.main(["tag", "--model", str(stored), *arguments, "Paris"]) == 1
    assert message in capsys.readouterr().err


def test_precision_and_recall_above_each_posterior():
    rng = np.random.default_rng(0)
    probabilities, right = rng.random(200), rng.random(200) < 0.7
    for row in precision_recall(probabilities, right, 180):
        kept = [correct for p, correct in zip(probabilities, right, strict=True) if p >= row["min_posterior"]]
        precision, recall = sum(kept) / max(len(kept), 1), sum(kept) / 180
        assert row["kept"] == len(kept) and (row["precision"], row["recall"]) == pytest.approx((precision, recall))
        assert row["f1"] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-9))
    (nothing,) = precision_recall([], [], 0, [0.5])
    assert nothing == {"min_posterior": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0, "kept": 0}
