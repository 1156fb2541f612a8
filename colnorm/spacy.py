"""A tagger as a component of a spaCy pipeline: it sets ``doc.ents`` and the probability of each.

import spacy

nlp = spacy.blank("en")
nlp.add_pipe("colnorm_ner")
for entity in nlp("Mr. Annan flew to Geneva.").ents:
    print(entity.label_, entity.text, entity._.posterior)

spaCy finds the component by its entry point wherever colnorm and ``colnorm[spacy]`` are installed.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import minibatch

from colnorm.cli.tag import find
from colnorm.data import text as raw_text
from colnorm.model_file import DEFAULT
from colnorm.predict import Predictor

EXTENSION = "posterior"
"""The attribute of a span, ``entity._.posterior``, that holds its probability."""


class EntityTagger:
    """Finds the entities of spaCy's documents, in spaCy's own tokens.

    Sentences are those of the document where an earlier component has set them, else colnorm's. Entities that overlap with one
    that is there already are left out.

    Args:
      predictor: the tagger.
      min_posterior: what an entity has at least.
      labels: what types are called in the document, ``{"per": "PERSON"}`` say; others keep their names.
    """

    def __init__(self, predictor: Predictor, min_posterior: float = 0.0, labels: Mapping[str, str] | None = None):
        unknown = sorted(set(labels or ()) - set(predictor.types))
        if unknown:
            raise ValueError(f"labels: expected names of {', '.join(predictor.types)}, got {', '.join(unknown)}")
        if not 0 <= min_posterior <= 1:
            raise ValueError(f"min_posterior must be from 0 to 1, got {min_posterior}")
        self.predictor, self.min_posterior, self.labels = predictor, min_posterior, dict(labels or {})

    def __call__(self, doc: Doc) -> Doc:
        """Sets the entities of one document."""
        self._set([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Sets those of many; sentences of ``batch_size`` documents share batches."""
        for docs in minibatch(stream, batch_size):
            self._set(docs)
            yield from docs

    def _set(self, docs: list[Doc]) -> None:
        sentences = [(doc, places) for doc in docs for places in _sentences(doc)]
        tagged = self.predictor.tag_tokens([[doc[place].text for place in places] for doc, places in sentences])
        found: dict[int, list[tuple[Span, float]]] = {}
        for (doc, places), sentence in zip(sentences, tagged, strict=True):
            for entity in sentence.entities:
                if entity.posterior >= self.min_posterior:
                    label = self.labels.get(entity.type, entity.type)
                    span = Span(doc, places[entity.first], places[entity.last - 1] + 1, label=label)
                    found.setdefault(id(doc), []).append((span, entity.posterior))
        for doc in docs:
            taken = {token.i for entity in doc.ents for token in entity}
            spans = [(span, p) for span, p in found.get(id(doc), []) if taken.isdisjoint(range(span.start, span.end))]
            doc.set_ents([*doc.ents, *(span for span, _ in spans)], default="outside")
            for span, posterior in spans:
                span._.set(EXTENSION, posterior)


def _sentences(doc: Doc) -> list[list[int]]:
    """The places of the tokens of each sentence; white space is no token here."""
    if doc.has_annotation("SENT_START"):
        starts = [sentence.start_char for sentence in doc.sents]
    else:
        starts = [tokens[0].start for tokens in raw_text.sentences(doc.text) if tokens]
    places: list[list[int]] = [[] for _ in range(max(len(starts), 1))]
    for token in doc:
        if not token.is_space:
            places[max(bisect.bisect_right(starts, token.idx) - 1, 0)].append(token.i)
    return [each for each in places if each]


@Language.factory(
    "colnorm_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
    default_config={"model": DEFAULT, "checkpoint": "best", "min_posterior": 0.0, "labels": {}},
)
def make_component(
    nlp: Language, name: str, model: str, checkpoint: str, min_posterior: float, labels: dict[str, Any]
) -> EntityTagger:
    """The component, as a pipeline's config describes it; ``model`` and ``checkpoint`` as those of ``colnorm tag``."""
    if not Span.has_extension(EXTENSION):
        Span.set_extension(EXTENSION, default=None)
    return EntityTagger(find(model, checkpoint), min_posterior, labels)
