"""A tagged sentence, and tag schemes: what IOB1, BIO and BIOES tags mean, in the one form that the library uses, BIO.

A tag is "O" or a prefix, "-" and an entity type, which may itself hold a "-". In BIO (also called IOB2) every entity
begins with B-x and goes on with I-x.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Sentence(NamedTuple):
    """The words of a sentence and, as many, their tags in BIO."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


# The prefixes of each scheme besides O. IOB1 writes B only between two touching entities of one type; the last token of
# an entity is E (BIOES) or L (BILOU), an entity of one token S or U.
_PREFIXES = {"IOB1": "BI", "IOB2": "BI", "BIO": "BI", "BIOES": "BIES", "IOBES": "BIES", "BILOU": "BILU"}
ANY_PREFIX = "BIESLU"
_GOES_ON = "IEL"  # an entity that is open, and begins one where none of its type is
_STAYS_OPEN = "BI"


def to_bio(tags: Sequence[str], scheme: str = "BIO") -> tuple[str, ...]:
    """`tags` of one sentence in `scheme` ("IOB1", "BIO", "IOB2", "BIOES", "IOBES" or "BILOU") as BIO tags.

    As in conlleval, I-x, E-x and L-x begin an entity where no entity of type x is open: after O, after another type, and
    after the end of an entity that E, L, S or U marks. So illegal tags are repaired, and legal BIO stays as it is.
    Raises ValueError for another scheme, a prefix that the scheme does not have, and a tag without a type.
    """
    prefixes = prefixes_of(scheme)
    result = []
    open_type = None
    for tag in tags:
        prefix, kind = split_tag(tag, prefixes)
        if prefix == "O":
            open_type = None
            result.append("O")
            continue
        inside = prefix in _GOES_ON and kind == open_type
        open_type = kind if prefix in _STAYS_OPEN else None
        result.append(sys.intern(("I-" if inside else "B-") + kind))  # a million tags, a dozen strings
    return tuple(result)


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities of BIO `tags` as (type, start, end), in order; `end` is exclusive.

    An I-x where no entity of type x is open begins one, as in `to_bio`, so that a model's free predictions can be read
    too. Raises ValueError for a tag that is not BIO.
    """
    result: list[tuple[str, int, int]] = []
    open_type = None
    for position, tag in enumerate(tags):
        prefix, kind = split_tag(tag, "BI")
        if prefix == "O":
            open_type = None
        elif prefix == "I" and kind == open_type:
            result[-1] = (kind, result[-1][1], position + 1)
        else:
            result.append((kind, position, position + 1))
            open_type = kind
    return result


def split_tag(tag: str, prefixes: str = ANY_PREFIX) -> tuple[str, str]:
    """("O", "") or the prefix and the type of `tag`.

    Raises ValueError for a tag without a type, with a type of several words (two columns read as one), and with a prefix
    that is not in `prefixes`.
    """
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    if len(prefix) != 1 or prefix not in prefixes:
        raise ValueError(f"expected a tag O or with a prefix of {', '.join(prefixes)}, got {tag!r}")
    if not dash or not kind or " " in kind or "\t" in kind:
        raise ValueError(f"expected a tag with a type of one word, as {prefix}-x, got {tag!r}")
    return prefix, kind


def prefixes_of(scheme: str) -> str:
    """The prefixes of a scheme besides O. Raises ValueError for a name that is none."""
    if scheme not in _PREFIXES:
        raise ValueError(f"expected a tag scheme of {', '.join(_PREFIXES)}, got {scheme!r}")
    return _PREFIXES[scheme]


def is_tag(text: str) -> bool:
    """Whether `text` is a tag of any scheme."""
    try:
        split_tag(text)
    except ValueError:
        return False
    return True


def recognise(tags: Iterable[str]) -> str:
    """The scheme of all tags of a file: "BIOES" with E or S, "BILOU" with L or U, else "BIO", which reads IOB1 too.

    Every entity of legal BIOES ends with E or S, so that a file with entities always tells. Raises ValueError for tags of
    both kinds, and what `split_tag` raises.
    """
    seen = {split_tag(tag)[0] for tag in tags}
    if seen & set("ES") and seen & set("LU"):
        raise ValueError(f"expected tags of one scheme, got prefixes of BIOES and BILOU: {', '.join(sorted(seen))}")
    return "BIOES" if seen & set("ES") else "BILOU" if seen & set("LU") else "BIO"
