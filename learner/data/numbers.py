"""Numbers that a person passes in, of any kind that there is."""

from __future__ import annotations

import operator
from typing import Any


def whole_number(value: Any, name: str) -> int:
    """Return a whole number of any kind as an int.

    Raises:
        TypeError: if it is none; calls it `name`.

    Example:
        >>> whole_number(True, "n"), whole_number(3, "n")
        (1, 3)
    """
    try:
        return int(operator.index(value))
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {value!r}; do 0, for instance.") from None


def real_number(value: Any, name: str, hint: str = "") -> float:
    """Return a number of any kind as a float: of Python, NumPy, or in a tensor with one element.

    Args:
        value: the number; not a bool or a text.
        name: what to call it in an error.
        hint: the end of the error, as "; do 0.1".

    Raises:
        TypeError: if it is none.

    Example:
        >>> real_number(2, "n")
        2.0
        >>> real_number("2", "n", "; do 2")
        Traceback (most recent call last):
        TypeError: `n` must be a number, got '2'; do 2.
    """
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"`{name}` must be a number, got {value!r}{hint}.")
    return float(value)
