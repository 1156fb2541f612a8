"""Word vectors for the embedded sentences, in GloVe's text form, counted from the training ones: what a demo has for GloVe."""

from collections import Counter
from pathlib import Path

import numpy as np
import scipy.sparse.linalg

from colnorm.data import sample
from colnorm.files import write_text

WINDOW = 2  # words on each side
FEATURES = 50


def write_vectors(path: Path, features: int = FEATURES) -> None:
    """Writes singular vectors of the positive pointwise mutual information of neighbouring words (Levy and Goldberg, 2014)."""
    sentences = [words for words, _ in sample.generate()[0]]
    counts = Counter(word for words in sentences for word in words)
    places = {word: place for place, word in enumerate(counts)}
    together = np.zeros((len(places), len(places)))
    for words in sentences:
        for first, word in enumerate(words):
            for other in words[first + 1 : first + 1 + WINDOW]:
                together[places[word], places[other]] += 1
                together[places[other], places[word]] += 1
    of_word = together.sum(1)
    expected = np.outer(of_word, of_word) / max(together.sum(), 1)
    information = np.zeros_like(together)
    np.log(together / np.maximum(expected, 1e-12), out=information, where=together > 0)
    start = np.ones(len(places))  # else drawn anew at every call
    left, values, _ = scipy.sparse.linalg.svds(np.maximum(information, 0), features, v0=start)
    vectors = left * np.sqrt(values)
    vectors *= 0.4 / max(vectors.std(), 1e-12)  # about as large as GloVe's
    lines = (f"{word} {' '.join(f'{value:.5f}' for value in vectors[place])}\n" for word, place in places.items())
    write_text(path, "".join(lines))
