"""Pickles that hold arrays and plain containers, read without executing anything."""

import pickle
import re
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np


def load(file: IO[bytes]) -> Any:
    """What the pickle in `file` holds: dict, list, tuple, bytes, str, int and :class:`StoredArray`, nothing else.

    Strings of Python 2, which wrote CIFAR-10, come as bytes. Raises `pickle.UnpicklingError` for anything else that the
    pickle names, and, as damaged opcodes are carried out until one makes no sense, nearly any exception for a damaged one.
    """
    content = _Unpickler(file, encoding="bytes").load()
    _check_plain(content)
    return content


# A pickle is a program: it names globals, calls them and sets the state of what they return. NumPy's own globals would
# hand it `ndarray.__setstate__` and `dtype.__setstate__` (object arrays; a dtype that grows under its array) and every
# codec. So none of them is let in: each name that an array's pickle needs stands for one of ours, which keeps no state
# that a pickle could set, and NumPy sees nothing but `frombuffer` of bytes and a plain number type.


class _Global(NamedTuple):  # a tuple, since a pickle can set attributes on a function or a class
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class _Dtype:
    __slots__ = ("value",)

    def __init__(self, code: str | bytes, align: Any = False, copy: Any = True):
        if not re.fullmatch("[biuf][1248]", _text(code)):
            raise pickle.UnpicklingError(f"dtype {code!r}, which is no plain integer or floating-point number")
        self.value = np.dtype(_text(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(_text(state[1]))


class StoredArray:
    """An array of a pickle; `value` is the NumPy array."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if column_major else "C")


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> StoredArray:
    if subtype is not _ADMITTED["numpy", "ndarray"]:
        raise pickle.UnpicklingError("an array of another type than numpy.ndarray")
    return StoredArray()  # empty until its state is set


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> StoredArray:
    array = StoredArray()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    return np.frombuffer(raw, dtype.value).item()


def _encode(text: Any, encoding: Any) -> bytes:
    if _text(encoding) != "latin1":  # how Python 3 writes bytes into a pickle of protocol 2
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return str.encode(text, "latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _Global(StoredArray),  # only ever named, as the type of an array
    ("numpy", "dtype"): _Global(_Dtype),
    ("numpy._core.multiarray", "_reconstruct"): _Global(_reconstruct),
    ("numpy._core.multiarray", "scalar"): _Global(_scalar),
    ("numpy._core.numeric", "_frombuffer"): _Global(_frombuffer),
    ("_codecs", "encode"): _Global(_encode),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Before NumPy 2 the same modules were called numpy.core.
        admitted = _ADMITTED.get((module.replace("numpy.core.", "numpy._core."), name))
        if admitted is None:
            raise pickle.UnpicklingError(f"the global {module}.{name}, which no array needs")
        return admitted


def _check_plain(content: Any) -> None:
    """Raises UnpicklingError unless `content` is made of dict, list, tuple, bytes, str, int and filled arrays alone."""
    pending, seen = [content], set()
    while pending:  # no recursion: a pickle may nest deeply, share its parts, or hold itself
        value = pending.pop()
        if type(value) in (dict, list, tuple):
            if id(value) not in seen:
                seen.add(id(value))
                pending.extend(value)
                pending.extend(value.values() if type(value) is dict else ())
        elif type(value) not in (bytes, str, int) and not (type(value) is StoredArray and hasattr(value, "value")):
            raise pickle.UnpicklingError(f"a value of type {type(value).__name__.lstrip('_')}")
