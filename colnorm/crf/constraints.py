"""Forbidden moves of a chain: tagging schemes, any table of moves, and the gold paths that break them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from colnorm.crf.chain import Chain
from colnorm.crf.reductions import NEG_INF

START, END = "<start>", "<end>"
"""What comes before the first tag and after the last one, in a table of moves."""


class Scheme(NamedTuple):
    """What a tagging scheme allows, by the prefixes of two tags: ``BI`` is from B-x to I-y."""

    free: str  # moves between any two types
    same: str  # moves within one type
    first: str  # prefixes
    last: str


_BIO = Scheme("OO OB BO BB IO IB", "BI II", "OB", "OBI")
_BIOES = Scheme("OO OB OS EO EB ES SO SB SS", "BI BE II IE", "OBS", "OES")
SCHEMES = {
    "BIO": _BIO,
    "IOB2": _BIO,
    # An entity begins with I, and with B only where it touches one of its own type.
    "IOB1": Scheme("OO OI IO BO II BI", "IB BB", "OI", "OIB"),
    "BIOES": _BIOES,
    "IOBES": _BIOES,
    "BILOU": Scheme(*(moves.replace("E", "L").replace("S", "U") for moves in _BIOES)),
}


def constrain(chain: Chain, tag_names: Sequence[str], scheme: str = "BIO") -> Chain:
    """The chain with -inf at every move that a tagging scheme forbids: no illegal path has any probability.

    "BIO" (also "IOB2"): I-x only after B-x or I-x, and never first. "IOB1": B-x only after B-x or I-x. "BIOES" (also "IOBES"):
    after B-x and I-x only I-x or E-x; after O, E-x and S-x, and first, only O, B-y or S-y; last only O, E-x or S-x. "BILOU" is
    the same with L for E and U for S.

    Use it on the chain of each step: forbidden moves get no gradient, and stay forbidden whatever the parameters become.

    Args:
      chain: log-potentials, kept where the move is legal.
      tag_names: K names in the order of the tags, "O" or a prefix of the scheme, a hyphen and a type: "B-per".
      scheme: one of these.

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
    if scheme not in SCHEMES:
        raise ValueError(f"constrain: expected scheme to be one of {tuple(SCHEMES)}, got {scheme!r}")
    _check_names("constrain", chain, tag_names)
    free, same, first, last = SCHEMES[scheme]
    tags = [_parse(name, scheme) for name in tag_names]
    free_moves, same_moves = free.split(), same.split()
    moves = [[p + q in free_moves or (p + q in same_moves and x == y) for q, y in tags] for p, x in tags]
    return _forbid(chain, moves, [prefix in first for prefix, _ in tags], [prefix in last for prefix, _ in tags])


def restrict(chain: Chain, tag_names: Sequence[str], moves: Mapping[str, Iterable[str]]) -> Chain:
    """The chain with -inf at every move that a table doesn't name.

    Args:
      chain: log-potentials, kept where the move is legal.
      tag_names: K different names in the order of the tags.
      moves: tag -> the tags that may follow. Under ``"<start>"`` stand those that may come first, all of them without that key;
        a tag may be the last one where ``"<end>"`` follows it, and any may where it follows none. A tag without an entry is
        followed by nothing.

    Raises:
      ValueError: for a name that is none of the tags', or not K different names.

    Example:
      >>> from colnorm import crf
      >>> names = ["noun", "verb"]
      >>> chain = crf.restrict(crf.Chain.zeros(2), names, {"<start>": ["noun"], "noun": ["verb"], "verb": ["noun", "<end>"]})
      >>> chain.transitions.tolist(), chain.start.tolist(), chain.end.tolist()
      ([[-inf, 0.0], [0.0, -inf]], [0.0, -inf], [-inf, 0.0])
    """
    _check_names("restrict", chain, tag_names)
    table = {before: set(after) for before, after in moves.items()}
    for name, known in ((name, {START, *tag_names}) for name in table):
        if name not in known:
            raise ValueError(f"restrict: expected moves from {START!r} or a tag, got {name!r}; tags are {list(tag_names)}")
    for before, names in table.items():
        if unknown := sorted(names - {*tag_names, *([END] if before != START else [])}):
            raise ValueError(f"restrict: expected moves from {before!r} to a tag or {END!r}, got {unknown[0]!r}")
    first = table.get(START, set(tag_names))
    ends = [END in table.get(name, ()) for name in tag_names]
    legal = [[after in table.get(before, ()) for after in tag_names] for before in tag_names]
    return _forbid(chain, legal, [name in first for name in tag_names], ends if any(ends) else [True] * len(ends))


