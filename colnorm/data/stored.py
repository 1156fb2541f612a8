"""What was read from JSON, checked before anything is made of it."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """Values of which `holds` is true, in words `name`."""

    name: str
    holds: Callable[[Any], bool]


FLAG = Kind("true or false", lambda value: type(value) is bool)
TEXT = Kind("a text", lambda value: type(value) is str)
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
OBJECT_OR_NULL = Kind("an object or null", lambda value: value is None or isinstance(value, Mapping))


def whole(lowest: int, highest: int) -> Kind:
    """Whole numbers from `lowest` to `highest`; true and 1.0 are none."""
    return Kind(f"a whole number from {lowest} to {highest}", lambda value: type(value) is int and lowest <= value <= highest)


def check(what: str, stored: Any, kinds: Mapping[str, Kind | list[Kind]]) -> None:
    """Checks that `stored` is an object with these keys, no more, each with a value of its kind; `[kind]` is a list of it.

    Raises ValueError that says which key (and place in its list), what was expected and what came; for the keys themselves
    it says `what` the object is.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"expected {what}, an object, got {reprlib.repr(stored)}")
    if stored.keys() != kinds.keys():
        raise ValueError(f"expected {what} with the keys {', '.join(kinds)}, got {', '.join(map(str, stored)) or 'none'}")
    for key, kind in kinds.items():
        _check_value(key, stored[key], kind)


def _check_value(key: str, value: Any, kind: Kind | list[Kind]) -> None:
    if isinstance(kind, Kind):
        if not kind.holds(value):
            raise ValueError(f"{key}: expected {kind.name}, got {reprlib.repr(value)}")
        return
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key}: expected a list, got {reprlib.repr(value)}")
    for index, element in enumerate(value):
        _check_value(f"{key}[{index}]", element, kind[0])
