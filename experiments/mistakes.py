"""What a run gets wrong on test data, to look at: images by how sure it was, sentences by the kind of error.

An entity that is not found as it is, exact span and type, is of one kind. Each is part of one pair at most, the first in the
table that fits:

==============  ==========================================================
type            one of the same span has another type
boundary        a found one of the same type touches it, with another span
both            one touches it, with another span and another type
missed          a gold entity for which no found one is left
spurious        a found entity for which no gold one is left
==============  ==========================================================
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from colnorm.data.schemes import entities

KINDS = ("missed", "spurious", "boundary", "type", "both")
CORRECT = "correct"


def of_images(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, limit: int = 64) -> dict[str, Any]:
    """The images whose most probable class is not their label, the surest first.

    Args:
      images: ``(N, H, W, 3)`` uint8.
      labels: ``(N,)``.
      probabilities: ``(N, classes)``.
      limit: at most so many of them.

    Returns:
      JSON: ``count``, how many there are; ``of``, N; ``examples``, each with its ``index``, ``label``, ``predicted``,
      ``probabilities`` and ``png``, the image in base64.
    """
    from PIL import Image  # comes with Matplotlib

    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
    examples = []
    for index in order[:limit].tolist():
        file = io.BytesIO()
        Image.fromarray(images[index]).save(file, "png", optimize=True)
        examples.append(
            {
                "index": index,
                "label": int(labels[index]),
                "predicted": int(predicted[index]),
                "probabilities": [round(float(value), 4) for value in probabilities[index]],
                "png": base64.b64encode(file.getvalue()).decode(),
            }
        )
    return {"count": len(wrong), "of": len(labels), "examples": examples}


def of_sentences(predictions: str, limit: int = 25) -> dict[str, Any]:
    """The sentences in which entities are wrong.

    Args:
      predictions: word, gold tag and predicted tag a line, an empty line between sentences.
      limit: at most so many sentences for each kind, evenly over all that have it.

    Returns:
      JSON: ``counts`` of the kinds over all sentences; ``sentences``, how many there are; ``examples``, each with its
      ``index``, ``words`` and ``entities``: ``kind``, ``start`` and ``end`` (exclusive), ``gold`` and ``found`` type or None,
      and of an overlap ``found_start`` and ``found_end``.
    """
    counts: Counter[str] = Counter()
    having: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    number = 0
    for number, (words, gold, found) in enumerate(_sentences(predictions), 1):
        judged = judge(gold, found)
        counts.update(entity["kind"] for entity in judged)
        example = {"index": number - 1, "words": words, "entities": judged}
        for kind in {entity["kind"] for entity in judged} - {CORRECT}:
            having[kind].append(example)
    chosen: dict[int, dict[str, Any]] = {}
    for examples in having.values():
        for place in np.linspace(0, len(examples) - 1, min(limit, len(examples))).round().astype(int).tolist():
            chosen[examples[place]["index"]] = examples[place]
    return {
        "counts": {kind: counts[kind] for kind in (CORRECT, *KINDS)},
        "sentences": number,
        "examples": [chosen[index] for index in sorted(chosen)],
    }


def judge(gold: Sequence[str], found: Sequence[str]) -> list[dict[str, Any]]:
    """The entities of one sentence with their kinds, in order; every gold and every found one is in one of them."""
    theirs, ours = entities(gold), entities(found)
    pairs: list[tuple[str, tuple[str, int, int] | None, tuple[str, int, int] | None]] = []
    tests: list[tuple[str, Any]] = [
        (CORRECT, lambda one, other: one == other),
        ("type", lambda one, other: one[1:] == other[1:]),
        ("boundary", lambda one, other: one[0] == other[0] and _touch(one, other)),
        ("both", lambda one, other: _touch(one, other)),
    ]
    for kind, fits in tests:  # the better fits first; each entity is used once
        for one in list(theirs):
            other = next((other for other in ours if fits(one, other)), None)
            if other is not None:
                theirs.remove(one)
                ours.remove(other)
                pairs.append((kind, one, other))
    pairs += [("missed", one, None) for one in theirs] + [("spurious", None, other) for other in ours]
    judged = []
    for kind, expected, actual in pairs:
        _, start, end = expected or actual or ("", 0, 0)
        entity = {"kind": kind, "start": start, "end": end, "gold": expected and expected[0], "found": actual and actual[0]}
        if expected and actual and expected[1:] != actual[1:]:
            entity |= {"found_start": actual[1], "found_end": actual[2]}
        judged.append(entity)
    return sorted(judged, key=lambda entity: (entity["start"], entity["end"]))


def _touch(one: tuple[str, int, int], other: tuple[str, int, int]) -> bool:
    return one[1] < other[2] and other[1] < one[2]


def _sentences(predictions: str) -> Iterator[tuple[list[str], list[str], list[str]]]:
    for block in predictions.split("\n\n"):
        lines = [line.split(" ") for line in block.splitlines() if line]
        if lines:
            yield tuple(map(list, zip(*lines, strict=True)))  # type: ignore[misc]  # three columns


def top(mistakes: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The first so many examples of :func:`of_images`."""
    return {**mistakes, "examples": mistakes["examples"][:limit]}
