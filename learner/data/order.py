"""Randomness as a function of position: order and noise that depend on where a pass is, not on what was before.

A run that was killed can then go on in the middle of an epoch without reading what it has read, and neither workers,
nor what they fetch ahead, nor validation change what is trained. Start reading at `ordered`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    MapDataPipe,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from learner.data.loaders import ArrayDataset, as_it_is
from learner.data.numbers import whole_number
from learner.data.sampler import BatchIndices, PositionSampler
from learner.data.seeding import guarded_generators, position_seed, seed_generators

# How a DataLoader reads. A class derived from it that has another of these may do as it likes.
_READING = ("__iter__", "__len__", "_get_iterator", "_auto_collation", "_index_sampler")


def why_not_ordered(loader: Any) -> str | None:
    """Say why the order of a loader cannot be made a function of position; None if it can.

    Example:
        >>> why_not_ordered(DataLoader(range(8), shuffle=True))
        >>> why_not_ordered([1, 2])
        'it is a list, not a plain DataLoader'
    """
    kind = type(loader)
    is_plain = issubclass(kind, DataLoader) and all(getattr(kind, n) is getattr(DataLoader, n) for n in _READING)
    if not (is_plain or kind is OrderedLoader):
        return f"it is a {kind.__name__}, not a plain DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "its dataset is a stream, whose samples have no numbers"
    if isinstance(loader.dataset, MapDataPipe):
        return "its dataset is a data pipe, which draws by itself"
    if loader.num_workers and not loader.in_order:
        return "it gives batches in the order in which workers are done (in_order=False)"
    return None


def ordered(loader: DataLoader[Any], seed: int) -> OrderedLoader:
    """Return a loader like this one, whose order and noise are functions of seed, epoch and position.

    The order depends on the seed and the epoch. What the dataset and the collate function draw from the global
    generators of Python, NumPy and torch (CPU) depends on the seed, the epoch and the position of the sample in it: on
    that of the sample in `__getitem__`, of the batch's first sample in `__getitems__` and in the collate function. So
    nothing else changes it: not the number of workers, whether they persist, what they fetch ahead, or where in the
    epoch the pass began. Drawing does not touch the generators that the training draws from, nor those that the loader
    and its sampler were given.

    Of torch's own samplers the batches before a position cost nothing; of others their numbers are drawn again, without
    reading a sample.

    Cannot be seen and is left alone: a generator that the dataset or a sampler of one's own holds (an
    `np.random.default_rng()`, a `torch.Generator` but for a sampler's `generator`, that of a GPU), and all else that
    they remember from one sample, or one pass, to the next.

    Args:
        loader: a `DataLoader`; stays as it is.
        seed: any whole number; different loaders of one run should have different ones.

    Raises:
        TypeError: if `seed` is no whole number.
        ValueError: if it cannot be done for this loader, see `why_not_ordered`.

    Example:
        >>> loader = ordered(DataLoader(range(6), batch_size=2, shuffle=True), seed=0)
        >>> [batch.tolist() for batch in loader]
        [[2, 4], [3, 0], [5, 1]]
        >>> loader.batch_sampler.set_position(epoch=0, start=2)
        >>> [batch.tolist() for batch in loader], len(loader)
        ([[5, 1]], 3)
    """
    if reason := why_not_ordered(loader):
        raise ValueError(
            f"`loader` must be one whose order can be a function of position, but {reason}; pass a DataLoader with a "
            f"dataset whose samples are numbered."
        )
    return OrderedLoader(loader, whole_number(seed, "seed"))


class OrderedLoader(DataLoader[Any]):
    """A `DataLoader` whose order and noise are functions of position; made by `ordered`.

    All that can be read off it (`dataset`, `batch_size`, `sampler`, `collate_fn`) is what the given loader has, but
    for `batch_sampler`, which is a `PositionSampler`; so is `sampler` where there is none (`batch_size=None`).
    """

    batch_sampler: PositionSampler
    generator: torch.Generator

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        # Taken over as a whole, so that no option is lost, whichever torch has; and no sampler is made up for it. The
        # generator is for the seed of the workers, which a loader without one draws from the training's.
        vars(self).update(vars(loader), generator=torch.Generator(), _iterator=None)
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        batches: Any = getattr(loader, name)
        if loader.batch_sampler is None and not isinstance(batches, PositionSampler):
            batches = BatchSampler(batches, 1, False)
        vars(self)[name] = PositionSampler(batches, seed)

    @property
    def position(self) -> PositionSampler:
        """What hands out the numbers of samples, and can be told where to begin."""
        return self._index_sampler  # type: ignore[no-any-return]

    def _get_iterator(self) -> Any:
        position = self.position
        self.generator.manual_seed(position_seed(position.seed, position.epoch, "workers"))
        is_known = type(self.dataset) in (ArrayDataset, TensorDataset) and self._auto_collation
        if is_known and self.collate_fn in (as_it_is, default_collate):
            return super()._get_iterator()  # nothing is drawn there, so nothing has to be guarded
        # What reads is told where it reads; who looks at the loader finds the dataset that the person gave.
        reader = copy.copy(self)
        vars(reader).update(
            dataset=_Reader(self.dataset, self.collate_fn, position),
            collate_fn=as_it_is,
            worker_init_fn=partial(_start_worker, self.worker_init_fn),
        )
        return super(OrderedLoader, reader)._get_iterator()


class _Reader:
    """Read a batch and put it together, with noise that depends on its position alone."""

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any], position: PositionSampler) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self.seed = position.seed
        self.epoch = position.epoch

    def __getitems__(self, indices: BatchIndices) -> Any:
        """Return a batch."""
        with self._guarded(indices):
            if getattr(self.dataset, "__getitems__", None):
                self._seed(indices, "sample")
                samples = self.dataset.__getitems__(list(indices))
            else:
                samples = self._samples(indices)
            self._seed(indices, "collate")
            return self.collate_fn(samples)

    def __getitem__(self, indices: BatchIndices) -> Any:
        """Return a sample that is a batch by itself (`batch_size=None`)."""
        with self._guarded(indices):
            (sample,) = self._samples(indices)
            self._seed(indices, "collate")
            return self.collate_fn(sample)

    @contextmanager
    def _guarded(self, indices: BatchIndices) -> Iterator[None]:
        # A worker that persists has a dataset that nobody else can tell.
        if self.epoch != indices.epoch and callable(getattr(self.dataset, "set_epoch", None)):
            self.dataset.set_epoch(indices.epoch)
        self.epoch = indices.epoch
        with guarded_generators():
            yield

    def _samples(self, indices: BatchIndices) -> list[Any]:
        samples = []
        for i, index in enumerate(indices):
            self._seed(indices, "sample", i)
            try:
                samples.append(self.dataset[index])
            except Exception as error:
                error.add_note(f"in sample {index} of the dataset")
                raise
        return samples

    def _seed(self, indices: BatchIndices, what: str, i: int = 0) -> None:
        seed_generators(position_seed(self.seed, indices.epoch, indices.first + i, what))


def _start_worker(worker_init_fn: Callable[[int], None] | None, number: int) -> None:
    """Let `get_worker_info().dataset` be the person's dataset, then do what the person wants done."""
    info: Any = get_worker_info()
    object.__setattr__(info, "dataset", info.dataset.dataset)  # it is frozen
    if worker_init_fn is not None:
        worker_init_fn(number)
