"""What is meant of what a layer receives and gives: all of it, one element, the only tensor; and how it is replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from torch import Tensor

from learner.data.batch import describe, fields_of
from learner.data.moving import mapped
from learner.errors import LearnerError
from learner.interrogate.layers import Layer

Edit = Callable[[Any], Any]


def only_tensor(value: Any) -> Any:
    """Return the tensor where a tuple or mapping holds one and nothing else but None; else the value as it is.

    Example:
        >>> import torch
        >>> only_tensor((torch.ones(2), None)), only_tensor((1, None))
        (tensor([1., 1.]), (1, None))
    """
    given = [item for item in _elements(value).values() if item is not None]
    return given[0] if len(given) == 1 and isinstance(given[0], Tensor) else value


def swapped(value: Any, old: Any, new: Any) -> Any:
    """Return a value with `new` in the place of `old`, which is the value itself or one of its elements."""
    return new if value is old else mapped(value, lambda item: new if item is old else item)


def part_of(layer: Layer, value: Any) -> Any:
    """Return what is meant of what a layer gives, or of its inputs by position and name.

    Of several inputs of which all but one tensor are None, that tensor is meant.
    """
    if layer.is_input and layer.part is None:
        return next(iter(value.values())) if len(value) == 1 else only_tensor(value)
    if layer.is_input:
        return value[input_key(layer, value)]
    if layer.part is None:
        return value
    return list(_elements(value).values())[_position(layer, value)]


def input_key(layer: Layer, inputs: Mapping[int | str, Any]) -> int | str:
    """Return the position or name by which an input was passed, however the layer's name has it.

    Raises:
        LearnerError: if there is none, or several and the name does not tell which.
    """
    part, names = layer.part, list(inspect.signature(layer.module.forward).parameters)
    if part is None:
        given = [key for key, value in inputs.items() if value is not None] if len(inputs) > 1 else list(inputs)
        if len(given) == 1:
            return given[0]
    same: list[int | str | None] = [part]  # by position and by name
    if isinstance(part, str) and part in names:
        same.append(names.index(part))
    if isinstance(part, int) and part < len(names):
        same.append(names[part])
    for key in same:
        if key is not None and key in inputs:
            return key
    raise LearnerError(f"{layer.name!r} must be an input of the layer, as `:in:0`, got {describe(dict(inputs))}.")


def _elements(value: Any) -> Mapping[Any, Any]:
    fields = fields_of(value)
    return fields if fields is not None else dict(enumerate(value)) if isinstance(value, tuple | list) else {}


def _position(layer: Layer, value: Any) -> int:
    """Return where an output holds the part that is meant.

    Raises:
        LearnerError: if it holds no such part.
    """
    elements = list(_elements(value))
    if layer.part in elements:
        return elements.index(layer.part)
    if isinstance(layer.part, int) and layer.part < len(elements):
        return layer.part
    raise LearnerError(f"{layer.name!r} must be an element of what the layer gives, got {describe(value)}.")


def checked_edit(layer: Layer, old: Any, new: Any) -> Any:
    """Return what an edit made, if it can stand in the place of what there was."""
    if new is None or isinstance(new, Tensor) != isinstance(old, Tensor):
        raise LearnerError(
            f"an edit must return what the layer is to have, got {describe(new)} for {describe(old)} of {layer.name!r}."
        )
    return new


def edited(layer: Layer, value: Any, edit: Edit) -> Any:
    """Return an output with what an edit makes of it, or of the part that is meant."""
    old = part_of(layer, value)
    new = checked_edit(layer, old, edit(old))
    if layer.part is None:
        return new
    place, positions = _position(layer, value), count()
    return mapped(value, lambda item: new if next(positions) == place else item)
