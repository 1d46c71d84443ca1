"""Values on their way to a service: read from the device in bulk, kept until they were sent, and in checkpoints."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from callbacks.loggers.logger import Point


class Outbox:
    """Points that wait to be sent, in the order of their steps.

    What was sent of the last step is kept too: a service that is told to forget all from a step on, as when training
    goes on from a checkpoint, gets all of that step again.

    Example:
        >>> outbox = Outbox()
        >>> outbox.add_later(3, {"loss": torch.tensor(0.5), "lr": 0.1})
        >>> outbox.add(Point(2, {"epoch": 0.0}))
        >>> outbox.read()
        [Point(step=2, values={'epoch': 0.0}), Point(step=3, values={'loss': 0.5, 'lr': 0.1})]
        >>> outbox.mark_sent()
        >>> outbox.read(), outbox.state_dict()
        ([], [[3, {'loss': 0.5, 'lr': 0.1}]])
    """

    _MOST = 100_000  # points that wait for a service that fails; of more, the oldest go

    def __init__(self) -> None:
        self._new: list[tuple[int, dict[str, Tensor | float]]] = []
        self._waiting: list[Point] = []
        self._sent: list[Point] = []  # of the last step that something was sent of

    def add(self, point: Point) -> None:
        """Add a point."""
        self._waiting.append(point)

    def add_later(self, step: int, values: dict[str, Tensor | float]) -> None:
        """Add numbers that may be tensors with one element; they are read when all are."""
        self._new.append((step, values))

    def read(self) -> list[Point]:
        """Return what waits to be sent; this waits for the device."""
        if self._new:
            self._waiting = [*_points(self._new), *self._waiting][-self._MOST :]  # a batch comes before its epoch
            self._new = []
        self._waiting.sort(key=lambda point: point.step)
        return self._waiting

    def mark_sent(self) -> None:
        """Forget what was sent, but for the last step."""
        points = [*self._sent, *self._waiting]
        self._sent = [point for point in points if point.step == points[-1].step]
        self._waiting = []

    def first_step(self, otherwise: int) -> int:
        """Return the first step that something is still sent of; `otherwise` if there is nothing."""
        return min((point.step for point in self.read()), default=otherwise)

    def state_dict(self) -> list[list[Any]]:
        """Return what is to be sent by a training that goes on from here, with all of the last step."""
        return [[point.step, dict(point.values)] for point in [*self._sent, *self.read()]]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Take over what `state_dict` gave."""
        self._new, self._sent = [], []
        self._waiting = [Point(step, dict(values)) for step, values in state]


def _points(rows: list[tuple[int, dict[str, Tensor | float]]]) -> list[Point]:
    """Return points, whose tensors are read at once for each device and type that they have."""
    tensors = [(values, name) for _, values in rows for name in values if isinstance(values[name], Tensor)]
    for _, group in groupby(tensors, key=lambda one: (one[0][one[1]].dtype, one[0][one[1]].device)):  # type: ignore[union-attr]
        ones = list(group)
        numbers = torch.stack([values[name].detach().reshape(()) for values, name in ones]).tolist()  # type: ignore[union-attr]
        for (values, name), number in zip(ones, numbers, strict=True):
            values[name] = number
    return [Point(step, {name: float(value) for name, value in values.items()}) for step, values in rows]
