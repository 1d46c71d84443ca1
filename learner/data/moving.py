"""Move a batch of any shape to a device, or copy it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from operator import is_
from typing import Any

import torch
from torch import Tensor

# CUDA takes smaller copies into a buffer of its own and returns at once, so pinning them gains nothing.
_WORTH_PINNING = 2**16  # [bytes]
HALF = frozenset({torch.float16, torch.bfloat16})


def to_device(value: Any, device: torch.device) -> Any:
    """Return a nest of containers with its tensors on a device; the same object if they are there.

    Tensors are found in tuples, lists, mappings, named tuples and dataclasses; other objects with a `.to` are moved by
    that. Copies to cuda are asynchronous: a tensor of pageable memory is pinned first.

    Example:
        >>> batch = {"x": torch.ones(2), "name": "a"}
        >>> to_device(batch, torch.device("cpu")) is batch
        True
    """
    if isinstance(value, Tensor):
        return value if value.device == device else copied(value, device)
    if callable(getattr(value, "to", None)):  # a dict whose attributes are its items says None
        return value.to(device)
    return mapped(value, to_device, device)


def cloned(value: Any) -> Any:
    """Return a nest of containers with copies of its tensors, as `to_device` finds them.

    Example:
        >>> x = torch.ones(2)
        >>> copies = cloned({"x": (x, "a")})
        >>> _ = x.zero_()
        >>> copies
        {'x': (tensor([1., 1.]), 'a')}
    """
    return value.clone() if isinstance(value, Tensor) else mapped(value, cloned)


def detached(value: Any) -> Any:
    """Return a nest of containers with its tensors without their graph, which who keeps them would keep as well.

    Example:
        >>> detached([torch.ones(2, requires_grad=True) * 2])[0].requires_grad
        False
    """
    return value.detach() if isinstance(value, Tensor) else mapped(value, detached)


def in_float32(value: Any) -> Any:
    """Return a nest of containers with its tensors of half precision in float32; the same object if there are none.

    Example:
        >>> in_float32((torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.int64)))
        (tensor([1.]), tensor([1]))
    """
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF else value
    return mapped(value, in_float32)


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of a nest of containers, as `to_device` finds them; none of what has a `.to` of its own.

    Example:
        >>> tensors_of({"x": (torch.ones(2), "a"), "y": torch.zeros(1)})
        [tensor([1., 1.]), tensor([0.])]
    """
    found: list[Tensor] = []

    def look(item: Any) -> Any:
        if isinstance(item, Tensor):
            found.append(item)
            return item
        return mapped(item, look)

    look(value)
    return found


def mapped(value: Any, f: Callable[..., Any], *args: Any) -> Any:
    """Return a container with `f(item, *args)` in the place of each item; the same object if all stay the same."""
    if isinstance(value, tuple | list):
        items = [f(item, *args) for item in value]
        if all(map(is_, items, value)):
            return value
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    if isinstance(value, Mapping):
        entries = {key: f(item, *args) for key, item in value.items()}
        if all(map(is_, entries.values(), value.values())):
            return value
        return _refilled(value, entries)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        made = {name: f(item, *args) for name, item in fields.items()}
        if all(map(is_, made.values(), fields.values())):
            return value
        new = copy.copy(value)  # `dataclasses.replace` would run `__init__` again, and cannot set all fields
        for name, item in made.items():
            object.__setattr__(new, name, item)  # frozen or not
        return new
    return value


def _refilled(value: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """Return a mapping of the same kind with other items, which shares no container with the given one."""
    if isinstance(value, dict) or hasattr(value, "__copy__"):
        new: Any = copy.copy(value)  # keeps what a subclass knows, like the factory of a defaultdict
        for key, item in entries.items():
            new[key] = item
        return new
    # A plain copy of another kind of mapping holds the very dict that the given one holds. In a deep one each item is
    # replaced by what takes its place, so that no tensor is copied once more or cut off its graph.
    items = [value[key] for key in entries]
    new = copy.deepcopy(value, {id(item): other for item, other in zip(items, entries.values(), strict=True)})
    is_whole = len(new) == len(entries) and all(new[key] is item for key, item in entries.items())
    return new if is_whole else entries  # its items are made when asked for: they cannot be replaced


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy on a device; towards cuda it may still be on its way, which what uses it there waits for."""
    # On mps a copy that nobody waits for reads memory that may be gone (pytorch issues 139550, 189690), and towards
    # the cpu the host would read what has not arrived.
    if device.type != "cuda":
        return tensor.to(device)
    if tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.nbytes > _WORTH_PINNING:
        tensor = tensor.pin_memory()  # the same tensor if it is pinned
    return tensor.to(device, non_blocking=True)


def local_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return what this process holds of tensors that are in shards over several (DTensors); others as they are.

    What is done to each number alone is done to these, in place: not all that torch does to tensors it does to shards.
    """
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
