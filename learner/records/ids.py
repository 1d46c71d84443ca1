"""Which samples a batch of a loader holds: the numbers that its sampler hands out, in the order of the batches."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from learner.data.limit import BatchLimit
from learner.data.position import SkipLoader, StatefulLoader
from learner.data.read_ahead import ReadAhead
from learner.data.sampler import PositionSampler
from learner.errors import LearnerError


class SampleIds:
    """Listen to what the sampler of a loader hands out, for one pass, and say which samples a batch holds.

    The loader draws what it always draws, and its dataset is not touched. Right for any sampler, any number of workers,
    workers that persist, and after a pass that was left early. The pass is the first one that begins in the block;
    others over the same loader may come in the middle of it.

    Args:
        loader: a `DataLoader` over a dataset with numbered samples, or the `SkipLoader` of one.
        start: the first batch of the pass, where it begins in the middle.

    Raises:
        ValueError: if the loader cannot tell.

    Example:
        >>> loader = DataLoader(["a", "b", "c"], batch_size=2)
        >>> with SampleIds(loader) as ids:
        ...     [(batch, ids.of_batch(i, len(batch)).tolist()) for i, batch in enumerate(loader)]
        [(['a', 'b'], [0, 1]), (['c'], [2])]
    """

    def __init__(self, loader: Any, start: int = 0) -> None:
        loader = loader.loader if isinstance(loader, ReadAhead) else loader
        is_read_again = isinstance(loader, SkipLoader)  # so its sampler hands out the whole pass
        loader = loader.loader if is_read_again else loader
        if reason := why_not_known(loader, goes_on=start > 0 and not is_read_again):
            raise ValueError(
                f"the loader must be able to say which samples a batch holds, but {reason}; give each sample an "
                f"`example_id` in its mapping, or collect with source='pass'."
            )
        self._loader = loader
        self._name = _listened_to(loader)
        self._listener = _Listener(getattr(loader, self._name))

    def __enter__(self) -> Self:
        self._put_in_place(self._listener)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        mine, there = self._listener, vars(self._loader)[self._name]
        if there is mine:
            self._put_in_place(mine.sampler)
        while isinstance(there, _Listener):  # somebody else listens to the same pass, or to one within it
            if there.sampler is mine:
                there.sampler = mine.sampler
            there = there.sampler

    def _put_in_place(self, sampler: Any) -> None:
        # Not by `setattr`: a loader refuses to have its sampler set, since it would make no difference to workers that
        # persist. For these there is the second line.
        vars(self._loader)[self._name] = sampler
        if (iterator := self._loader._iterator) is not None:
            iterator._index_sampler = sampler

    def of_batch(self, i: int, n: int | None = None) -> np.ndarray:
        """Return the numbers of the samples in a batch: int64 (n,).

        Args:
            i: which batch of the whole pass; batches are asked for in order, not each has to be.
            n: how many samples it has, if that is known.

        Raises:
            LearnerError: if the sampler handed out another number of them, none for this batch, or names or tuples.
        """
        drawn = self._listener.drawn(i)
        ids = as_numbers([] if drawn is None else drawn)
        if ids is None:
            raise LearnerError(
                f"a sampler must hand out whole numbers to say which samples a batch holds, got "
                f"{reprlib.repr(drawn)} for batch {i}; give each sample a number, an `example_id` in its mapping."
            )
        if drawn is None or n not in (None, len(ids)):
            raise LearnerError(
                f"batch {i} must hold the samples that its sampler handed out, got {n} of {len(ids)}; where the loader "
                f"drops or adds samples give each an `example_id` in its mapping, or collect with source='pass'."
            )
        return ids


class _Listener:
    """Stand in for a sampler, and keep what it hands out in the first pass until it is asked for."""

    sampler: Any

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self._drawn: dict[int, Any] = {}
        self._has_begun = False

    def __iter__(self) -> Iterator[Any]:
        # Where the pass begins is read now, as the sampler does; the body of a generator would read it later.
        inner = _inner(self)
        start = inner.start if isinstance(inner, PositionSampler) else 0
        return self._listened(start, iter(self.sampler))

    def _listened(self, start: int, handed_out: Iterator[Any]) -> Iterator[Any]:
        is_first, self._has_begun = not self._has_begun, True
        for i, indices in enumerate(handed_out, start):
            if is_first:
                self._drawn[i] = indices
            yield indices

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "sampler":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def drawn(self, i: int) -> Any:
        """Return what was handed out for a batch, and forget it and those before."""
        for earlier in [j for j in self._drawn if j < i]:
            del self._drawn[earlier]
        return self._drawn.pop(i, None)


def as_numbers(drawn: Any) -> np.ndarray | None:
    """Return what a sampler handed out for a batch as one row of numbers, or None if it is something else."""
    try:
        found = np.asarray(drawn)
    except ValueError:  # tuples of several kinds
        return None
    is_row = found.ndim < 2 or len(found) == 1  # a batch that was made by itself comes in a list of its own
    is_whole = found.dtype.kind in "iu" or not found.size
    return found.astype(np.int64).reshape(-1) if is_row and is_whole else None


def _listened_to(loader: Any) -> str:
    # With a batch size of None each number that the sampler hands out is a batch by itself.
    return "sampler" if loader.batch_sampler is None else "batch_sampler"


def _inner(sampler: Any) -> Any:
    while isinstance(sampler, _Listener):
        sampler = sampler.sampler
    return sampler


def why_not_known(loader: Any, goes_on: bool = False) -> str | None:
    """Say why a loader, which may go on in the middle of a pass, cannot tell which samples a batch holds."""
    if isinstance(loader, StatefulLoader):  # now, not when it goes on
        return f"a {type(loader.loader).__name__} goes on from a state of its own, and cannot tell with which batch"
    if isinstance(loader, BatchLimit):
        return "it gives batches that were fetched before"
    if not isinstance(loader, DataLoader):
        return f"it is a {type(loader).__name__}, not a DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "its dataset is a stream, whose samples have no numbers"
    if not getattr(loader, "in_order", True) and loader.num_workers:
        return "it gives batches in the order in which workers are done (in_order=False)"
    if goes_on and not isinstance(_inner(getattr(loader, _listened_to(loader))), PositionSampler):
        return "it took the place of the rest of a pass, and nobody can tell what of the pass it holds"
    return None
