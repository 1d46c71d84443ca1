"""Say when something happens during a training: before, at certain epochs, at the end, at the best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

_WORDS = ("before", "end", "best")


class Moments:
    """Epochs by number, and the moments that have a name.

    Args:
        at: a number, a slice of numbers, "before", "end", "best", or several; every epoch if None. "best" is no epoch
            that could be told, see the attribute.
        may_pass: whether the moments that have a name are possible.

    Attributes:
        best: whether the best epoch is asked for.

    Raises:
        ValueError: if `at` means nothing.

    Example:
        >>> moments = Moments([0, slice(10, None, 5), "end"])
        >>> [n for n in range(22) if moments.wants(n)], moments.wants(3, is_last=True)
        ([0, 10, 15, 20], True)
    """

    def __init__(self, at: Any, may_pass: bool = True) -> None:
        several = isinstance(at, Iterable) and not isinstance(at, str)
        self._at = list(at) if several else [slice(None)] if at is None else [at]
        for moment in self._at:
            _check(moment, may_pass)
        if not self._at:
            raise ValueError("`at` must hold an epoch, got none; leave it out for all.")
        self.best = "best" in self._at

    def wants(self, n: int, is_first: bool = False, is_last: bool = False) -> bool:
        """Tell whether epoch `n` is one of them; `is_first` and `is_last` if nothing comes before or after it."""
        return any(_is_at(moment, n, is_first, is_last) for moment in self._at)

    def check(self, epochs: range) -> None:
        """Refuse moments of which none comes in these epochs.

        Raises:
            ValueError: if so.
        """
        if epochs and not self.best and not any(self.wants(n, n == epochs[0], n == epochs[-1]) for n in epochs):
            raise ValueError(
                f"`at` must come in this fit, epochs {epochs[0]} to {epochs[-1]}, got {self._at}; it never does."
            )


def _is_at(moment: Any, n: int, is_first: bool, is_last: bool) -> bool:
    if isinstance(moment, slice):
        start, stop, step = moment.start or 0, moment.stop, moment.step or 1
        return n >= start and (stop is None or n < stop) and (n - start) % step == 0
    if isinstance(moment, str):
        return is_first if moment == "before" else is_last and moment == "end"
    return bool(n == moment)


def _check(moment: Any, may_pass: bool) -> None:
    if isinstance(moment, slice):
        numbers = (moment.start, moment.stop, moment.step)
        if not all(number is None or _is_count(number) for number in numbers) or moment.step == 0:
            raise ValueError(
                f"`at` must hold slices of numbers from 0 with a step from 1, got {moment}; epochs are not counted "
                f"backwards."
            )
    elif isinstance(moment, str):
        if moment not in _WORDS:
            raise ValueError(f"`at` must be epochs, slices, or one of {', '.join(_WORDS)}, got {moment!r}.")
        if not may_pass:
            raise ValueError(f"`at={moment!r}` must have source='pass': at that moment nothing else looks at samples.")
    elif not _is_count(moment):
        raise ValueError(f"`at` must be epochs from 0, slices, or one of {', '.join(_WORDS)}, got {moment!r}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)
