"""Randomness as a function of position: order and noise that depend on where a pass is, not on what was before.

A run that was killed can then go on in the middle of an epoch without reading what it has read, and neither workers,
nor what they fetch ahead, nor validation change what is trained. Start reading at `ordered`; `seeded` is for people who
keep a loader of their own.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    MapDataPipe,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from learner.data.generators import generators_of, preserved_rng, remember_rng
from learner.data.loaders import ArrayDataset, as_it_is, length_of

# What each of these hands out depends on its generator alone. A class derived from one may do as it likes.
_SAMPLERS = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)

# How a DataLoader reads. A class derived from it that has another of these may do as it likes.
_READING = ("__iter__", "__len__", "_get_iterator", "_auto_collation", "_index_sampler")


def position_seed(*position: int | str) -> int:
    """Return a seed for a position: 64 bits that share no pattern with those of its neighbours.

    The same on every machine and in every process, which Python's `hash` is not.

    Example:
        >>> position_seed(0, 1, "order"), position_seed(0, 2, "order")
        (6664261489374279152, 5453308221904981755)
    """
    return int.from_bytes(blake2b(",".join(map(str, position)).encode(), digest_size=8).digest(), "little")


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
    return OrderedLoader(loader, _whole(seed, "seed"))


class PositionSampler(Sampler[list[int]]):
    """Hand out the batches of a pass from a position on, in the order that a seed and an epoch give.

    It stays where it is set: two passes without `set_position` between them are the same.

    Args:
        batches: says what a batch is: a `BatchSampler`, or anything that gives the numbers of a batch's samples.
        seed: of the order.

    Attributes:
        epoch, start: which pass, and with which of its batches it begins.
        sampler, batch_size, drop_last: as those of `batches`, None where it has none.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches: Any = batches.batches if isinstance(batches, PositionSampler) else batches
        self.sampler: Any = getattr(batches, "sampler", None)
        self.batch_size: Any = getattr(batches, "batch_size", None)
        self.drop_last: Any = getattr(batches, "drop_last", None)
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Say where the next pass begins; one that runs goes on as it was.

        Args:
            epoch: which pass over the data, from 0.
            start: its first batch, from 0; its length if all are done.

        Raises:
            TypeError: if one of them is no whole number.
            ValueError: if there is no such position.
        """
        epoch, start = _whole(epoch, "epoch"), _whole(start, "start")
        if epoch < 0:
            raise ValueError(f"`epoch` must be at least 0, got {epoch}; do 0 for the first one.")
        length = length_of(self)
        if start < 0 or (length is not None and start > length):
            raise ValueError(
                f"`start` must be a batch of the pass, from 0 to {length}, got {start}; if the data is not what it "
                f"was, do 0 to begin the epoch anew."
            )
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        # The position is read now; the body of a generator would read it with the first batch.
        is_known = type(self.batches) is BatchSampler and type(self.sampler) in _SAMPLERS
        return (self._cut if is_known else self._drawn)(self.epoch, self.start)

    def _cut(self, epoch: int, start: int) -> Iterator[list[int]]:
        sampler = copy.copy(self.sampler)  # its own generator is none of ours
        sampler.generator = torch.Generator().manual_seed(position_seed(self.seed, epoch, "order"))
        indices = islice(iter(sampler), start * self.batch_size, None)
        for i in range(start, len(self)):
            yield _Indices(islice(indices, self.batch_size), epoch, i * self.batch_size)

    def _drawn(self, epoch: int, start: int) -> Iterator[list[int]]:
        first = 0
        for i, drawn in enumerate(drawing_apart(self.batches, position_seed(self.seed, epoch, "order"))):
            indices = _Indices(drawn, epoch, first)
            first += len(indices)
            if i >= start:
                yield indices


def drawing_apart(source: Any, seed: int) -> Iterator[Any]:
    """Loop over something that draws random numbers as it goes, from a seed of its own.

    So what it gives does not depend on what else draws between two of its steps, nor the other way round. Holds for the
    global generators, and for those that it and its samplers have as `generator`. Costs about 0.2 [ms] a step.
    """
    steps: Iterator[Any] = iter(())
    put_back: Callable[[], object] | None = None
    while True:
        with preserved_rng([source]):
            if put_back is None:
                seed_generators(seed)
                for i, generator in enumerate(generators_of(source)):
                    generator.manual_seed(position_seed(seed, i))
                steps = iter(source)
            else:
                put_back()
            try:
                step = next(steps)
            except StopIteration:
                return
            put_back = remember_rng([source])
        yield step


class _Indices(list[int]):
    """The numbers of a batch's samples, which know their position and take it along to a worker."""

    __slots__ = ("epoch", "first")

    def __init__(self, indices: Iterable[int], epoch: int, first: int) -> None:
        super().__init__(indices)
        self.epoch = epoch
        self.first = first


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

    def __getitems__(self, indices: _Indices) -> Any:
        """Return a batch."""
        with self._guarded(indices):
            if getattr(self.dataset, "__getitems__", None):
                self._seed(indices, "sample")
                samples = self.dataset.__getitems__(list(indices))
            else:
                samples = self._samples(indices)
            self._seed(indices, "collate")
            return self.collate_fn(samples)

    def __getitem__(self, indices: _Indices) -> Any:
        """Return a sample that is a batch by itself (`batch_size=None`)."""
        with self._guarded(indices):
            (sample,) = self._samples(indices)
            self._seed(indices, "collate")
            return self.collate_fn(sample)

    @contextmanager
    def _guarded(self, indices: _Indices) -> Iterator[None]:
        # A worker that persists has a dataset that nobody else can tell.
        if self.epoch != indices.epoch and callable(getattr(self.dataset, "set_epoch", None)):
            self.dataset.set_epoch(indices.epoch)
        self.epoch = indices.epoch
        with guarded_generators():
            yield

    def _samples(self, indices: _Indices) -> list[Any]:
        samples = []
        for i, index in enumerate(indices):
            self._seed(indices, "sample", i)
            try:
                samples.append(self.dataset[index])
            except Exception as error:
                error.add_note(f"in sample {index} of the dataset")
                raise
        return samples

    def _seed(self, indices: _Indices, what: str, i: int = 0) -> None:
        seed_generators(position_seed(self.seed, indices.epoch, indices.first + i, what))


