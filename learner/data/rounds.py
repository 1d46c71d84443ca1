"""Rounds of a few batches over a loader that is long, or never ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from learner.data.wrapper import LoaderPart, Source, length_of
from learner.errors import LearnerError


def beside_training(loader: Any) -> Any:
    """Return what a pass that does not train can take in place of a loader, so that training goes on where it is.

    Of rounds that go on, that is a round from the beginning of the data; any other loader itself.

    Raises:
        LearnerError: if the rounds are of an iterator, whose batches are there once.
    """
    if not (isinstance(loader, RoundsLoader) and loader.goes_on):
        return loader
    whole = loader.loader
    if isinstance(whole, Iterator):
        raise LearnerError(
            f"a loader must be one that can be looped over again to be looked at beside training, got a "
            f"{type(whole).__name__}, each batch of which is there once; pass a loader."
        )
    if isinstance(whole, DataLoader) and whole.persistent_workers:  # which have one iterator, and training uses it
        whole = copy.copy(whole)
        vars(whole)["_iterator"] = None
    return RoundsLoader(whole, loader.n, goes_on=False)


class RoundsLoader(LoaderPart):
    """`n` batches of a loader in each round, however many it has.

    A round begins where the last one stopped, in the same pass over the loader, and one pass follows the other; so each
    batch comes as often as any other, and no worker is started anew. Or each round begins a pass anew, for data to be
    measured on, which have to be the same in each round.

    Args:
        loader: any iterable of batches; one that ends has to be one that can be looped over again.
        n: batches in each round, at least 1.
        goes_on: whether a round begins where the last one stopped.

    Attributes:
        n_passes: passes over the loader that are done.
        n_read: batches of the pass now that were given out.
        read: what makes an iterable of a pass over the loader that reads it in a way of its own; None for its own way.

    Example:
        >>> rounds = RoundsLoader(["a", "b", "c"], 2)
        >>> [list(rounds) for _ in range(3)], len(rounds)
        ([['a', 'b'], ['c', 'a'], ['b', 'c']], 2)
        >>> rounds = RoundsLoader(["a", "b", "c"], 2, goes_on=False)
        >>> [list(rounds) for _ in range(3)]
        [['a', 'b'], ['a', 'b'], ['a', 'b']]
    """

    def __init__(self, loader: Any, n: int, *, goes_on: bool = True) -> None:
        super().__init__(loader, n)
        self.goes_on = goes_on
        self.n_passes = self.n_read = 0
        self._start = 0  # batches of the coming round that are done
        self._epoch = 0
        self.read: Callable[[Any], Any] | None = None
        self._source: Source | None = None
        self._batches: Iterator[Any] | None = None  # of the pass now

    def follow(self, source: Source, epoch: int, start: int) -> None:
        """Take batches from a source that can begin anywhere; the coming round is `epoch`, from its batch `start` on.

        What goes on keeps to `n_passes` and `n_read`.
        """
        if self._source is None:  # a pass that has begun has another order
            self._batches = None
        self._source, self._epoch, self._start = source, epoch, start

    @property
    def resumable(self) -> Source | None:
        """What gives the batches, if there is one that can begin anywhere."""
        return self._source

    def set_position(self, n_passes: int, n_read: int) -> None:
        """Begin the coming round after so many passes, and batches of the next one."""
        self.n_passes, self.n_read, self._batches = n_passes, n_read, None

    def __len__(self) -> int:
        length = self.n if self.goes_on else length_of(self.loader)
        if length is None:
            raise TypeError(f"{self!r} has no length: nobody knows whether the loader has so many batches.")
        return min(self.n, length)

    def __iter__(self) -> Iterator[Any]:
        start, self._start = self._start, 0
        if self.goes_on:
            if self._batches is None:  # now: the body of a generator would begin with the first batch
                self._batches = self._begin_pass()
            return self._go_on(self.n - start)
        batches = self.loader if self._source is None else self._source.at(self._epoch, start)
        return islice(batches, self.n - start)

    def _begin_pass(self) -> Iterator[Any]:
        if self._source is not None:
            rest = self._source.at(self.n_passes, self.n_read)
        else:
            rest = islice(self.loader, self.n_read, None) if self.n_read else self.loader
        return iter(rest if self.read is None else self.read(rest))

    def _go_on(self, n: int) -> Iterator[Any]:
        for _ in range(n):
            yield self._next()

    def _next(self) -> Any:
        while True:
            if self._batches is None:
                self._batches = self._begin_pass()
            for batch in self._batches:
                self.n_read += 1
                return batch
            if not self.n_read:
                raise LearnerError(
                    f"a loader must give batches in each pass to go on for ever, got none in pass {self.n_passes}: "
                    f"{'it is an iterator, which' if iter(self.loader) is self.loader else 'it'} is used up or empty; "
                    f"pass something that can be looped over again."
                )
            self._batches, self.n_passes, self.n_read = None, self.n_passes + 1, 0
