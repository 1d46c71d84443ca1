"""Where a pass begins: at its first batch, or in the middle, as when training goes on from a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from learner.data.generators import generators_of
from learner.data.limit import BatchLimit
from learner.data.loaders import ArrayDataset
from learner.data.order import (
    OrderedLoader,
    SeededDataset,
    drawing_apart,
    guarded_generators,
    ordered,
    position_seed,
    seed_generators,
    why_not_ordered,
)

_SEALED = (type, ModuleType, torch.nn.Module, torch.Tensor)  # not looked into for random generators
_N_LISTED, _N_LOOKED_AT = 32, 1000  # a list of transforms or datasets, not one of samples
_AS_THEY_ARE = (list, tuple, range)  # of batches: they draw nothing, and anything of them can be had at once


class Places:
    """A loader whose passes can begin anywhere, in the way that its kind allows.

    A loader whose order can be a function of position (`learner.data.order`) skips what is done without reading it;
    one with a state of its own (`state_dict` and `load_state_dict`, as torchdata's `StatefulDataLoader`) goes on from
    that; of any other one the batches that are done are read again, and dropped. What such a one draws then depends on
    seed and epoch, too, so that reading again draws the same.

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
        # An order that a person has asked for stays that.
        self._seed = self.seed if isinstance(loader, OrderedLoader) else position_seed(self.seed, name)
        self._ordered: OrderedLoader | None = None
        if not self.has_state and why_not_ordered(loader) is None:
            self._ordered = ordered(loader, self._seed)
        if isinstance(loader, BatchLimit):  # fetched now, so another process has the same ones, whoever asks first
            first = Places(name, loader.loader, self.seed).at(0)
            loader.keep(Rest(first.loader, 0, self._seed) if isinstance(first, Begun) else first)

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
            self._ordered.position.set_position(epoch, start)
            return self._ordered
        seed = position_seed(self._seed, epoch, "read")
        if self.has_state:
            return Begun(self.loader, seed)
        if isinstance(self.loader, Iterator) and not start:
            return self.loader  # as it is: one that is used up has to be seen to be one
        is_there = isinstance(self.loader, BatchLimit) or type(self.loader) in _AS_THEY_ARE
        if is_there and not start:
            return self.loader
        return Rest(self.loader, start, None if is_there else seed)


class _Instead:
    """What takes a loader's place. Attributes that are not this object's own are the loader's."""

    def __init__(self, loader: Any, seed: int | None) -> None:
        self.loader = loader
        self.seed = seed

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.loader, name)


class Begun(_Instead):
    """A loader with a state of its own, which draws from a seed to begin a pass.

    How much it draws for that depends on whether it goes on from a state; what the training draws then must not. What
    it draws as it goes comes from where it always does.

    Args:
        loader: any iterable of batches.
        seed: of what it draws to begin.
    """

    seed: int

    def __iter__(self) -> Iterator[Any]:
        with guarded_generators():
            seed_generators(self.seed)
            return iter(self.loader)


class Rest(_Instead):
    """The rest of a pass over a loader: what is before it is read and dropped, when the pass begins.

    Args:
        loader: any iterable of batches.
        start: the first batch that is not dropped, from 0.
        seed: of what the loader draws; None to let it draw as it does.
    """

    def __init__(self, loader: Any, start: int, seed: int | None = None) -> None:
        super().__init__(loader, seed)
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader) if self.seed is None else drawing_apart(self.loader, self.seed)
        next(islice(batches, self.start, self.start), None)
        return batches


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
    is_there = _has_state(loader) or isinstance(loader, BatchLimit) or type(loader) in _AS_THEY_ARE
    return None if is_there else why_not_ordered(loader)


def _seed_of(loader: Any) -> int:
    """Return the seed that a person gave for this loader, or for all: nothing is drawn for it."""
    if isinstance(loader, OrderedLoader):
        return loader.position.seed
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
    if isinstance(loader, BatchLimit):
        is_anew = loader.is_kept_by_position is not False
        return why_not_exact(loader.loader) if is_anew else "its batches were fetched before the fit began"
    if isinstance(loader, DataLoader) and not _has_state(loader) and (name := _own_generator(loader)):
        return f"its {name} is a random generator that nobody can put back"
    if _has_state(loader) and getattr(loader, "num_workers", False) and _may_draw(loader.dataset):
        return (
            "what its workers draw at random is not in its state; `learner.data.seeded` makes it depend on the sample"
        )
    if _why_read_again(loader) is None:
        return None
    if isinstance(loader, Iterator):
        return "it is an iterator, which is used up by one pass"
    if not isinstance(loader, DataLoader):
        return f"nobody can tell whether a {type(loader).__name__} gives the same batches again"
    if isinstance(loader.dataset, IterableDataset):
        return "its dataset is a stream, of which nobody can tell whether it gives the same samples again"
    if loader.num_workers and loader.persistent_workers:
        return "its workers persist, and have drawn random numbers that a new process has not"
    if loader.num_workers and not loader.in_order:
        return "it gives batches in the order in which workers are done (in_order=False)"
    return None


def _may_draw(dataset: Any) -> bool:
    """Tell whether the samples of a dataset, if they have numbers, may hold random ones."""
    is_known = isinstance(dataset, SeededDataset) or type(dataset) in (ArrayDataset, TensorDataset)
    return not (is_known or isinstance(dataset, IterableDataset))


def _own_generator(loader: Any) -> str | None:
    """Return where a dataset, a sampler or a collate function holds a random generator of its own; None if nowhere."""
    known = generators_of(loader)
    for part in ("dataset", "sampler", "batch_sampler", "collate_fn"):
        for name, value in _held_by(getattr(loader, part, None), part):
            is_generator = isinstance(value, np.random.Generator | np.random.RandomState | random.Random)
            if is_generator or (isinstance(value, torch.Generator) and all(value is not one for one in known)):
                return name
    return None


def _held_by(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    """Give a thing and what it holds in attributes and short lists, with names; the first of what may be many."""
    found, seen = [(name, value)], set[int]()
    for where, thing in found:
        if id(thing) in seen or isinstance(thing, _SEALED):
            continue
        seen.add(id(thing))
        yield where, thing
        found += [(f"{where}.{key}", item) for key, item in getattr(thing, "__dict__", {}).items()]
        if isinstance(thing, list | tuple) and len(thing) <= _N_LISTED:
            found += [(f"{where}[{i}]", item) for i, item in enumerate(thing)]
        del found[_N_LOOKED_AT:]
