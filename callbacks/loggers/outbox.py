"""Values on their way to a service: read from the device in bulk, kept until they were sent, and in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from callbacks.loggers.logger import Point
from learner.loop.column import Column


class Outbox:
    """Points that wait to be sent, in the order of their steps.

    What was sent of the last step is kept too: a service that is told to forget all from a step on, as when training
    goes on from a checkpoint, gets all of that step again.

    Example:
        >>> import torch
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
        self._losses, self._rates = Column(), Column()  # of the new batches
        self._waiting: list[Point] = []
        self._sent: list[Point] = []  # of the last step that something was sent of

    def add(self, point: Point) -> None:
        """Add a point."""
        self._waiting.append(point)

    def add_batch(self, step: int, loader: str, loss: Tensor, rates: Sequence[Tensor | float]) -> None:
        """Add the loss of a batch and the learning rates of its step; they are read from the device when all are."""
        self._new.append(_Batch(step, loader, len(rates)))
        self._losses.append(loss)
        for rate in rates:
            self._rates.append(rate)

    def read(self) -> list[Point]:
        """Return what waits to be sent; this waits for the device."""
        waiting = [*self._read_batches(), *self._waiting]  # a batch comes before the row of its epoch
        self._waiting = sorted(waiting, key=lambda point: point.step)[-self._MOST :]
        return self._waiting

    def _read_batches(self) -> list[Point]:
        """Return what is known of the new batches, by name, and forget them."""
        losses, rates = self._losses.drain(), iter(self._rates.drain())
        points = []
        for (step, loader, n_rates), loss in zip(self._new, losses, strict=True):
            names = ["lr"] if n_rates == 1 else [f"lr/{i}" for i in range(n_rates)]
            points.append(Point(step, {f"{loader}/batch_loss": loss, **{name: next(rates) for name in names}}))
        self._new = []
        return points

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
        self._new, self._losses, self._rates, self._sent = [], Column(), Column(), []
        self._waiting = [Point(step, dict(values)) for step, values in state]


class _Batch(NamedTuple):
    """What is kept of a batch beside its numbers: no name is built before it is sent."""

    step: int
    loader: str
    n_rates: int  # groups of the optimizer
