"""Where a pass begins: at its first batch, or in the middle, as when training goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from learner.order import OrderedLoader, ordered, position_seed, why_not_ordered
from learner.state import generators_of


class Places:
    """A loader whose passes can begin anywhere, in the way that its kind allows.

    A loader whose order can be a function of position (`learner.order`) skips what is done without reading it; one with
    a state of its own (`state_dict` and `load_state_dict`, as torchdata's `StatefulDataLoader`) goes on from that; of
    any other one the batches that are done are read again, and dropped.

    Args:
        name: of the loader; loaders of different names draw different numbers.
        loader: any iterable of batches; stays as it is.
        seed: of order and noise; None for the seed of the loader's own generator, or else of torch's.

    Attributes:
        loader: as given.
        seed: as given, or found.
        has_state: whether the loader goes on from a state of its own.
        why_read_again: why batches that are done have to be read again; None if not.

    Example:
        >>> places = Places("train", DataLoader(range(6), batch_size=2, shuffle=True), seed=0)
        >>> [batch.tolist() for batch in places.at(epoch=0)]
        [[2, 4], [3, 1], [5, 0]]
        >>> [batch.tolist() for batch in places.at(epoch=0, start=2)]
        [[5, 0]]
    """

    def __init__(self, name: str, loader: Any, seed: int | None = None) -> None:
        self.loader = loader
        self.seed = _seed_of(loader) if seed is None else seed
        self.has_state = _has_state(loader)
        self.why_read_again = _why_read_again(loader)
        self._ordered: OrderedLoader | None = None
        if not self.has_state and why_not_ordered(loader) is None:
            self._ordered = ordered(loader, position_seed(self.seed, name))

    def at(self, epoch: int, start: int = 0) -> Any:
        """Return an iterable over the rest of a pass; its length is that of the whole.

        Args:
            epoch: which pass over the data, from 0; datasets and samplers that have a `set_epoch` are told.
            start: its first batch, from 0.
        """
        for place in _parts_of(self.loader):
            if callable(getattr(place, "set_epoch", None)):
                place.set_epoch(epoch)
        if self._ordered is not None:
            self._ordered.batch_sampler.set_position(epoch, start)
            return self._ordered
        return Rest(self.loader, start) if start and not self.has_state else self.loader


class Rest:
    """The rest of a pass over a loader: what is before it is read and dropped, when the pass begins.

    Args:
        loader: any iterable of batches. Attributes that are not this object's own are the loader's.
        start: the first batch that is not dropped, from 0.
    """

    def __init__(self, loader: Any, start: int) -> None:
        self.loader = loader
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        batches: Iterator[Any] = iter(self.loader)
        next(islice(batches, self.start, self.start), None)
        return batches

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.loader, name)


def _parts_of(loader: Any) -> Iterator[Any]:
    """Yield what of a loader may want to know the epoch."""
    yield loader
    for name in ("dataset", "sampler", "batch_sampler"):
        yield getattr(loader, name, None)
    yield getattr(getattr(loader, "batch_sampler", None), "sampler", None)


def _has_state(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _why_read_again(loader: Any) -> str | None:
    """Say why the batches before a position have to be read to get there; None if not."""
    return None if _has_state(loader) or isinstance(loader, list | tuple | range) else why_not_ordered(loader)


def _seed_of(loader: Any) -> int:
    """Return the seed that a person gave for this loader, or for all: nothing is drawn for it."""
    generators = generators_of(loader)
    return generators[0].initial_seed() if generators else torch.initial_seed()


def why_not_exact(loader: Any) -> str | None:
    """Say why the rest of a pass may be another than it would have been; None if it is the same.

    It is where nothing has to be read again, or what is read again draws from generators that are known.

    Example:
        >>> why_not_exact(DataLoader(range(6), shuffle=True))
        >>> why_not_exact(iter([1, 2]))
        'it is an iterator, which is used up by one pass'
    """
    if _why_read_again(loader) is None:
        return None
    if isinstance(loader, Iterator):
        return "it is an iterator, which is used up by one pass"
    if not isinstance(loader, DataLoader):
        return f"nobody can tell whether a {type(loader).__name__} gives the same batches again"
    if isinstance(loader.dataset, IterableDataset):
        return "its dataset is a stream without a state, of which nobody can tell whether it gives the same again"
    if loader.num_workers and loader.persistent_workers:
        return "its workers persist, and have drawn random numbers that a new process has not"
    if loader.num_workers and not loader.in_order:
        return "it gives batches in the order in which workers are done (in_order=False)"
    return None
