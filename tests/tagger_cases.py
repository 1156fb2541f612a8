"""A small tagger of every part with random parameters, and the vocabularies of a few sentences; nothing is compiled for it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from colnorm.data.encoding import Encoder
from colnorm.tagger import build, parameter_shapes

SENTENCES = (
    ("Mr.", "Obama", "flew", "to", "Paris", "on", "Monday", "."),
    ("He", "met", "the", "president", "of", "Iran", "'s", "navy", "there", "!"),
    ("Zürich", "2004", "北京", "to", "the", "Paris", "navy", "."),
)
TAGS = ("O", "B-geo", "I-geo", "B-per", "I-per")
FIELDS = {
    "word_features": 7,
    "hidden": 6,
    "character_features": 5,
    "character_hidden": 3,
    "shape_features": 3,
    "layers": 2,
    "layer_norm": "output",
    "head": "crf",
    "constrained": True,
    "longest": 3,
    "dropout": 0.5,
    "word_dropout": 0.1,
    "dtype": "float32",
}


def make_tagger(characters: bool = True, **changes: Any) -> tuple[dict[str, Any], Encoder, Any]:
    """Its arguments, with ``changes``, its encoder and parameters."""
    fields = {**FIELDS, **changes}
    encoder = Encoder.build(SENTENCES, TAGS, characters=characters, word_length=8, shapes=fields["shape_features"] > 0)
    num_characters = 0 if encoder.characters is None else len(encoder.characters)
    fields |= {"tag_names": list(TAGS), "num_words": len(encoder.words), "num_characters": num_characters}
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {}
    for name, shape in parameter_shapes(build(fields)).items():
        *path, last = name.split("/")
        part = params
        for key in path:
            part = part.setdefault(key, {})
        part[last] = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return fields, encoder, params
