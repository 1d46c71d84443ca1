"""Where a pass begins: at its first batch, or in the middle, as when training goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from learner.data.generators import generators_of
from learner.data.limit import BatchLimit
from learner.data.order import OrderedLoader, ordered, why_not_ordered
from learner.data.rounds import RoundsLoader
from learner.data.seeding import guarded_generators, iterate_isolated, position_seed, seed_generators
from learner.data.wrapper import LoaderWrapper
from learner.data.zipped import ZippedLoader

_AS_THEY_ARE = (list, tuple, range)  # of batches: they draw nothing, and anything of them can be had at once


class ResumableLoader:
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
        stateful: what goes on from a state of its own: the loader, or the one that it takes its batches from; or None.
        epoch, start: of the pass that `at` was asked for last.
        handed_out: where batches are fetched before they are asked for (`learner.data.read_ahead`), the state of
            `stateful` when it gave the batch that was handed out last; else None.
        why_read_again: why batches that are done have to be read again; None if not.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> resumable = ResumableLoader("train", DataLoader(range(6), batch_size=2, shuffle=True), seed=0)
        >>> [batch.tolist() for batch in resumable.at(epoch=0)]
        [[2, 4], [3, 1], [5, 0]]
        >>> [batch.tolist() for batch in resumable.at(epoch=0, start=2)]
        [[5, 0]]
    """

    def __init__(self, name: str, loader: Any, seed: int | None = None) -> None:
        self.loader = loader
        read = loader.loader if isinstance(loader, RoundsLoader) else loader
        self.seed: int = seed_of(read) if seed is None else seed
        self._inner = None if read is loader else ResumableLoader(name, read, self.seed)
        parts = loader.loaders if isinstance(loader, ZippedLoader) else {}
        self._parts = {part: ResumableLoader(f"{name}/{part}", one, seed) for part, one in parts.items()}
        self.stateful: Any = _stateful(self._inner, self._parts, loader)
        self.epoch = self.start = 0
        self.handed_out: Any = None
        self.why_read_again = why_read_again(read)
        # An order that a person has asked for stays that.
        self._seed = self.seed if isinstance(loader, OrderedLoader) else position_seed(self.seed, name)
        self._ordered: OrderedLoader | None = None
        if self.stateful is None and self._inner is None and why_not_ordered(loader) is None:
            self._ordered = ordered(loader, self._seed)
        if isinstance(loader, BatchLimit):  # fetched now, so another process has the same ones, whoever asks first
            first = ResumableLoader(name, loader.loader, self.seed).at(0)
            loader.keep(SkipLoader(first.loader, 0, self._seed) if isinstance(first, StatefulLoader) else first)

    def at(self, epoch: int, start: int = 0) -> Any:
        """Return an iterable over the rest of a pass; its length is that of the whole.

        Args:
            epoch: which pass over the data, from 0; datasets and samplers that have a `set_epoch` are told.
            start: its first batch, from 0.
        """
        self.epoch, self.start, self.handed_out = epoch, start, None
        if self._inner is not None:
            self.loader.follow(self._inner, epoch, start)
            return self.loader
        if self._parts:
            return _Rest(self.loader, self._parts, self)
        for place in _parts_of(self.loader):
            if callable(getattr(place, "set_epoch", None)):
                place.set_epoch(epoch)
        if self._ordered is not None:
            self._ordered.position.set_position(epoch, start)
            return self._ordered
        seed = position_seed(self._seed, epoch, "read")
        if self.stateful is not None:
            return StatefulLoader(self.loader, seed, self)
        if isinstance(self.loader, Iterator) and not start:
            return self.loader  # as it is: one that is used up has to be seen to be one
        is_there = isinstance(self.loader, BatchLimit) or type(self.loader) in _AS_THEY_ARE
        if is_there and not start:
            return self.loader
        return SkipLoader(self.loader, start, None if is_there else seed)

    def samples(self, epoch: int, i: int) -> Any:
        """Return what the sampler hands out for a batch; None where that is no function of position.

        Of loaders side by side it is what each of them has for it, by name.
        """
        if self._inner is not None:
            return self._inner.samples(epoch, i)
        if self._parts:
            places = self.loader.places(epoch, i)
            return {name: part.samples(*places[name]) for name, part in self._parts.items()}
        return None if self._ordered is None else self._ordered.position.batch_at(epoch, i)

    def state_dict(self) -> Any:
        """Return the state of `stateful` when it gave the batch that was handed out last; None where there is none."""
        if self._inner is not None:
            return self._inner.state_dict()
        if self.handed_out is not None:
            return self.handed_out
        return None if self.stateful is None else self.stateful.state_dict()


