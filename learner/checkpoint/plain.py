"""Plain data: what a file may hold so that reading it imports, builds and runs nothing.

- `None`, `bool`, `int` (of at most 2000 bits), `float`, `complex`, `str` and `bytes`,
- dense tensors of a number type, on any device,
- `list`, `tuple` and `dict` of these, and `set` and `Counter`, at most 100 deep. A key, and a member of a set, is
  None, a bool, int, float or str, or a tuple of at most 16 such.

What loses nothing that a program could miss is brought to that: an `OrderedDict` becomes a dict, a `torch.Size` a
tuple, a parameter or another tensor with a class of its own a plain tensor. All else is refused, and nothing is ever
turned into its text.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_DEPTH = 100
MAX_KEY = 16
_MAX_BITS = 2000  # an int of 2040 is written in a way that `torch.load(weights_only=True)` does not read

_ATOMS = {type(None), bool, float, complex, str}
_KEY_ATOMS = {type(None), bool, int, float, str}
# The number types that torch writes by the name of a class of memory, and those that it writes by their own name.
CLASS_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NAMED_DTYPES = (
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e4m3fn, torch.float8_e4m3fnuz),
    *(torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2),
)
_DTYPES = {*CLASS_DTYPES.values(), *NAMED_DTYPES}


def plain(
    value: Any, name: str = "state", *, copy: bool = False, empty: Any = b"", may_have_shards: bool = False
) -> Any:
    """Return plain data as it goes into a file, in new containers.

    Its tensors are on the CPU, without gradients, and have no more memory than they need: of a view, not what it is a
    view of. Tensors that are the same memory in the same shape become one tensor, so tied weights stay tied.

    Args:
        value: the data.
        name: what to call it in an error.
        copy: copy every tensor, so that training may go on in the old ones; else only where it must be.
        empty: what to put for `b""`.
        may_have_shards: whether a tensor that is in shards over several processes may stay so, as a copy; no file
            takes it.

    Raises:
        TypeError: naming the place of what is not plain data.

    Example:
        >>> plain({"size": torch.ones(2, 3).shape, "step": 1})
        {'size': (2, 3), 'step': 1}
        >>> plain({"best": [np.float64(0.5)]})
        Traceback (most recent call last):
        TypeError: `state['best'][0]` must be plain data, got numpy.float64; do float(...).
    """
    try:
        return _Plain(copy, empty, may_have_shards).of(value, 0)
    except _NotPlainError as error:
        place = "".join(reversed(error.keys[-8:]))  # of what nests without an end, the beginning
        raise TypeError(f"`{name}{place}` must be plain data, got {error.what}.") from None


def is_in_shards(value: Any) -> bool:
    """Tell whether a value is a tensor of which each process has a part."""
    return isinstance(value, Tensor) and hasattr(value, "to_local")


class _NotPlainError(Exception):
    def __init__(self, what: str) -> None:
        self.what = what
        self.keys: list[str] = []  # added on the way out, so that no name is made of what is plain


class _Plain:
    """One pass over a nest."""

    def __init__(self, copy: bool, empty: Any, may_have_shards: bool) -> None:
        self.copy, self.empty, self.may_have_shards = copy, empty, may_have_shards
        self.tensors: dict[Any, Tensor] = {}  # by memory and shape
        self.taken: set[Any] = set()  # memory that a tensor of the result is in

    def of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is bytes:
            return value or self.empty
        if kind is int:
            if value.bit_length() > _MAX_BITS:
                raise _NotPlainError(f"an int of {value.bit_length()} bits; at most {_MAX_BITS} fit")
            return value
        if isinstance(value, Tensor):
            return self.tensor(value)
        return self.container(value, kind, depth)

    def container(self, value: Any, kind: type, depth: int) -> Any:
        if depth == MAX_DEPTH:
            raise _NotPlainError(f"a nest of more than {MAX_DEPTH} levels; does it hold itself?")
        if kind is dict or kind is OrderedDict:
            return self.mapping(value, depth)
        if kind is list or kind is tuple or kind is torch.Size:
            items = self.items(value, depth)
            return items if kind is list else tuple(items)
        if kind is Counter:
            return Counter(self.mapping(value, depth))
        if kind is set:
            return {_key(item) for item in value}
        raise _NotPlainError(f"{_kind(value)}; {_hint(value)}")

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        result = {}
        for key, item in value.items():
            new = _key(key)
            try:
                result[new] = self.of(item, depth + 1)
            except _NotPlainError as error:
                error.keys.append(f"[{key!r}]")
                raise
        return result

    def items(self, value: Iterable[Any], depth: int) -> list[Any]:
        result = []
        for item in value:
            try:
                result.append(self.of(item, depth + 1))
            except _NotPlainError as error:
                error.keys.append(f"[{len(result)}]")
                raise
        return result

    def tensor(self, value: Tensor) -> Tensor:
        if self.may_have_shards and is_in_shards(value):
            return value.detach().clone()
        if problem := _problem_of(value):
            raise _NotPlainError(problem)
        memory = (value.device, value.untyped_storage().data_ptr())
        shape = (value.storage_offset(), value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg())
        if memory[1] and (memory, shape) in self.tensors:
            return self.tensors[memory, shape]
        result = value.as_subclass(Tensor).detach().resolve_conj().resolve_neg()
        n_bytes = result.numel() * result.element_size()
        # Two tensors in one memory would be written with all of it, and not at all if of two types.
        is_alone = memory not in self.taken and result.untyped_storage().nbytes() == n_bytes
        if self.copy or not is_alone or not result.is_cpu:
            result = result.to("cpu", copy=True)
        else:
            self.taken.add(memory)
        self.tensors[memory, shape] = result
        return result


def _key(key: Any) -> Any:
    """Return a key of a dict, or a member of a set; a tuple as a new one, since a reader takes each container once."""
    parts = key if type(key) is tuple else (key,)
    if len(parts) > MAX_KEY or not all(type(part) in _KEY_ATOMS for part in parts):
        raise _NotPlainError(f"the key or member {key!r:.100} ({_kind(key)}); use str, int, float, bool or None")
    if any(type(part) is int and part.bit_length() > _MAX_BITS for part in parts):
        raise _NotPlainError(f"a key or member of more than {_MAX_BITS} bits")
    return tuple(part for part in key) if type(key) is tuple else key  # `tuple(key)` would be the same one


def _problem_of(tensor: Tensor) -> str | None:
    """Say why a tensor is not plain data, or None."""
    kind = f"a tensor of {_kind(tensor)}"
    if is_in_shards(tensor):
        return (
            f"{kind}, of which each process has a part; `learn.save` and a CheckpointCallback write it, and "
            "`learn.export` the weights as a whole"
        )
    if torch.nn.parameter.is_lazy(tensor):
        return f"{kind}, which has no values yet; run a batch first"
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"{kind}, which is no plain tensor; keep the tensors that it is made of"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return f"a tensor that is {'nested' if tensor.is_nested else tensor.layout}; keep its indices and values"
    if tensor.is_meta:
        return "a tensor on the meta device; it has no values"
    if tensor.dtype not in _DTYPES:
        return f"a tensor of {tensor.dtype}; keep its integers and its scales"
    return None


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _hint(value: Any) -> str:
    """Say how a value can become plain data."""
    if isinstance(value, np.ndarray):
        return "do torch.from_numpy(...)"
    if isinstance(value, enum.Enum):
        return "keep its .value"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "do dataclasses.asdict(...)"
    kinds: list[tuple[Any, str]] = [
        (os.PathLike, "str"),
        (torch.dtype | torch.device, "str"),
        (bytearray | memoryview, "bytes"),
        (Mapping, "dict"),
        (Set, "set"),
        (Sequence, "list"),
    ]
    if isinstance(value, np.generic):
        return f"do {type(value.item()).__name__}(...)"
    for atom in (bool, int, float, complex, str, bytes):
        if isinstance(value, atom):
            return f"do {atom.__name__}(...)"
    name = next((name for kind, name in kinds if isinstance(value, kind)), None)
    return f"do {name}(...)" if name else "keep the numbers, strings and tensors that it is made of"
