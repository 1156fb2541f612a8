"""Tagged sentences as people and programs read them: coloured text, CoNLL columns, JSON lines, an HTML page."""

import colorsys
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from colnorm.data.json_lines import Span
from colnorm.data.text import Token
from colnorm.predict import Entity, TaggedSentence


def joined(texts: Sequence[str], of_texts: Sequence[Sequence[TaggedSentence]]) -> tuple[str, list[TaggedSentence]]:
    """Texts as lines of one text, and the sentences of each with their places in that."""
    moved = []
    by = 0
    for text, sentences in zip(texts, of_texts, strict=True):
        moved += [_moved(sentence, by) for sentence in sentences]
        by += len(text) + 1
    return "\n".join(texts), moved


def keep_sure(sentence: TaggedSentence, min_posterior: Mapping[str, float]) -> TaggedSentence:
    """Without the entities that are less probable than their type's ``min_posterior``; their tokens become O."""
    tags, kept = list(sentence.tags), []
    for entity in sentence.entities:
        if entity.posterior >= min_posterior.get(entity.type, 0):
            kept.append(entity)
        else:
            tags[entity.first : entity.last] = ["O"] * (entity.last - entity.first)
    return sentence._replace(tags=tuple(tags), entities=tuple(kept))


def most_uncertain(
    texts: Sequence[str], of_texts: Sequence[Sequence[TaggedSentence]], count: int
) -> tuple[list[str], list[list[TaggedSentence]]]:
    """The sentences of the highest entropy, each as a text of its own, the highest first: what to label next."""
    everything = [(sentence, text) for text, sentences in zip(texts, of_texts, strict=True) for sentence in sentences]
    found_texts, found = [], []
    for sentence, text in sorted(everything, key=lambda pair: -pair[0].entropy)[:count]:
        start, end = (sentence.tokens[0].start, sentence.tokens[-1].end) if sentence.tokens else (0, 0)
        found_texts.append(text[start:end])
        found.append([_moved(sentence, -start)])
    return found_texts, found


def _moved(sentence: TaggedSentence, by: int) -> TaggedSentence:
    """With places in a text that is longer by that in front."""
    tokens = tuple(Token(token.word, token.start + by, token.end + by) for token in sentence.tokens)
    entities = tuple(entity._replace(start=entity.start + by, end=entity.end + by) for entity in sentence.entities)
    return sentence._replace(tokens=tokens, entities=entities)


def to_conll(sentences: Sequence[TaggedSentence]) -> str:
    """A token, a tab and its BIO tag a line, an empty line after each sentence."""
    blocks = (
        "".join(f"{token.word}\t{tag}\n" for token, tag in zip(sentence.tokens, sentence.tags, strict=True))
        for sentence in sentences
    )
    return "".join(f"{block}\n" for block in blocks)


def to_json_lines(sentences: Sequence[TaggedSentence], text: str) -> str:
    """A JSON object a sentence: ``text``, its ``start`` and ``end`` in the input, ``tokens``, ``tags``, ``entities``,
    and the ``entropy`` of its tags in nats.

    Ranges are half-open, in characters (code points) of the whole input; posteriors are rounded to six digits.
    """
    return "".join(f"{json.dumps(described, ensure_ascii=False)}\n" for described in to_objects(sentences, text))


def to_objects(sentences: Sequence[TaggedSentence], text: str) -> list[dict[str, Any]]:
    """What :func:`to_json_lines` writes, for JSON."""
    objects = []
    end = 0
    for sentence in sentences:
        # A sentence without tokens has no place of its own.
        start, end = (sentence.tokens[0].start, sentence.tokens[-1].end) if sentence.tokens else (end, end)
        entities = [
            {
                "type": entity.type,
                "text": entity.text,
                "start": entity.start,
                "end": entity.end,
                "posterior": round(entity.posterior, 6),
            }
            for entity in sentence.entities
        ]
        tokens = [token.word for token in sentence.tokens]
        described = {"text": text[start:end], "start": start, "end": end, "tokens": tokens, "tags": list(sentence.tags)}
        objects.append({**described, "entities": entities, "entropy": round(sentence.entropy, 6)})
    return objects


