"""``tagger.json``: what makes a tagger out of the parameters of a run directory, with a digest that is checked."""

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colnorm.data.encoding import Encoder
from colnorm.data.schemes import split_tag
from colnorm.files import write_json
from colnorm.run_directory import TAGGER
from colnorm.tagger import argument_names, build

LATER = {"longest": 12, "layers": 1}
"""Arguments of a tagger that files of older versions lack, and what those taggers would have there."""

DIGEST = "sha256"
"""The key of ``tagger.json`` that holds the digest of all the others."""


def write_tagger(path: Path, fields: Mapping[str, Any], encoder: Encoder) -> None:
    """Stores what makes a tagger out of parameters in ``tagger.json`` of a run directory, and a digest of it."""
    write_json(path / TAGGER, tagger_to_json(fields, encoder))


def tagger_to_json(fields: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    """What :func:`tagger_of_json` reads: the arguments of :func:`colnorm.tagger.build`, the encoder, and a digest of both."""
    stored = {"tagger": dict(fields), "encoder": encoder.to_json()}
    return {**stored, DIGEST: digest(stored)}


def digest(stored: Any) -> str:
    """SHA-256 of what JSON holds, however it is laid out: neither spaces nor the order of keys count."""
    return hashlib.sha256(_canonical(stored).encode("ascii")).hexdigest()


def read_tagger(path: Path) -> tuple[dict[str, Any], Encoder]:
    """The arguments of :func:`colnorm.tagger.build` and the encoder that :func:`write_tagger` stored.

    They are checked by the digest, which files of older versions lack, and against each other. Whether they fit a checkpoint
    is for :func:`colnorm.tagger.check_parameters`.

    Raises:
      FileNotFoundError: the run directory holds no ``tagger.json``: it is not a tagger's.
      ValueError: the file can't be read, or doesn't hold what was written.
    """
    file = path / TAGGER
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} holds no tagger: there is no {TAGGER} in it") from None
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from None
    try:
        return tagger_of_json(json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))
    except RecursionError:
        problem = "it is nested too deeply"
    except UnicodeDecodeError as error:
        problem = f"expected utf-8, got the byte 0x{data[error.start]:02x} at {error.start:,}"
    except json.JSONDecodeError as error:
        problem = f"expected JSON, but {error}" + (": it is cut off" if error.pos >= len(error.doc.rstrip()) else "")
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"{file} doesn't describe a tagger: {problem}; restore it from a copy, or train again")


def tagger_of_json(stored: Any) -> tuple[dict[str, Any], Encoder]:
    """:func:`read_tagger` of the parsed file.

    Raises:
      ValueError: it is not what :func:`tagger_to_json` made.
    """
    if not isinstance(stored, dict) or stored.keys() - {DIGEST} != {"tagger", "encoder"}:
        got = ", ".join(map(reprlib.repr, stored)) if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"expected the keys tagger, encoder and {DIGEST}, got {got or 'none'}")
    fields = stored["tagger"]
    if DIGEST in stored and stored.pop(DIGEST) != digest(stored):
        raise ValueError(f"its {DIGEST} is that of another content: it was changed or damaged after it was written")
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object as tagger, got {reprlib.repr(fields)}")
    fields = {**LATER, **fields}
    missing = [name for name in argument_names() if name not in fields]
    if missing:
        raise ValueError(f"expected all arguments of a tagger, got none of {', '.join(missing)}")
    build(fields)
    encoder = Encoder.from_json(stored["encoder"])
    _check_bio(encoder.tags.names)
    agreement = {
        "tag_names": list(encoder.tags.names),
        "num_words": len(encoder.words),
        "num_characters": 0 if encoder.characters is None else len(encoder.characters),
    }
    for name, expected in agreement.items():
        if fields[name] != expected:
            got = reprlib.repr(fields[name])
            raise ValueError(f"expected {name} of the tagger to be the encoder's, {reprlib.repr(expected)}, got {got}")
    if encoder.shapes is not (fields["shape_features"] > 0):
        read = "the encoder makes shapes" if encoder.shapes else "the encoder makes no shapes"
        raise ValueError(f"{read}, but shape_features of the tagger is {fields['shape_features']}")
    return fields, encoder


def _check_bio(names: Sequence[str]) -> None:
    """Raises ``ValueError`` unless the tags are in BIO, with B-x and I-x of each type x, as entities need."""
    for name in names:
        prefix, kind = split_tag(name, "BI")
        other = {"O": "O", "B": f"I-{kind}", "I": f"B-{kind}"}[prefix]
        if other not in names:
            raise ValueError(f"expected tags in BIO, got {name!r} without {other!r}")


def _canonical(value: Any) -> str:
    """The one text of what JSON holds."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"expected finite numbers, got {name}")
