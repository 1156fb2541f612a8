"""The component in a pipeline of spaCy: its entities and probabilities, sentences, what other components have found."""

import pytest
import spacy
from tagger_cases import make_tagger

from colnorm import model_file, predict

TEXT = "Mr. Obama flew to Paris on Monday. He met the president of Iran's navy there!\n\n北京 is far."


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    fields, encoder, params = make_tagger()
    return model_file.save(tmp_path_factory.mktemp("model") / "t.safetensors", predict.Predictor(encoder, fields, params), {})


def pipeline(stored, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe("colnorm_ner", config={"model": str(stored), **config})
    return nlp


def test_entities_and_their_probabilities(stored):
    doc = pipeline(stored)(TEXT)
    words = [[token.text for token in doc[first:last]] for first, last in ((0, 8), (8, 18), (19, 23))]
    expected = []
    for first, sentence in zip((0, 8, 19), model_file.load(stored).tag_tokens(words), strict=True):
        expected += [(e.type, first + e.first, first + e.last, e.posterior) for e in sentence.entities]
    assert expected
    found = [(entity.label_, entity.start, entity.end) for entity in doc.ents]
    assert found == [entity[:3] for entity in expected]
    for entity, (*_, posterior) in zip(doc.ents, expected, strict=True):
        assert entity._.posterior == pytest.approx(posterior, abs=1e-4)


def test_many_documents_are_those_one_by_one(stored):
    nlp = pipeline(stored)
    texts = [TEXT, "", " \n ", "Paris", TEXT * 2]
    for doc, text in zip(nlp.pipe(texts, batch_size=2), texts, strict=True):
        assert [(e.label_, e.start, e.end) for e in doc.ents] == [(e.label_, e.start, e.end) for e in nlp(text).ents]


def test_sentences_of_the_pipeline_are_used(stored):
    nlp = pipeline(stored)
    nlp.add_pipe("sentencizer", first=True, config={"punct_chars": ["!"]})
    doc = nlp(TEXT)
    (first, second) = ([token.i for token in sentence if not token.is_space] for sentence in doc.sents)
    tagged = model_file.load(stored).tag_tokens([[doc[place].text for place in places] for places in (first, second)])
    expected = [
        (entity.type, places[entity.first], places[entity.last - 1] + 1)
        for places, sentence in zip((first, second), tagged, strict=True)
        for entity in sentence.entities
    ]
    assert [(entity.label_, entity.start, entity.end) for entity in doc.ents] == expected


def test_what_is_there_stays_names_change_and_the_unsure_go(stored):
    everything = pipeline(stored)(TEXT).ents
    nlp = pipeline(stored, labels={"geo": "GPE"}, min_posterior=0.7)
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "CITY", "pattern": everything[0].text}])
    doc = nlp(TEXT)
    assert doc.ents[0].label_ == "CITY" and doc.ents[0]._.posterior is None
    sure = [entity for entity in everything if entity._.posterior >= 0.7 and entity.text != everything[0].text]
    names = {"geo": "GPE", "per": "per"}
    assert [(e.text, e.label_) for e in doc.ents if e.label_ != "CITY"] == [(e.text, names[e.label_]) for e in sure]


def test_a_pipeline_is_stored_and_loaded(stored, tmp_path):
    nlp = pipeline(stored, min_posterior=0.5)
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")
    assert [(e.label_, e.text) for e in again(TEXT).ents] == [(e.label_, e.text) for e in nlp(TEXT).ents]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"labels": {"org": "ORG"}}, "labels: expected names of geo, per, got org"),
        ({"min_posterior": 2.0}, "min_posterior must be from 0 to 1, got 2.0"),
    ],
)
def test_what_cannot_be_made(stored, config, message):
    with pytest.raises(ValueError, match=message):
        pipeline(stored, **config)


def test_the_packaged_model(stored):
    """Without a word of configuration."""
    nlp = spacy.blank("en")
    nlp.add_pipe("colnorm_ner")
    found = {(entity.text, entity.label_) for entity in nlp("Mr. Annan flew to Geneva on Monday.").ents}
    assert {("Geneva", "geo"), ("Monday", "tim")} <= found
