"""Pickles that hold arrays and plain containers, read without executing anything."""

import codecs
import pickle
import re
import struct
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np


def load(file: IO[bytes]) -> Any:
    """What the pickle in `file` holds: dict, list, tuple, bytes, str, int and :class:`StoredArray`, nothing else.

    Strings of Python 2, which wrote CIFAR-10, come as bytes. Integers have at most 64 bits, and the keys of a dict are
    bytes, str or int. Time and memory grow with the size of the file alone, whatever sizes it claims.

    Raises `pickle.UnpicklingError` for anything else that the pickle names and for a damaged one.
    """
    machine = _Machine(file.read())
    try:
        content = machine.run()
    except pickle.UnpicklingError:
        raise
    # A damaged pickle runs until an opcode makes no sense.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise pickle.UnpicklingError(f"what makes no sense at byte {machine.at}: {type(error).__name__}: {error}") from error
    _check_plain(content)
    return content


# A pickle is a program: it names globals, calls them and sets the state of what they return. Python's own reader runs all
# of it, makes its memo as long as a pickle claims, and hashes a key of 2^60 parts that 200 bytes describe. The reader here
# runs only what an array needs. Each global that an array's pickle names stands for a function of this file, and NumPy sees
# nothing but `frombuffer` of bytes and a plain number type.


class _Name(NamedTuple):
    """A global that a pickle names."""

    module: str
    name: str


