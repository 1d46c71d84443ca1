"""Values on their way to a service: read from the device in bulk, kept until they were sent, and in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from callbacks.loggers.logger import Point


class Outbox:
    """Points that wait to be sent, in the order of their steps.

    What was sent of the last step is kept too: a service that is told to forget all from a step on, as when training
    goes on from a checkpoint, gets all of that step again.

    Example:
        >>> outbox = Outbox()
        >>> outbox.add_batch(3, "train", torch.tensor(0.5), [0.1])
        >>> outbox.add(Point(2, {"epoch": 0.0}))
        >>> outbox.read()
        [Point(step=2, values={'epoch': 0.0}), Point(step=3, values={'train/batch_loss': 0.5, 'lr': 0.1})]
        >>> outbox.mark_sent()
        >>> outbox.read(), outbox.state_dict()
        ([], [[3, {'train/batch_loss': 0.5, 'lr': 0.1}]])
    """

    _MOST = 100_000  # points that wait for a service that fails; of more, the oldest go

    def __init__(self) -> None:
        self._new: list[_Batch] = []
        self._waiting: list[Point] = []
        self._sent: list[Point] = []  # of the last step that something was sent of

    def add(self, point: Point) -> None:
        """Add a point."""
        self._waiting.append(point)

    def add_batch(self, step: int, loader: str, loss: Tensor, rates: Sequence[Tensor | float]) -> None:
        """Add the loss of a batch and the learning rates of its step; they are read from the device when all are."""
        self._new.append(_Batch(step, loader, loss, rates))

    def read(self) -> list[Point]:
        """Return what waits to be sent; this waits for the device."""
        waiting = [*_points(self._new), *self._waiting]  # a batch comes before the row of its epoch
        self._waiting, self._new = sorted(waiting, key=lambda point: point.step)[-self._MOST :], []
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


class _Batch(NamedTuple):
    """What is kept of a batch: no name is built and nothing read before it is sent."""

    step: int
    loader: str
    loss: Tensor
    rates: Sequence[Tensor | float]  # of the groups of the optimizer


def _points(batches: list[_Batch]) -> list[Point]:
    """Return what is known of batches, by name."""
    losses = _numbers([batch.loss for batch in batches])
    rates = iter(_numbers([rate for batch in batches for rate in batch.rates]))
    points = []
    for batch, loss in zip(batches, losses, strict=True):
        names = ["lr"] if len(batch.rates) == 1 else [f"lr/{i}" for i in range(len(batch.rates))]
        points.append(Point(batch.step, {f"{batch.loader}/batch_loss": loss, **{name: next(rates) for name in names}}))
    return points


def _numbers(values: list[Tensor | float]) -> list[float]:
    """Return numbers, reading tensors of one kind that follow each other at once."""
    runs = groupby(values, key=lambda v: (v.dtype, v.device) if isinstance(v, Tensor) else None)
    numbers: list[float] = []
    for kind, run in runs:
        numbers += run if kind is None else torch.stack([v.reshape(()) for v in run]).tolist()  # type: ignore[union-attr, arg-type]
    return [float(number) for number in numbers]
