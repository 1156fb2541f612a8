"""Tagging schemes as forbidden moves of a chain."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from colnorm.crf.chain import Chain
from colnorm.crf.reductions import NEG_INF

# By scheme, the prefixes after which an entity is complete; an inner prefix goes on with the entity before it.
COMPLETE = {"BIO": "OBI", "BIOES": "OES"}
INNER = "IE"


def constrain(chain: Chain, tag_names: Sequence[str], scheme: str = "BIO") -> Chain:
    """The chain with -inf at every move that a tagging scheme forbids: no illegal path has any probability.

    "BIO": I-x only after B-x or I-x, and never first. "BIOES": after B-x and I-x only I-x or E-x; after O, E-x and S-x, and
    first, only O, B-y or S-y; last only O, E-x or S-x.

    Use it on the chain of each step: forbidden moves get no gradient, and stay forbidden whatever the parameters become.

    Args:
      chain: log-potentials, kept where the move is legal.
      tag_names: K names in the order of the tags, "O" or a prefix of the scheme, a hyphen and a type: "B-per".
      scheme: "BIO" or "BIOES".

    Raises:
      ValueError: for an unknown scheme, a name that is not one of the scheme's, or not K names.

    Example:
      >>> from colnorm import crf
      >>> chain = crf.constrain(crf.Chain.zeros(3), ["O", "B-per", "I-per"])
      >>> chain.transitions.tolist()  # from O to I-per is forbidden
      [[0.0, 0.0, -inf], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
      >>> chain.start.tolist()
      [0.0, 0.0, -inf]
    """
    if scheme not in COMPLETE:
        raise ValueError(f"constrain: expected scheme to be one of {tuple(COMPLETE)}, got {scheme!r}")
    if not isinstance(chain, Chain):
        raise ValueError(f"constrain: expected a Chain, got {type(chain).__name__}")
    K = chain.start.shape[0]
    if len(tag_names) != K:
        raise ValueError(f"constrain: expected {K} tag names for a chain of {K} tags, got {len(tag_names)}: {list(tag_names)}")
    tags = [_parse(name, scheme) for name in tag_names]
    complete = [prefix in COMPLETE[scheme] for prefix, _ in tags]
    start = [prefix not in INNER for prefix, _ in tags]
    moves = [
        [before in "BI" and x == y if after in INNER else done for after, y in tags]
        for (before, x), done in zip(tags, complete, strict=True)
    ]
    legal = (np.array(moves), np.array(start), np.array(complete))
    return Chain(*(jnp.where(allowed, values, NEG_INF) for allowed, values in zip(legal, chain, strict=True)))


def _parse(name: str, scheme: str) -> tuple[str, str]:
    prefix, _, kind = name.partition("-")
    if name != "O" and not (prefix in tuple(scheme.replace("O", "")) and kind):
        expected = ", ".join(f"'{letter}-type'" for letter in scheme.replace("O", ""))
        raise ValueError(f"constrain: expected {scheme} tags 'O', {expected}, got {name!r}")
    return prefix, kind
