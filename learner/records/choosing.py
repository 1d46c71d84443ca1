"""What a person chooses samples by: a condition on a column, a class by name or id, a number of rows."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from learner.data.signature import nearest
from learner.records.schema import CategoricalLabel


def meets(name: str, values: np.ndarray, condition: Any, label: CategoricalLabel | None = None) -> np.ndarray:
    """Tell of each value of a column whether it meets a condition.

    Args:
        name: of the column, for errors.
        values: of the column.
        condition: a value, a list of values, or a function of the array that gives a bool for each row.
        label: the class names, where these are class ids; the condition may name classes then.

    Raises:
        ValueError: if a class is unknown, or the function does not give one bool for each row.
        TypeError: if words are compared with numbers.

    Example:
        >>> meets("label", np.array([0, 1, 1]), "dog", CategoricalLabel("label", ["cat", "dog"]))
        array([False,  True,  True])
    """
    if callable(condition):
        keep = np.asarray(condition(values))
        if keep.shape != values.shape[:1] or keep.dtype != bool:
            raise ValueError(
                f"`{name}` must be a function that gives a bool for each of the {len(values)} rows, got "
                f"{keep.dtype} of shape {keep.shape}; compare the array, as `lambda {name}: {name} > 2`."
            )
        return keep
    if values.ndim > 1:
        raise TypeError(f"`{name}` must be chosen by a function of the array, for it holds vectors.")
    is_one = isinstance(condition, str) or not hasattr(condition, "__iter__")
    wanted = [condition] if is_one else list(condition)
    if label is not None:
        wanted = [class_id(name, label, value) for value in wanted]
    is_words = values.dtype.kind == "O"
    if wrong := [value for value in wanted if isinstance(value, str) != is_words or value is None]:
        holds = "words" if is_words else "numbers"
        raise TypeError(f"`{name}` must be compared with {holds}, which it holds, got {wrong[0]!r}.")
    if values.dtype.kind in "iu":
        wanted = _whole(wanted, np.iinfo(values.dtype))
    # In the column's own type: 0.1 finds what was recorded as a 0.1 in float32, and no whole number is rounded.
    return np.isin(values, np.array(wanted, None if values.dtype.kind == "b" else values.dtype))


def _whole(wanted: list[Any], limits: np.iinfo[Any]) -> list[int]:
    """Return the numbers that a column of whole numbers may hold; the others are in none of its rows."""
    numbers = [value.item() if hasattr(value, "item") else value for value in wanted]
    whole = [int(number) for number in numbers if not isinstance(number, float) or number.is_integer()]
    return [number for number in whole if limits.min <= number <= limits.max]


def order_of(values: np.ndarray, *, largest: bool = True) -> np.ndarray:
    """Return the places of numbers, those of the largest first, of equal ones in their order; NaN comes last.

    Example:
        >>> order_of(np.array([2**60, 2**60 + 1, 3])), order_of(np.array([1.0, np.nan, 2.0]), largest=False)
        (array([1, 0, 2]), array([0, 2, 1]))
    """
    if not largest:
        return np.argsort(values, kind="stable")
    if values.dtype.kind == "f":
        return np.argsort(-values, kind="stable")
    # Whole numbers as they are: the smallest has no negative, and as floats they would be rounded.
    return len(values) - 1 - np.argsort(values[::-1], kind="stable")[::-1]


def class_id(name: str, label: CategoricalLabel, value: Any) -> int:
    """Return the id of a class that is given by name or id; `name` is the argument's, for the error."""
    if isinstance(value, str):
        if value not in label.classes:
            known = ", ".join(label.classes[:20])
            raise ValueError(f"`{name}` must be one of {known}, got {value!r}{nearest(value, label.classes)}.")
        return label.classes.index(value)
    if (
        isinstance(value, bool)
        or not hasattr(value, "__index__")
        or not -1 <= operator.index(value) < len(label.classes)
    ):
        raise ValueError(f"`{name}` must be a class name or an id from 0 to {len(label.classes) - 1}, got {value!r}.")
    return operator.index(value)


def checked_k(k: Any) -> int:
    """Return a number of rows, or say why it is none."""
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise TypeError(f"`k` must be a whole number, got {k!r}.")
    if operator.index(k) < 0:
        raise ValueError(f"`k` must be at least 0, got {k}.")
    return operator.index(k)
