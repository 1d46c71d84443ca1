"""Numbers, one of each batch, that are not read from the device before somebody asks."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor


class Column:
    """A growing list of numbers that waits for the device only when it is read.

    Args:
        folded: what `state_dict` of another one gave.

    Example:
        >>> column = Column()
        >>> column.append(torch.tensor(0.5))
        >>> column.append(2.0)
        >>> column.read()
        [0.5, 2.0]
    """

    _FOLD = 256  # a tensor of one number occupies 512 bytes of a GPU; put together, a few

    def __init__(self, folded: list[Tensor] | None = None) -> None:
        self._folded = folded or []
        self._new: list[Tensor | float] = []

    def append(self, value: Tensor | float) -> None:
        """Add a number, or a detached tensor without axes that nobody changes in place."""
        self._new.append(value)
        if len(self._new) == self._FOLD:
            self._folded, self._new = self.state_dict(), []

    def state_dict(self) -> list[Tensor]:
        """Return all values in a few tensors; what is new stays as it is, or each checkpoint would leave a tensor."""
        runs = groupby(self._new, key=lambda v: (v.dtype, v.device) if isinstance(v, Tensor) else None)
        return [*self._folded, *(_folded(list(run)) for _, run in runs)]

    def read(self) -> list[float]:
        """Return all values."""
        return [float(value) for values in self.state_dict() for value in values.tolist()]

    def drain(self) -> list[float]:
        """Return all values, and forget them."""
        values = self.read()
        self._folded, self._new = [], []
        return values


def _folded(values: list[Any]) -> Tensor:
    if isinstance(values[0], Tensor):
        return torch.stack([value.reshape(()) for value in values])
    return torch.tensor(values, dtype=torch.float64)
