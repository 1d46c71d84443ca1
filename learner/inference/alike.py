"""Convert what a person passes to the form of a known sample, and refuse what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.data.batch import describe


def alike(value: Any, known: Any) -> Any:
    """Convert a value to the form of a known one.

    For a tensor or an array, the value may be a tensor, an array, a number or a list of numbers. It must have as many
    axes and be of the same kind of numbers, and takes the dtype of the known one. Whole numbers are not taken for
    fractions: they are often pixels that were not scaled. Sizes may differ, as those of texts and pictures do.
    Anything else must be of the type of the known value.

    Raises:
        TypeError: if the value is of another type or kind.
        ValueError: if it has another number of axes, or loses something in that dtype.

    Example:
        >>> alike([1.0, 2.0], torch.zeros(2)), alike("some words", "others")
        (tensor([1., 2.]), 'some words')
        >>> alike(np.zeros((28, 28), np.uint8), torch.zeros(28, 28))
        Traceback (most recent call last):
        TypeError: whole numbers, where fractions are known
    """
    if isinstance(known, Tensor):
        return _like_tensor(value, known)
    if isinstance(known, np.ndarray | np.generic) and known.dtype.kind in "biufc":
        return _like_tensor(value, torch.as_tensor(known)).numpy()
    if _is_number(known):
        made = _like_tensor(value, torch.as_tensor(known))
        return made.item()
    if isinstance(known, list | tuple) and known and all(map(_is_number, known)):  # as tokens, of any number
        numbers = _like_tensor(value, torch.as_tensor(known)).tolist()
        return numbers if isinstance(known, list) else tuple(numbers)
    if isinstance(known, list | tuple | Mapping) or known is None or isinstance(value, type(known)):
        if isinstance(value, _kind(known)):
            return value
    elif _is_picture(value) and _is_picture(known):  # PIL has a class for each format of a file
        return value
    raise TypeError("it is of another type")


def _like_tensor(value: Any, known: Tensor) -> Tensor:
    tensor = _as_tensor(value)
    if _kind_of_numbers(tensor) != (wanted := _kind_of_numbers(known)):
        raise TypeError(f"{_kind_of_numbers(tensor)}, where {wanted} are known")
    if tensor.ndim != known.ndim:
        raise ValueError(f"{tensor.ndim} axes, where {known.ndim} are known")
    if known.numel() and not tensor.numel():
        raise ValueError("there is nothing in it")
    made = tensor.to(known.dtype)
    if wanted == "whole numbers" and not torch.equal(made.to(tensor.dtype), tensor):
        raise ValueError(f"numbers that are too large for {str(known.dtype).removeprefix('torch.')}")
    return made


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, str | bytes | Mapping) or _is_picture(value):
        raise TypeError("it is of another type")
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of several lengths
        raise TypeError("rows of several lengths") from None
    if array.dtype.kind not in "biufc":
        raise TypeError("it is of another type")
    return torch.as_tensor(array)


def _kind_of_numbers(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "fractions"
    if tensor.is_complex():
        return "complex numbers"
    return "flags" if tensor.dtype is torch.bool else "whole numbers"


def _kind(known: Any) -> type | tuple[type, ...]:
    if isinstance(known, list | tuple) and not hasattr(known, "_fields"):
        return (list, tuple)
    return Mapping if isinstance(known, Mapping) else type(known)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | complex)


def _is_picture(value: Any) -> bool:
    return callable(getattr(value, "convert", None)) and hasattr(value, "getbands")


def rows_of(value: Any) -> list[Any]:
    """Return the samples of arrays, lists, tuples of them side by side, or columns by name.

    Raises:
        TypeError: if it has no rows.
        ValueError: if parts differ in length, or there is no row.

    Example:
        >>> rows_of({"x": [0.5, 1.5], "y": [1, 0]})
        [{'x': 0.5, 'y': 1}, {'x': 1.5, 'y': 0}]
    """
    if isinstance(value, Mapping):
        columns = [rows_of(column) for column in value.values()]
        _check_lengths(columns)
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(value, tuple):
        columns = [rows_of(column) for column in value]
        _check_lengths(columns)
        return list(zip(*columns, strict=True))
    if isinstance(value, list) or (isinstance(value, Tensor | np.ndarray) and value.ndim):
        if not len(value):
            raise ValueError("it holds no sample")
        return list(value)
    raise TypeError(f"{describe(value)} has no rows")


def _check_lengths(columns: list[list[Any]]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"parts of {', '.join(str(len(column)) for column in columns)} rows")