def _start_worker(worker_init_fn: Callable[[int], None] | None, number: int) -> None:
    """Let `get_worker_info().dataset` be the person's dataset, then do what the person wants done."""
    info: Any = get_worker_info()
    object.__setattr__(info, "dataset", info.dataset.dataset)  # it is frozen
    if worker_init_fn is not None:
        worker_init_fn(number)


def seeded(dataset: Any, seed: int) -> SeededDataset:
    """Return a dataset whose noise depends on seed, epoch and sample; for use in any loader.

    What sample `i` draws from the global generators of Python, NumPy and torch (CPU) is the same whoever asks for it,
    whenever, in whichever worker. Call `set_epoch` before each pass: until then noise repeats. In an epoch in which a
    sample comes twice it has the same noise twice. A dataset with `__getitems__` draws for all that it is asked for at
    once, by the numbers of all. The generators are put back after each call, about 0.1 [ms]; `ordered` does that
    once a batch. What the collate function draws is not covered, nor a generator that the dataset holds itself.

    Args:
        dataset: one with numbered samples.
        seed: any whole number.

    Raises:
        TypeError: if `dataset` is a stream, or `seed` no whole number.

    Example:
        >>> class Noisy(Dataset):
        ...     def __getitem__(self, i):
        ...         return i + random.random()
        >>> dataset = seeded(Noisy(), seed=0)
        >>> first = dataset[3]
        >>> dataset[3] == first, dataset[4] - 1 == first
        (True, False)
        >>> dataset.set_epoch(1)
        >>> dataset[3] == first
        False
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"`dataset` must be one with numbered samples (`__getitem__`), got {type(dataset).__name__}; seed a stream "
            f"in its `__iter__`."
        )
    return SeededDataset(dataset, _whole(seed, "seed"))


class SeededDataset(Dataset[Any]):
    """A dataset with noise by seed, epoch and sample; made by `seeded`. Attributes not its own are the dataset's."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # In memory that workers share: those that persist would not hear of a new epoch otherwise.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is, in every worker; between two passes, not during one."""
        self._epoch.fill_(_whole(epoch, "epoch"))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self.dataset.__getitem__, index, [index])

    @property
    def __getitems__(self) -> Callable[[list[Any]], Any]:
        read = self.dataset.__getitems__  # an AttributeError where there is none, which tells a loader so
        return lambda indices: self._read(read, indices, indices)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _read(self, read: Callable[[Any], Any], what: Any, indices: list[Any]) -> Any:
        with guarded_generators():
            seed_generators(position_seed(self.seed, int(self._epoch), *map(_number, indices)))
            return read(what)


def _number(index: Any) -> Any:
    """Return a number as a plain one, so that a tensor and an int of one value mean one sample."""
    try:
        return operator.index(index)
    except TypeError:
        return index


def _whole(value: Any, name: str) -> int:
    """Return a whole number of any kind as an int."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise TypeError(f"`{name}` must be a whole number, got {value!r}; do 0, for instance.") from None


def seed_generators(seed: int) -> None:
    """Seed the global generators; torch's directly, since `torch.manual_seed` sees to every accelerator too."""
    random.seed(seed)
    np.random.seed(seed >> 32)
    torch.default_generator.manual_seed(seed)


@contextmanager
def guarded_generators() -> Iterator[None]:
    """Put the global generators that the block seeds back at its end, however it ends."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(cpu)
