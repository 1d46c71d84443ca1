"""The pickle in a file of `torch.save`, gone through with stand-ins for what it would make.

Torch's own unpickler follows the same instructions with the real things. A container, and the memory of a tensor, is
used once: then nothing holds itself, and nothing grows by being repeated.

Time and memory stay in proportion to the file: a byte can be an instruction, or a container of a hundred bytes, so
both are counted; and keys whose hashes are the same would be compared each with each, so those are counted as well.
Texts are not: their hashes differ from process to process, and nobody can foresee them.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from learner.checkpoint.pickle_instructions import VALUES, Atoms, instructions
from learner.checkpoint.plain import CLASS_DTYPES, MAX_DEPTH, MAX_KEY, NAMED_DTYPES

# So many of each may come in a small file; and, in a large one, one for so many bytes of its pickle. What torch writes
# of a container takes six bytes at least, of most numbers three or more.
_N_INSTRUCTIONS, _BYTES_EACH = 400_000, 4
_N_CONTAINERS, _BYTES_EACH_CONTAINER = 100_000, 8
_N_ALIKE = 100  # keys of one dict that have the same hash


class RefusedError(Exception):
    """A file claims what is not to be believed; the message says what, as the end of a sentence."""


def check_pickle(data: bytes, sizes: Mapping[str, int]) -> None:
    """Refuse a pickle that is not one that torch writes of a dict of plain data.

    Args:
        data: the pickle.
        sizes: of the memories that its tensors are in, by `data/` and their key [bytes].

    Raises:
        RefusedError: for what is not to be believed.
        Exception: of whatever kind, for what cannot be read.
    """
    scan = _Scan(sizes, len(data))
    with _without_collection():
        end = _follow(scan, data)
    (top,) = scan.stack
    if scan.stacks or end != len(data) - 1 or not isinstance(top, _Box) or top.kind != "dict" or not top.is_plain:
        raise RefusedError("must hold a dict of plain data alone")


def _follow(scan: _Scan, data: bytes) -> int:
    """Go through the instructions; return the place of the last one."""
    for n, (name, argument, position) in enumerate(instructions(data)):
        if n > scan.n_instructions:
            raise RefusedError(f"has more than {scan.limit} instructions in a pickle of {len(data)} bytes")
        if name in VALUES:
            scan.stack.append(argument)
        elif follow := _INSTRUCTIONS.get(name):
            follow(scan, argument)
        elif name == "STOP":
            return position
        else:
            raise RefusedError(f"has the instruction {name} in its pickle")
    raise RefusedError("has a pickle that is exhausted before its end")


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from looking for garbage among the stand-ins: there is none, and it would take most of the time."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


class _Global(str):
    """What an instruction names: a module and something in it."""


class _Box:
    """A list, tuple or dict of a pickle."""

    __slots__ = ("alike", "depth", "is_plain", "items", "kind")

    def __init__(self, kind: str, items: list[Any] | None) -> None:
        self.kind, self.depth, self.is_plain = kind, 1, True
        self.alike: dict[int, int] | None = None  # of the keys that are no texts: how many have a hash
        self.items: list[Any] | None = None  # of a list or tuple that is not empty; `Atoms` stand for several
        if items:
            self.add(items)

    def add(self, items: list[Any]) -> None:
        """Take in what is of use here; of a dict, nothing is."""
        for item in items:
            kind = type(item)
            if kind is _Box:
                self.is_plain &= item.is_plain
                self.depth = max(self.depth, item.depth + 1)
            elif kind in _NOT_PLAIN:
                self.is_plain = False
        if self.depth > MAX_DEPTH:
            raise RefusedError(f"nests more than {MAX_DEPTH} deep")
        if self.items is None:
            self.items = items if self.kind != "dict" else None
        else:
            self.items.extend(items)


class _Storage:
    """The memory of a tensor, as a pickle tells of it."""

    __slots__ = ("kind", "n_bytes")

    def __init__(self, n_bytes: int, kind: str) -> None:
        self.n_bytes, self.kind = n_bytes, kind


class _Hooks:
    """The hooks of a tensor, of which there are none."""


class _Made:
    """A tensor, or what else a call makes."""

    __slots__ = ()


_KEY_KINDS = {type(None), bool, int, float, str}
_NOT_PLAIN = {_Global, _Storage, _Hooks}
_BYTES = {
    **{f"torch {name}": dtype.itemsize for name, dtype in CLASS_DTYPES.items()},
    **{str(dtype).replace(".", " "): dtype.itemsize for dtype in NAMED_DTYPES},
}
_UNTYPED = "torch.storage UntypedStorage"


class _Scan:
    """Where an unpickler is, and what it has seen."""

    def __init__(self, sizes: Mapping[str, int], n_bytes: int) -> None:
        self.sizes = sizes
        self.stack: list[Any] = []  # since the last mark
        self.stacks: list[list[Any]] = []  # those before it
        self.memo: dict[int, Any] = {}
        self.used: set[str] = set()
        self.budget = n_bytes  # [letters] that may become bytes
        self.limit = self.n_instructions = _N_INSTRUCTIONS + n_bytes // _BYTES_EACH  # and those but for `Atoms`
        self.n_containers = _N_CONTAINERS + n_bytes // _BYTES_EACH_CONTAINER  # that may still come

    def mark(self) -> None:
        self.stacks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.stacks.pop()
        return items

    def proto(self, version: int) -> None:
        if version != 2:
            raise RefusedError(f"has a pickle of protocol {version} instead of 2")

    def name(self, argument: str) -> None:
        if argument not in _CALLS and argument not in _BYTES and argument != _UNTYPED:
            raise RefusedError(f"names {argument.replace(' ', '.')!r:.100}, which is not plain data")
        self.stack.append(_Global(argument))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo[index]
        if isinstance(value, _Box | _Storage):
            raise RefusedError("uses a container twice")
        self.stack.append(value)

    def container(self, kind: str, items: list[Any] | None = None) -> None:
        self.n_containers -= 1
        if self.n_containers < 0:
            raise RefusedError("has more lists, tuples and dicts than a file of its size can be of use with")
        self.stack.append(_Box(kind, items))

    def last(self, n: int) -> list[Any]:
        items = self.stack[-n:]
        if len(items) < n:
            raise RefusedError("has an instruction that would pop from empty stack")
        del self.stack[-n:]
        return items

    def append(self, items: list[Any]) -> None:
        self.box("list").add(items)

    def append_atoms(self, atoms: Atoms) -> None:
        self.n_instructions -= atoms.at_most()
        self.append([atoms])

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise RefusedError("has a key without a value")
        box = self.box("dict")
        _check_keys(items[::2], box)
        box.add(items)

    def box(self, kind: str) -> _Box:
        box = self.stack[-1]
        if not isinstance(box, _Box) or box.kind != kind:
            raise RefusedError(f"adds to what is no {kind}")
        return box

    def storage(self) -> None:
        kind_of, kind, key, location, n = self.stack.pop().items
        if kind_of != "storage" or location != "cpu" or type(key) is not str or key in self.used:
            raise RefusedError(f"has tensors in an odd place {key!r:.40}")
        size = self.sizes.get(f"data/{key}")
        if type(n) is not int or not isinstance(kind, _Global) or n * _BYTES.get(kind, 1) != size:
            raise RefusedError(f"claims {n!r:.40} numbers in {size} bytes")
        self.used.add(key)
        self.stack.append(_Storage(size, kind))

    def call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Global) or name not in _CALLS or not isinstance(args, _Box) or args.kind != "tuple":
            raise RefusedError("calls what is no function")
        self.stack.append(_CALLS[name](self, *args.items or ()))

    def tensor(self, storage: Any, *args: Any) -> _Made:
        """Refuse a tensor that is not all of its memory; `args` are those of torch's own function."""
        offset, size, stride, needs_grad, hooks, *dtype = args
        if not isinstance(storage, _Storage) or (storage.kind == _UNTYPED) != bool(dtype):
            raise RefusedError("has a tensor with an odd storage")
        (kind,) = dtype or [storage.kind]
        shape, steps = size.items or [], stride.items or []
        if len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *steps)):
            raise RefusedError("has a tensor of an odd shape")
        n = math.prod(shape)
        end = 1 + offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
        if n * _BYTES[kind] != storage.n_bytes or (n and end * _BYTES[kind] > storage.n_bytes):
            raise RefusedError(f"claims a tensor of {n} numbers in {storage.n_bytes} bytes")
        if needs_grad is not False or not isinstance(hooks, _Hooks):
            raise RefusedError("has a tensor with gradients or hooks")
        return _Made()

    def encoded(self, text: Any, encoding: Any) -> _Made:
        # A text may be used twice, but it takes a byte at least to say so: more letters than bytes are no true file's.
        self.budget -= len(text)
        if type(text) is not str or encoding != "latin1" or self.budget < 0:
            raise RefusedError("has odd bytes")
        return _Made()

    def set_of(self, items: Any) -> _Made:
        if not isinstance(items, _Box) or items.kind != "list":
            raise RefusedError("has an odd set")
        for item in items.items or []:
            _check_keys(item.values() if isinstance(item, Atoms) else [item], items)
        return _Made()

    def counter(self, counts: Any) -> _Made:
        if not isinstance(counts, _Box) or counts.kind != "dict" or not counts.is_plain:
            raise RefusedError("has an odd Counter")
        return _Made()

    def complex_of(self, real: Any, imag: Any) -> _Made:
        if type(real) is not float or type(imag) is not float:
            raise RefusedError("has an odd complex number")
        return _Made()

    def hooks(self) -> _Hooks:
        return _Hooks()