def to_spans(sentences: Sequence[TaggedSentence]) -> list[Span]:
    """The entities of a text's sentences as annotation tools have them."""
    return [Span(entity.start, entity.end, entity.type) for entity in _entities(sentences)]


def to_colour(sentences: Sequence[TaggedSentence], text: str, types: Sequence[str], coloured: bool) -> str:
    """The text with ``[type posterior]`` after each entity, in its type's colour if ``coloured``."""
    hues = _hues(types)
    parts = []
    at = 0
    for entity in _entities(sentences):
        parts.append(text[at : entity.start])
        label = f"[{entity.type} {entity.posterior:.2f}]"
        if coloured:
            red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hues[entity.type], 0.55, 0.75))
            parts.append(f"\x1b[1;38;2;{red};{green};{blue}m{entity.text}\x1b[22m {label}\x1b[0m")
        else:
            parts.append(f"{entity.text} {label}")
        at = entity.end
    return "".join(parts) + text[at:].rstrip("\n") + "\n"


def to_html(sentences: Sequence[TaggedSentence], text: str, types: Sequence[str], title: str) -> str:
    """A page that needs nothing else: the text with entities highlighted, their posterior in a tooltip and as opacity."""
    hues = degrees(types)
    counts = {kind: sum(entity.type == kind for entity in _entities(sentences)) for kind in hues}
    legend = "".join(
        f'<li><mark style="--hue:{hue}">{html.escape(kind)}</mark> {counts[kind]}</li>\n' for kind, hue in hues.items()
    )
    parts = []
    at = 0
    for entity in _entities(sentences):
        kind, label = html.escape(entity.type), f"{entity.type}, posterior {entity.posterior:.3f}"
        parts.append(html.escape(text[at : entity.start]))
        parts.append(
            f'<mark style="--hue:{hues[entity.type]};--sure:{entity.posterior:.3f}" title="{html.escape(label)}">'
            f"{html.escape(entity.text)}<small>{kind} {entity.posterior:.2f}</small></mark>"
        )
        at = entity.end
    body = "".join(parts) + html.escape(text[at:])
    return _PAGE.format(title=html.escape(title), legend=legend, body=body, mark_style=MARK_STYLE)


def _entities(sentences: Sequence[TaggedSentence]) -> list[Entity]:
    return [entity for sentence in sentences for entity in sentence.entities]


def degrees(types: Sequence[str]) -> dict[str, int]:
    """The hue of each entity type in degrees, as CSS wants it."""
    return {kind: round(360 * hue) for kind, hue in _hues(types).items()}


def _hues(types: Sequence[str]) -> dict[str, float]:
    """A hue in [0, 1) for each entity type, spread evenly."""
    return {kind: number / len(types) for number, kind in enumerate(types)}


MARK_STYLE = """\
mark {
  color: inherit; background: hsl(var(--hue) 80% 60% / calc(.15 + .4 * var(--sure, 1)));
  border-bottom: 2px solid hsl(var(--hue) 70% 45%); border-radius: .2rem; padding: .05rem .2rem;
}
small { white-space: nowrap; font: 600 .62em system-ui, sans-serif; margin-left: .35em; opacity: .8; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1.05rem/1.9 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
h1, ul {{ font-family: system-ui, sans-serif; }}
h1 {{ font-size: 1.1rem; }}
ul {{ list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; font-size: .85rem; }}
main {{ white-space: pre-wrap; overflow-wrap: break-word; }}
{mark_style}@media print {{ body {{ margin: 0; }} mark {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<ul>
{legend}</ul>
<main>{body}</main>
</body>
</html>
"""
