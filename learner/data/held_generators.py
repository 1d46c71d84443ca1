"""Find the random generators that a thing holds, wherever Python lets one look."""

from __future__ import annotations

import dis
import functools
import random
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_NOT_LOOKED_INTO = (type, types.ModuleType, torch.Tensor, np.ndarray, str, bytes, int, float)
_N_LISTED, _N_LOOKED_AT = 32, 1000  # a list of transforms or datasets, not one of samples
_LIBRARIES = ("builtins", "torch", "numpy", "random", "functools", "collections", "abc", "typing")


def held_generators(thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the generators of Python, NumPy and torch that a thing holds, each with where it is.

    Looks into attributes, slots and class attributes, lists, tuples, sets and dicts of at most 32 items, partial
    functions, bound methods, defaults and closures of functions, and the global variables that a function names; at
    1000 things at most. Does not see what is in a longer container, in a module that a function imports, in a library
    written in C, or what is made anew at each call.

    Example:
        >>> [where for where, _ in held_generators(functools.partial(max, key=random.Random(0)), "collate_fn")]
        ["collate_fn.keywords['key']"]
    """
    found, seen = [(name, thing)], set[int]()
    for where, value in found:
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.random.Generator | np.random.RandomState | random.Random | torch.Generator):
            yield where, value
        elif not isinstance(value, _NOT_LOOKED_INTO):
            found += ((where + step, item) for step, item in _held_by(value))
        del found[_N_LOOKED_AT:]


def _held_by(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("", value.__self__), ("", value.__func__))
    elif isinstance(value, types.FunctionType):
        yield from _held_by_function(value)
    elif isinstance(value, dict) and len(value) <= _N_LISTED:
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset) and len(value) <= _N_LISTED:
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    yield from _attributes(value)


def _held_by_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from ((f"({name}=)", item) for name, item in (function.__kwdefaults__ or {}).items())
    yield from (("(default)", item) for item in function.__defaults__ or ())
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"({name})", cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    names = _global_names(function.__code__)
    yield from ((f"({name})", function.__globals__[name]) for name in names if name in function.__globals__)


@functools.lru_cache(maxsize=256)  # each fit asks of the same few functions, and to take one apart is slow
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    return tuple(step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object and the classes that a person wrote for it hold; methods as well, for what they name."""
    yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        if kind.__module__.partition(".")[0] in _LIBRARIES:
            continue
        for name, item in vars(kind).items():
            if isinstance(item, types.MemberDescriptorType):
                yield f".{name}", getattr(value, name, None)
            elif not name.startswith("__") or isinstance(item, types.FunctionType):
                yield f".{name}", getattr(item, "__func__", item)
