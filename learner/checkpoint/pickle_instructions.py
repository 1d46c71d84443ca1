"""The instructions of a pickle, read one after the other as `pickletools.genops` does, in a part of its time.

Only those that torch writes of plain data have their arguments read; who comes upon another one has to stop there.
Numbers that are added to a list, of which most of a large pickle is made, are read at once, by a regular expression.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

ATOMS = "ATOMS"  # stands for MARK, numbers and constants, APPENDS
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "NONE", "NEWTRUE", "NEWFALSE"}

# Numbers and constants: each has a length that its beginning tells.
_ATOM = rb"[N\x88\x89]|K.|M..|J.{4}|G.{8}|\x8a(?:\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8})"
_BEGINNINGS = b"N\x88\x89KMJG\x8a"

_Read = Callable[[bytes, int], tuple[Any, int]]  # of the data and the place of an argument: the argument, and its end


class Atoms:
    """Numbers and constants that are added to a list at once, as they stand in the pickle."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def at_most(self) -> int:
        """Return how many they can be: as many as there are bytes that one may begin with."""
        return len(self._data) - len(self._data.translate(None, _BEGINNINGS))

    def values(self) -> list[Any]:
        """Return what they are."""
        return [value for _, value, _ in instructions(self._data)]


def instructions(data: bytes) -> Iterator[tuple[str, Any, int]]:
    """Yield the name, argument and place of each instruction, up to STOP or the end of the data.

    The argument of one in `VALUES` is what it stands for. Numbers and constants that are added to a list at once come
    as one instruction `ATOMS`.

    Raises:
        ValueError, struct.error: where an argument is cut off, or a text is none.

    Example:
        >>> import pickle
        >>> [name for name, _, _ in instructions(pickle.dumps({"a": [1, 2.5]}, 2))]
        ['PROTO', 'EMPTY_DICT', 'BINPUT', 'BINUNICODE', 'BINPUT', 'EMPTY_LIST', 'BINPUT', 'ATOMS', 'SETITEM', 'STOP']
    """
    position, end = 0, len(data)
    while position < end:
        name, read = _TABLE[data[position]]
        if read is None:
            yield name, None, position
            position += 1
            if name == "STOP":
                return
        else:
            start = position
            argument, position = read(data, position + 1)
            yield (ATOMS if type(argument) is Atoms else name), argument, start


def _of_format(code: str) -> _Read:
    number = struct.Struct(code)
    unpack, size = number.unpack_from, number.size

    def read(data: bytes, position: int) -> tuple[Any, int]:
        return unpack(data, position)[0], position + size

    return read


_LENGTH = struct.Struct("<I")


def _constant(value: bool | None) -> _Read:
    return lambda data, position: (value, position)


def _byte(data: bytes, position: int) -> tuple[int, int]:
    try:
        return data[position], position + 1
    except IndexError:
        raise ValueError("expected an argument of one byte, but the pickle is exhausted") from None


def _text(data: bytes, position: int) -> tuple[str, int]:
    begin = position + 4
    end = begin + _LENGTH.unpack_from(data, position)[0]
    if end > len(data):
        raise ValueError(f"expected {end - begin} bytes of a text, but only {len(data) - begin} remain")
    return data[begin:end].decode("utf-8", "surrogatepass"), end


def _long(data: bytes, position: int) -> tuple[int, int]:
    n, begin = _byte(data, position)
    end = begin + n
    if end > len(data):
        raise ValueError(f"expected {end - begin} bytes of an int, but only {len(data) - begin} remain")
    return int.from_bytes(data[begin:end], "little", signed=True), end


def _global(data: bytes, position: int) -> tuple[str, int]:
    middle = data.index(b"\n", position)
    end = data.index(b"\n", middle + 1)
    return f"{data[position:middle].decode('ascii')} {data[middle + 1 : end].decode('ascii')}", end + 1


@cache
def _appended() -> re.Pattern[bytes]:
    """Return the pattern of what comes after MARK; compiled when needed, for that takes as long as an import."""
    return re.compile(rb"((?:" + _ATOM + rb")++)e", re.DOTALL)  # `++`: it takes no memory to try again with fewer


def _mark(data: bytes, position: int) -> tuple[Atoms | None, int]:
    found = _appended().match(data, position)
    return (Atoms(found[1]), found.end()) if found else (None, position)


_READERS = {
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "PROTO": _byte,
    "BINPUT": _byte,
    "BINGET": _byte,
    "BININT1": _byte,
    "BININT2": _of_format("<H"),
    "BININT": _of_format("<i"),
    "BINFLOAT": _of_format(">d"),
    "LONG_BINPUT": _of_format("<I"),
    "LONG_BINGET": _of_format("<I"),
    "LONG1": _long,
    "BINUNICODE": _text,
    "GLOBAL": _global,
    "MARK": _mark,
}
_NAMES = {ord(instruction.code): instruction.name for instruction in pickletools.opcodes}
_TABLE = [(name, _READERS.get(name)) for name in (_NAMES.get(code, f"{code:#x}") for code in range(256))]