class _Dtype:
    __slots__ = ("value",)

    def __init__(self, code: str | bytes, align: Any = False, copy: Any = True):
        if not re.fullmatch("[biuf][1248]", _text(code[:3])):
            raise pickle.UnpicklingError(f"dtype {code[:40]!r}, which is no plain integer or floating-point number")
        self.value = np.dtype(_text(code))

    def build(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(_text(state[1][:2]))


class StoredArray:
    """An array of a pickle; `value` is the NumPy array."""

    __slots__ = ("value",)

    def build(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        self.value = _values(raw, dtype).reshape(shape, order="F" if column_major else "C")


def _values(raw: Any, dtype: Any) -> np.ndarray:
    if type(raw) is not bytes or type(dtype) is not _Dtype:
        raise pickle.UnpicklingError("an array of other things than the bytes of plain numbers")
    return np.frombuffer(raw, dtype.value)  # a view: a pickle that shares bytes between arrays gains nothing


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> StoredArray:
    if subtype != _Name("numpy", "ndarray"):
        raise pickle.UnpicklingError("an array of another type than numpy.ndarray")
    return StoredArray()  # empty until its state is set


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> StoredArray:
    array = StoredArray()
    array.build((1, shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    return _values(raw, dtype).item()


def _encode(text: Any, encoding: Any) -> bytes:
    if _text(encoding[:7]) != "latin1":  # how Python 3 writes bytes into a pickle of protocol 2
        raise pickle.UnpicklingError(f"the codec {encoding[:40]!r}")
    return str.encode(text, "latin1")


_ADMITTED: dict[_Name, Callable[..., Any] | None] = {
    _Name("numpy", "ndarray"): None,  # only ever named, as the type of an array
    _Name("numpy", "dtype"): _Dtype,
    _Name("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    _Name("numpy._core.multiarray", "scalar"): _scalar,
    _Name("numpy._core.numeric", "_frombuffer"): _frombuffer,
    _Name("_codecs", "encode"): _encode,
}
_LONGEST_KEY = 256
# What Python 2 writes between quotes. Other escapes would make the decoder warn.
_ESCAPED = re.compile(rb"""(?:[^\\]++|\\(?:[\\'"nrt]|x[0-9a-fA-F]{2}))*+""", re.DOTALL)


class _Machine:
    """Carries out the opcodes of `raw`, the next of which is at byte `at`."""

    def __init__(self, raw: bytes):
        self.raw = raw
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # the heights of the stack that are marked
        self.memo: dict[int, Any] = {}  # not a list: a number is as good as another
        self.encoded = 0

    def run(self) -> Any:
        while (code := self.take(1)) != b".":
            if code in _VALUES:
                self.stack.append(_VALUES[code](self))
            elif code in _ACTIONS:
                _ACTIONS[code](self)
            else:
                raise pickle.UnpicklingError(f"the opcode {code!r} at byte {self.at - 1}, which no array needs")
        return self.pop()

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.raw) - self.at:
            raise pickle.UnpicklingError(f"one that ends at byte {len(self.raw)}, {count} bytes being due from {self.at} on")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        end = self.raw.find(b"\n", self.at)
        if end < 0:
            raise pickle.UnpicklingError(f"one that ends at byte {len(self.raw)}, in a line that begins at {self.at}")
        return self.take(end + 1 - self.at)[:-1]

    def decimal(self) -> int:
        line = self.line().removesuffix(b"L")
        return line == b"01" if line in (b"00", b"01") else self.small(int(line))  # 00 and 01 are False and True

    def long(self, count: int) -> int:
        return self.small(int.from_bytes(self.take(count), "little", signed=True))

    def small(self, value: int) -> int:
        if value.bit_length() > 64:
            raise pickle.UnpicklingError(f"an integer of {value.bit_length()} bits")
        return value

    def string(self) -> bytes:
        line = self.line()
        if (
            len(line) < 2
            or line[0] != line[-1]
            or line[:1] not in (b"'", b'"')
            or not _ESCAPED.fullmatch(line, 1, len(line) - 1)
        ):
            raise pickle.UnpicklingError(f"the string {line[:40]!r}, which Python 2 would write in another way")
        return codecs.escape_decode(line[1:-1])[0]

    def text(self, count: int) -> str:
        return self.take(count).decode("utf-8", "surrogatepass")

    def pop(self) -> Any:
        return self.pop_last(1)[0]

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError("an opcode that takes more than there is")
        return self.pop_from(len(self.stack) - count)

    def pop_marked(self) -> list[Any]:
        return self.pop_from(self.marks.pop())

    def pop_from(self, height: int) -> list[Any]:
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def name(self, module: Any, name: Any) -> _Name:
        # Before NumPy 2 the same modules were called numpy.core.
        found = _Name(_text(module).replace("numpy.core.", "numpy._core."), _text(name))
        if found not in _ADMITTED:
            raise pickle.UnpicklingError(f"the global {found.module[:40]}.{found.name[:40]}, which no array needs")
        return found

    def call(self) -> Any:
        name, arguments = self.pop_last(2)
        function = _ADMITTED[name] if type(name) is _Name else None
        if function is None or type(arguments) is not tuple:
            raise pickle.UnpicklingError("a call of what is no function")
        result = function(*arguments)
        if type(result) is bytes:  # the one result that grows with what the pickle holds, which may hold it once
            self.encoded += len(result)
            if self.encoded > len(self.raw):
                raise pickle.UnpicklingError(f"more encoded bytes than the {len(self.raw)} of the pickle")
        return result

    def build(self) -> None:
        target, state = self.pop_last(2)
        if type(target) not in (StoredArray, _Dtype) or type(state) is not tuple:
            raise pickle.UnpicklingError(f"a state of a value of type {type(target).__name__.lstrip('_')}")
        target.build(state)
        self.stack.append(target)

    def mapping(self, items: list[Any]) -> dict[Any, Any]:
        for key in items[::2]:
            # A tuple that shares its parts takes for ever to hash, and long texts to compare.
            if type(key) is not int and not (type(key) in (bytes, str) and len(key) <= _LONGEST_KEY):
                raise pickle.UnpicklingError(f"a key of type {type(key).__name__.lstrip('_')}, or a long one")
        return dict(zip(items[::2], items[1::2], strict=True))

    def last(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise pickle.UnpicklingError(f"elements of a {kind.__name__} that is not there")
        return self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        self.last(list).extend(values)

    def update(self, items: list[Any]) -> None:
        self.last(dict).update(self.mapping(items))

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def check_protocol(self, protocol: int) -> None:
        if protocol > 5:
            raise pickle.UnpicklingError(f"protocol {protocol}")

    def check_frame(self, size: int) -> None:
        if size > len(self.raw) - self.at:  # of no other use here
            raise pickle.UnpicklingError(f"one that ends at byte {len(self.raw)}, in a frame of {size} bytes from {self.at} on")


_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    b"N": lambda machine: None,
    b"\x88": lambda machine: True,
    b"\x89": lambda machine: False,
    b"I": lambda machine: machine.decimal(),
    b"L": lambda machine: machine.decimal(),
    b"J": lambda machine: machine.number("<i"),
    b"K": lambda machine: machine.number("B"),
    b"M": lambda machine: machine.number("<H"),
    b"\x8a": lambda machine: machine.long(machine.number("B")),
    b"\x8b": lambda machine: machine.long(machine.number("<i")),
    b"F": lambda machine: float(machine.line()),
    b"G": lambda machine: machine.number(">d"),
    b"S": lambda machine: machine.string(),
    b"T": lambda machine: machine.take(machine.number("<i")),
    b"U": lambda machine: machine.take(machine.number("B")),
    b"C": lambda machine: machine.take(machine.number("B")),
    b"B": lambda machine: machine.take(machine.number("<I")),
    b"\x8e": lambda machine: machine.take(machine.number("<Q")),
    b"\x96": lambda machine: machine.take(machine.number("<Q")),  # a bytearray, of which arrays of protocol 5 are made
    b"V": lambda machine: machine.line().decode("raw_unicode_escape"),
    b"X": lambda machine: machine.text(machine.number("<I")),
    b"\x8c": lambda machine: machine.text(machine.number("B")),
    b"\x8d": lambda machine: machine.text(machine.number("<Q")),
    b"]": lambda machine: [],
    b"l": lambda machine: machine.pop_marked(),
    b"}": lambda machine: {},
    b"d": lambda machine: machine.mapping(machine.pop_marked()),
    b")": lambda machine: (),
    b"\x85": lambda machine: tuple(machine.pop_last(1)),
    b"\x86": lambda machine: tuple(machine.pop_last(2)),
    b"\x87": lambda machine: tuple(machine.pop_last(3)),
    b"t": lambda machine: tuple(machine.pop_marked()),
    b"g": lambda machine: machine.memo[int(machine.line())],
    b"h": lambda machine: machine.memo[machine.number("B")],
    b"j": lambda machine: machine.memo[machine.number("<I")],
    b"c": lambda machine: machine.name(machine.line(), machine.line()),
    b"\x93": lambda machine: machine.name(*machine.pop_last(2)),
    b"R": lambda machine: machine.call(),
}
_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda machine: machine.check_protocol(machine.number("B")),
    b"\x95": lambda machine: machine.check_frame(machine.number("<Q")),
    b"(": lambda machine: machine.marks.append(len(machine.stack)),
    b"a": lambda machine: machine.extend(machine.pop_last(1)),
    b"e": lambda machine: machine.extend(machine.pop_marked()),
    b"s": lambda machine: machine.update(machine.pop_last(2)),
    b"u": lambda machine: machine.update(machine.pop_marked()),
    b"b": lambda machine: machine.build(),
    b"p": lambda machine: machine.remember(int(machine.line())),
    b"q": lambda machine: machine.remember(machine.number("B")),
    b"r": lambda machine: machine.remember(machine.number("<I")),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
}


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