def check_paths(
    chain: Chain, tags: Any, lengths: Any = None, tag_names: Sequence[str] | None = None, *, mask: Any = None
) -> None:
    """Looks for a gold path that the chain forbids, whose likelihood would be -inf. For where data is read: not inside jit.

    Args:
      chain: log-potentials; -inf forbids a move.
      tags: ``(B, T)`` integers.
      lengths: ``(B,)`` integers, all T by default.
      tag_names: K names for the message, numbers by default.
      mask: as everywhere in :mod:`colnorm.crf`.

    Raises:
      ValueError: a tag is outside [0, K), or a path makes a forbidden move; names the first one's sequence and position.

    Example:
      >>> from colnorm import crf
      >>> names = ["O", "B-per", "I-per"]
      >>> crf.check_paths(crf.constrain(crf.Chain.zeros(3), names), [[1, 2, 0], [0, 2, 0]], tag_names=names)
      Traceback (most recent call last):
      ...
      ValueError: sequence 1 has a forbidden path: from O to I-per at position 1
    """
    tags, K = np.asarray(tags), len(np.asarray(chain.start))
    transitions, start, end = (np.asarray(part, np.float32) for part in chain)
    names = [str(tag) for tag in range(K)] if tag_names is None else list(tag_names)
    if mask is None:
        counts = np.full(len(tags), tags.shape[1]) if lengths is None else np.asarray(lengths)
        mask = np.arange(tags.shape[1]) < counts[:, None]
    for number, (row, inside) in enumerate(zip(tags, np.asarray(mask, bool), strict=True)):
        positions = np.flatnonzero(inside)
        path = row[positions]
        if outside := [(int(p), int(tag)) for p, tag in zip(positions, path, strict=True) if not 0 <= tag < K]:
            raise ValueError(
                f"sequence {number} has the tag {outside[0][1]} at position {outside[0][0]}; expected 0 to {K - 1}"
            )
        if not len(path):
            continue
        where = [
            *([(START, names[path[0]], positions[0])] if start[path[0]] == NEG_INF else []),
            *(
                (names[before], names[after], positions[place + 1])
                for place, (before, after) in enumerate(itertools.pairwise(path))
                if transitions[before, after] == NEG_INF
            ),
            *([(names[path[-1]], END, positions[-1])] if end[path[-1]] == NEG_INF else []),
        ]
        if where:
            before, after, position = where[0]
            raise ValueError(f"sequence {number} has a forbidden path: from {before} to {after} at position {position}")


def _forbid(chain: Chain, moves: Any, first: Any, last: Any) -> Chain:
    legal = (np.array(moves), np.array(first), np.array(last))
    return Chain(*(jnp.where(allowed, values, NEG_INF) for allowed, values in zip(legal, chain, strict=True)))


def _check_names(name: str, chain: Chain, tag_names: Sequence[str]) -> None:
    if not isinstance(chain, Chain):
        raise ValueError(f"{name}: expected a Chain, got {type(chain).__name__}")
    K = chain.start.shape[0]
    if len(set(tag_names)) != len(tag_names) or len(tag_names) != K:
        raise ValueError(f"{name}: expected {K} tag names for a chain of {K} tags, got {len(tag_names)}: {list(tag_names)}")


def _parse(name: str, scheme: str) -> tuple[str, str]:
    prefixes = sorted({*SCHEMES[scheme].free, *SCHEMES[scheme].same} - {"O", " "})
    prefix, _, kind = name.partition("-")
    if name != "O" and not (prefix in prefixes and kind):
        expected = ", ".join(f"'{letter}-type'" for letter in prefixes)
        raise ValueError(f"constrain: expected {scheme} tags 'O', {expected}, got {name!r}")
    return prefix, kind
