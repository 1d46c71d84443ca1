"""A batch sampler whose order is a function of seed and epoch, and that can begin at any batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from learner.data.numbers import whole_number
from learner.data.seeding import iterate_isolated, position_seed
from learner.data.wrapper import length_of

# What each of these hands out depends on its generator alone. A class derived from one may do as it likes.
_SAMPLERS = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


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
        epoch, start = whole_number(epoch, "epoch"), whole_number(start, "start")
        if epoch < 0:
            raise ValueError(f"`epoch` must be at least 0, got {epoch}; do 0 for the first one.")
        length = length_of(self)
        if start < 0 or (length is not None and start > length):
            raise ValueError(
                f"`start` must be a batch of the pass, from 0 to {length}, got {start}; if the data is not what it "
                f"was, do 0 to begin the epoch anew."
            )
        self.epoch, self.start = epoch, start

    def batch_at(self, epoch: int, i: int) -> list[int]:
        """Return what is handed out for one batch, wherever the next pass begins.

        Example:
            >>> sampler = PositionSampler(BatchSampler(range(6), 2, False), seed=0)
            >>> sampler.batch_at(epoch=0, i=2), next(iter(sampler))
            ([4, 5], [0, 1])
        """
        there = copy.copy(self)
        there.set_position(epoch, i)
        return next(iter(there))

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
            yield BatchIndices(islice(indices, self.batch_size), epoch, i * self.batch_size)

    def _drawn(self, epoch: int, start: int) -> Iterator[list[int]]:
        first = 0
        for i, drawn in enumerate(iterate_isolated(self.batches, position_seed(self.seed, epoch, "order"))):
            indices = BatchIndices(drawn, epoch, first)
            first += len(indices)
            if i >= start:
                yield indices


class BatchIndices(list[int]):
    """The numbers of a batch's samples, which know their position and take it along to a worker."""

    __slots__ = ("epoch", "first")

    def __init__(self, indices: Iterable[int], epoch: int, first: int) -> None:
        super().__init__(indices)
        self.epoch = epoch
        self.first = first