class _Rest(LoaderWrapper):
    """The rest of a pass over several loaders side by side."""

    def __init__(self, loader: ZippedLoader, parts: dict[str, ResumableLoader], resumable: ResumableLoader) -> None:
        super().__init__(loader)
        self._parts, self.resumable = parts, resumable

    def __iter__(self) -> Iterator[Any]:
        return self.loader.at(self._parts, self.resumable.epoch, self.resumable.start)  # type: ignore[no-any-return]


class _States:
    """The states of several loaders as that of one."""

    def __init__(self, stateful: dict[str, Any]) -> None:
        self._stateful = stateful

    def state_dict(self) -> dict[str, Any]:
        return {name: one.state_dict() for name, one in self._stateful.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, one in self._stateful.items():
            one.load_state_dict(state[name])


def _stateful(inner: ResumableLoader | None, parts: dict[str, ResumableLoader], loader: Any) -> Any:
    """Return what of a loader goes on from a state of its own, or None."""
    if inner is not None:
        return inner.stateful
    if stateful := {name: part.stateful for name, part in parts.items() if part.stateful is not None}:
        return _States(stateful)
    return loader if has_state(loader) else None


class StatefulLoader(LoaderWrapper):
    """A loader with a state of its own, which draws from a seed to begin a pass.

    How much it draws for that depends on whether it goes on from a state; what the training draws then must not. What
    it draws as it goes comes from where it always does.

    Args:
        loader: any iterable of batches.
        seed: of what it draws to begin.
        resumable: whose pass this is, if one has made it.
    """

    def __init__(self, loader: Any, seed: int, resumable: ResumableLoader | None = None) -> None:
        super().__init__(loader)
        self.seed, self.resumable = seed, resumable

    def __iter__(self) -> Iterator[Any]:
        with guarded_generators():
            seed_generators(self.seed)
            return iter(self.loader)


class SkipLoader(LoaderWrapper):
    """The rest of a pass over a loader: what is before it is read and dropped, when the pass begins.

    Args:
        loader: any iterable of batches.
        start: the first batch that is not dropped, from 0.
        seed: of what the loader draws; None to let it draw as it does.
    """

    def __init__(self, loader: Any, start: int, seed: int | None = None) -> None:
        super().__init__(loader)
        self.start, self.seed = start, seed

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader) if self.seed is None else iterate_isolated(self.loader, self.seed)
        next(islice(batches, self.start, self.start), None)
        return batches


def _parts_of(loader: Any) -> Iterator[Any]:
    """Yield what of a loader may want to know the epoch."""
    yield loader
    for name in ("dataset", "sampler", "batch_sampler"):
        yield getattr(loader, name, None)
    yield getattr(getattr(loader, "batch_sampler", None), "sampler", None)


def has_state(loader: Any) -> bool:
    """Tell whether a loader goes on from a state of its own, as torchdata's `StatefulDataLoader`."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def why_read_again(loader: Any) -> str | None:
    """Say why the batches before a position have to be read to get there; None if not."""
    if isinstance(loader, ZippedLoader):
        return next(filter(None, map(why_read_again, loader.loaders.values())), None)
    is_there = has_state(loader) or isinstance(loader, BatchLimit) or type(loader) in _AS_THEY_ARE
    return None if is_there else why_not_ordered(loader)


def seed_of(loader: Any) -> int:
    """Return the seed that a person gave for this loader, or for all: nothing is drawn for it."""
    if isinstance(loader, OrderedLoader):
        return loader.position.seed
    generators = generators_of(loader)
    return generators[0].initial_seed() if generators else torch.initial_seed()