def _check_keys(keys: list[Any], box: _Box) -> None:
    """Refuse keys that would take long to hash, or to tell from the others in their container."""
    for key in keys:
        kind = type(key)
        if kind is str:
            continue
        if kind is _Box and key.kind == "tuple":
            key = tuple(key.items or ())
            if len(key) > MAX_KEY or not _KEY_KINDS.issuperset(map(type, key)):
                raise RefusedError("has a key that is not plain data")
        elif kind not in _KEY_KINDS:
            raise RefusedError("has a key that is not plain data")
        code = hash(key)
        if box.alike is None:
            box.alike = {}
        n = box.alike[code] = box.alike.get(code, 0) + 1
        if n > _N_ALIKE:
            raise RefusedError("has many keys that were made to have the same hash")


_INSTRUCTIONS: dict[str, Callable[[_Scan, Any], None]] = {
    "PROTO": _Scan.proto,
    "GLOBAL": _Scan.name,
    "MARK": lambda scan, _: scan.mark(),
    "EMPTY_LIST": lambda scan, _: scan.container("list"),
    "EMPTY_DICT": lambda scan, _: scan.container("dict"),
    "EMPTY_TUPLE": lambda scan, _: scan.container("tuple"),
    "TUPLE": lambda scan, _: scan.container("tuple", scan.since_mark()),
    "TUPLE1": lambda scan, _: scan.container("tuple", scan.last(1)),
    "TUPLE2": lambda scan, _: scan.container("tuple", scan.last(2)),
    "TUPLE3": lambda scan, _: scan.container("tuple", scan.last(3)),
    "APPEND": lambda scan, _: scan.append(scan.last(1)),
    "APPENDS": lambda scan, _: scan.append(scan.since_mark()),
    "ATOMS": _Scan.append_atoms,
    "SETITEM": lambda scan, _: scan.set_items(scan.last(2)),
    "SETITEMS": lambda scan, _: scan.set_items(scan.since_mark()),
    "BINPUT": _Scan.put,
    "LONG_BINPUT": _Scan.put,
    "BINGET": _Scan.get,
    "LONG_BINGET": _Scan.get,
    "BINPERSID": lambda scan, _: scan.storage(),
    "REDUCE": lambda scan, _: scan.call(),
}
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _Scan.tensor,
    "torch._utils _rebuild_tensor_v3": _Scan.tensor,
    "collections OrderedDict": _Scan.hooks,
    "collections Counter": _Scan.counter,
    "__builtin__ set": _Scan.set_of,
    "__builtin__ complex": _Scan.complex_of,
    "_codecs encode": _Scan.encoded,
}
