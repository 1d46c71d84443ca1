"""Columns of a batch: checked, and brought to arrays or tensors that can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner import LearnerError
from learner.data.batch import describe
from learner.records.writer import KEYS

_KNOWN = {torch.bool, torch.float16, torch.float32, torch.float64} | {  # to NumPy; it has no bfloat16
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def columns_of(name: str, columns: Any, n_rows: int) -> dict[str, Tensor | np.ndarray]:
    """Return what a collector gave with a row for each sample, or say what is wrong with it.

    Arrays, which share the memory of tensors; but tensors that are not on the CPU stay where they are.

    Args:
        name: of the collector.
        columns: what it gave.
        n_rows: samples in the batch.

    Raises:
        LearnerError: if it is no mapping, or a column is none: of another length, a scalar, ragged, in the graph.
    """
    if not isinstance(columns, Mapping):
        raise LearnerError(f"{name} must return a dict of columns, got {describe(columns)}.")
    made: dict[str, Tensor | np.ndarray] = {}
    for column, values in columns.items():
        if not isinstance(column, str) or not column:
            raise LearnerError(f"columns of {name} must be named by strings, got {column!r}.")
        where = partial("column {!r} of {}".format, column, name)
        if column in KEYS:
            raise LearnerError(f"{where()} must have another name, which says already what a row is of; rename it.")
        made[column] = found = _column(where, values)
        shape = found.shape
        if not 0 < len(shape) < 3 or 0 in shape[1:]:
            raise LearnerError(
                f"{where()} must have a value (N,) or a row (N, D) for each sample, got shape {tuple(shape)}."
            )
        if shape[0] != n_rows:
            raise LearnerError(f"{where()} must have a row for each of the {n_rows} samples, got {shape[0]}.")
    return made


def _column(where: Callable[[], str], values: Any) -> Tensor | np.ndarray:
    if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
        is_even = len({(value.shape, value.device) for value in values}) == 1
        values = torch.stack(list(values)) if is_even else values
    if isinstance(values, Tensor) and values.requires_grad:
        raise LearnerError(f"{where()} must be free of the graph, which it would keep alive; `.detach()` it.")
    made = _of_tensor(values) if isinstance(values, Tensor) else _of_others(values)
    if made is None:
        raise LearnerError(
            f"{where()} must hold numbers, bools or strings, as many for each sample, got {describe(values)}; pad it, "
            f"or make one number of it."
        )
    return made


def _of_tensor(values: Tensor) -> Tensor | np.ndarray | None:
    if values.dtype not in _KNOWN or values.layout is not torch.strided:
        return _of_tensor(values.float()) if values.is_floating_point() and values.dtype not in _KNOWN else None
    return values.numpy() if values.is_cpu else values


def _of_others(values: Any) -> np.ndarray | None:
    is_listed = isinstance(values, list | tuple)
    try:
        array = np.asarray([_plain(value) for value in values] if is_listed else values)
    except ValueError:
        return None
    if array.dtype.kind in "biuf":
        return array
    if array.ndim != 1:
        return None
    # A list of numbers and strings has become one of strings.
    is_text = (array.dtype.kind == "U" and not is_listed) or all(isinstance(value, str) for value in values)
    return array if is_text else None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
