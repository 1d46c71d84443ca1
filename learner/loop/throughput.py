"""How fast a pass goes, and how much of it is waiting for the loader: always measured, by two looks at a clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TypeVar

from learner.loop.tell import tell
from learner.loop.types import Learner

T = TypeVar("T")

_MUCH = 0.2  # [0-1] of a pass
_LONG = 10.0  # [s] that a pass takes, before what it waits means anything


class Throughput:
    """Samples a second of a pass, and the share of it that was waiting for the next batch.

    Passes within this one, as a validation in the middle of an epoch, are left out. All of it is time of the host; a
    loader that is slower than the accelerator makes the host wait as well, for it cannot get far ahead.

    Attributes:
        n_samples: in the batches that went well.
        waited: for the next batch [s].

    Example:
        >>> throughput = Throughput()
        >>> for batch in throughput.measure([[1, 2], [3]]):
        ...     throughput.n_samples += len(batch)
        >>> throughput.n_samples, 0 <= throughput.waiting <= 1, throughput.samples_per_s > 0
        (3, True, True)
    """

    __slots__ = ("_away", "_start", "_until", "n_samples", "waited")

    def __init__(self) -> None:
        self.n_samples, self.waited = 0, 0.0
        self._start = self._until = self._away = (
            0.0  # when the pass began, until when it is measured, time within others
        )

    def measure(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; take the time of each wait, and of the whole."""
        clock = perf_counter
        before = self._start = self._until = clock()
        try:
            for batch in batches:
                self._until = now = clock()
                self.waited += now - before
                yield batch
                before = clock()
            self.waited += clock() - before
        finally:
            self._until = clock()

    def leave_out(self, inner: Throughput) -> None:
        """Do not count the time of a pass that ran within this one."""
        away = inner.seconds + inner._away
        self._away += away
        self._until += away  # it is not measured yet

    @property
    def seconds(self) -> float:
        """What the pass has taken [s]; while it runs, up to its present batch, which is not counted yet."""
        return self._until - self._start - self._away

    @property
    def samples_per_s(self) -> float | None:
        """Samples a second; None before there is any time to divide by."""
        seconds = self.seconds
        return self.n_samples / seconds if seconds > 0 else None

    @property
    def waiting(self) -> float | None:
        """Share of the time that was waiting for the loader [0-1]; None before there is any time to divide by."""
        seconds = self.seconds
        return self.waited / seconds if seconds > 0 else None

    def __str__(self) -> str:
        rate, waiting = self.samples_per_s, self.waiting
        if not rate or waiting is None:
            return ""
        words = f"{rate:,.0f} samples/s" if rate >= 100 else f"{rate:.3g} samples/s"
        return f"{words} ({waiting:.0%} waiting)" if waiting > _MUCH else words

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


def tell_of_waiting(learn: Learner) -> None:
    """Say once that a long training pass of a fit waited for its loader for much of the time, and what to try."""
    throughput, waiting = learn.throughput, learn.throughput.waiting or 0.0
    is_own = learn.training and not learn.in_sandbox and not learn.is_side_pass
    if waiting > _MUCH and throughput.seconds >= _LONG and is_own and not learn._is_waiting_told:
        learn._is_waiting_told = True
        tell(
            f"loader {learn.dl_name!r}: {waiting:.0%} of the pass was waiting for the next batch, at {throughput}; try "
            f"more `num_workers` of its DataLoader, on a GPU `pin_memory=True` with `DeviceCallback(prefetch=1)`, or "
            f"do less for each sample."
        )
