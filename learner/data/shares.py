"""One batch, many processes: each takes its share of it, so that together they see what one process would see."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.data.batch import batch_size_of, describe, fields_of, has_places
from learner.data.moving import mapped, tensors_of
from learner.data.order import OrderedLoader, why_not_ordered
from learner.data.position import SkipLoader, StatefulLoader
from learner.data.read_ahead import ReadAhead
from learner.data.sampler import BatchIndices, PositionSampler
from learner.data.wrapper import LoaderWrapper
from learner.errors import LearnerError


def share(n: int, rank: int, world: int) -> tuple[int, int]:
    """Return which of `n` samples are a rank's: from the first number up to the second.

    Shares are contiguous and differ by one sample at most; the first ranks have more. Where there are fewer samples
    than ranks the last ones have none.

    Example:
        >>> [share(5, rank, 3) for rank in range(3)], share(1, 2, 3)
        ([(0, 2), (2, 4), (4, 5)], (1, 1))
    """
    each, more = divmod(n, world)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


class Shares:
    """The shares of one rank in the batches of a pass.

    A rank without a share reads one sample of the batch all the same, as a stand-in that counts for nothing: it has to
    be there where all ranks exchange gradients.

    Args:
        rank: whose shares they are.
        world: how many ranks there are.

    Attributes:
        sizes: for each batch that was read, by its number: how many samples it has, and how many of them are here.
        now: both numbers of the batch that is worked on.
        digest: of the first batch that was read whole, to be compared between ranks; else None.

    Example:
        >>> import torch
        >>> shares = Shares(rank=1, world=2)
        >>> list(shares.of([torch.tensor([0, 1, 2]), torch.tensor([3])])), shares.sizes
        ([tensor([2]), tensor([3])], {0: (3, 1), 1: (1, 0)})
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.sizes: dict[int, tuple[int, int]] = {}
        self.now = 0, 0
        self.digest: str | None = None

    def of(self, loader: Any, start: int = 0) -> Any:
        """Return a loader of this rank's shares.

        Of a loader whose order is a function of position it reads its share alone, and noise stays that of the
        sample's place in the whole batch. Any other one is read whole, and the share is taken out of each batch.

        Args:
            loader: what is left of a pass.
            start: the number of its first batch.
        """
        if isinstance(loader, ReadAhead):
            ahead = copy.copy(loader)
            ahead.loader = self.of(loader.loader, start)
            return ahead
        if why_read_whole(loader) is not None:
            return ShareLoader(loader, self, start)
        mine = copy.copy(loader)
        vars(mine).update(batch_sampler=ShareSampler(loader.position, self), _iterator=None)
        return mine

    def taken(self, i: int, n: int) -> tuple[int, int]:
        """Put down the size of a batch; return which samples to read: the share, or the first one as a stand-in."""
        start, stop = share(n, self.rank, self.world)
        self.sizes[i] = n, stop - start
        return (start, stop) if stop > start else (0, 1)


def why_read_whole(loader: Any) -> str | None:
    """Say why each rank has to read whole batches of a loader to take its share; None if it has not to.

    Example:
        >>> why_read_whole([1, 2])
        'it is a list, not a plain DataLoader'
    """
    if isinstance(loader, SkipLoader | StatefulLoader):
        return why_read_whole(loader.loader)
    if not isinstance(loader, OrderedLoader):
        return why_not_ordered(loader) or "its order is its own"
    has_batches = vars(loader)["batch_sampler"] is not None
    return None if has_batches else "its dataset makes whole batches (batch_size=None)"


class ShareSampler(PositionSampler):
    """Hand out one rank's share of each batch.

    Args:
        whole: hands out the batches; says where the pass begins.
        shares: of the rank.
    """

    def __init__(self, whole: PositionSampler, shares: Shares) -> None:
        self.whole, self.shares = whole, shares

    def __getattr__(self, name: str) -> Any:
        if name == "whole":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def __iter__(self) -> Iterator[list[int]]:
        return self._shares(self.whole.start, iter(self.whole))  # where the pass begins is read now

    def _shares(self, first: int, batches: Iterator[list[int]]) -> Iterator[list[int]]:
        for i, indices in enumerate(batches, first):
            start, stop = self.shares.taken(i, len(indices))
            place: Any = indices
            yield BatchIndices(indices[start:stop], place.epoch, place.first + start)


class ShareLoader(LoaderWrapper):
    """Of a loader that is read whole, one rank's share of each batch.

    Args:
        loader: any iterable of batches.
        shares: of the rank.
        start: the number of its first batch.
    """

    def __init__(self, loader: Any, shares: Shares, start: int) -> None:
        super().__init__(loader)
        self.shares, self.start = shares, start

    def __iter__(self) -> Iterator[Any]:
        return self._shares(iter(self.loader))  # the pass begins now

    def _shares(self, batches: Iterator[Any]) -> Iterator[Any]:
        for i, batch in zip(count(self.start), batches, strict=False):
            if self.shares.digest is None:
                self.shares.digest = digest_of(batch)
            n = n_samples_of(batch)
            start, stop = self.shares.taken(i, n)
            yield rows_of(batch, n, start, stop)


def n_samples_of(batch: Any) -> int:
    """Return the number of samples in a batch of which nothing else is known.

    Raises:
        LearnerError: if it cannot be told.
    """
    fields = fields_of(batch)
    parts = tuple(fields.values()) if fields is not None else tuple(batch) if has_places(batch) else (batch,)
    n = batch_size_of(parts[:-1] or parts, parts[-1] if len(parts) > 1 else None) if parts else None
    if not n:
        raise LearnerError(
            f"a batch must have a number of samples to be shared between processes, got {describe(batch)}, whose parts "
            f"have no first axis, or do not agree on it; use a DataLoader over numbered samples."
        )
    return n


def rows_of(value: Any, n: int, start: int, stop: int) -> Any:
    """Return the part of a batch of `n` samples that holds some of them; what is not of samples stays whole.

    Example:
        >>> import torch
        >>> rows_of({"x": torch.arange(4), "text": ["a", "b", "c", "d"], "scale": 2.0}, 4, 1, 3)
        {'x': tensor([1, 2]), 'text': ['b', 'c'], 'scale': 2.0}
    """
    if isinstance(value, Tensor | np.ndarray):
        return value[start:stop] if value.ndim and len(value) == n else value
    is_of_arrays = has_places(value) and any(isinstance(item, Tensor | np.ndarray) and item.ndim for item in value)
    if has_places(value) and len(value) == n and not (is_of_arrays and _are_parts(value, n)):
        return value[start:stop]
    if has_places(value) or isinstance(value, Mapping) or fields_of(value) is not None:
        return mapped(value, rows_of, n, start, stop)
    return value


def _are_parts(values: Any, n: int) -> bool:
    """Tell whether a list of arrays holds inputs and targets side by side, not a sample in each place."""
    return all(len(item) == n for item in values if isinstance(item, Tensor | np.ndarray) and item.ndim)


def digest_of(batch: Any) -> str:
    """Return a short text that is the same for the same tensors."""
    digest = blake2b(describe(batch).encode(), digest_size=8)
    for tensor in tensors_of(batch):
        if not tensor.is_sparse:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
