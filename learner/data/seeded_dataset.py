"""A dataset whose noise is a function of seed, epoch and sample, for people who keep a loader of their own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from learner.data.numbers import whole_number
from learner.data.seeding import guarded_generators, position_seed, seed_generators


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
        >>> import random
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
    return SeededDataset(dataset, whole_number(seed, "seed"))


class SeededDataset(Dataset[Any]):
    """A dataset with noise by seed, epoch and sample; made by `seeded`. Attributes not its own are the dataset's."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # In memory that workers share: those that persist would not hear of a new epoch otherwise.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is, in every worker; between two passes, not during one."""
        self._epoch.fill_(whole_number(epoch, "epoch"))

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
