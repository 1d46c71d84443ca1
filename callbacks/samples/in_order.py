"""A loader for a pass of its own: what a loader of the training visits, each sample once, in order."""

from __future__ import annotations

import copy
from itertools import chain, islice
from typing import Any

import numpy as np
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from learner.data.generators import preserved_rng
from learner.data.sampler import PositionSampler
from learner.data.wrapper import length_of
from learner.records import Table


def in_order(name: str, loader: Any) -> DataLoader[Any]:
    """Return a loader of the samples that a loader visits, in order; of a `Table` as they are for collection.

    What a `SubsetRandomSampler` leaves out, or a `WeightedRandomSampler` by a weight of 0, is left out. A sampler of
    any other class is asked once what it hands out, on a copy and with the random generators put back.

    Raises:
        ValueError: if there is no dataset with numbered samples; `name` is the loader's.

    Example:
        >>> loader = DataLoader(list("abcd"), sampler=SubsetRandomSampler([3, 1]), batch_size=2)
        >>> list(in_order("valid", loader))
        [['b', 'd']]
    """
    dataset: Any = getattr(loader, "dataset", None)
    is_stream = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
    if is_stream or getattr(loader, "batch_sampler", loader) is None:  # whose dataset makes whole batches
        raise ValueError(
            f"`source='pass'` must have loaders that make batches of numbered samples of a dataset, got a "
            f"{type(loader).__name__} as {name!r} that does not; leave it out of `on`, or use a DataLoader."
        )
    return DataLoader(
        dataset.collect_view() if isinstance(dataset, Table) else dataset,
        sampler=_visited(loader),
        batch_size=getattr(loader, "batch_size", None) or 64,
        collate_fn=getattr(loader, "collate_fn", None),
        num_workers=getattr(loader, "num_workers", 0),
        worker_init_fn=getattr(loader, "worker_init_fn", None),
        multiprocessing_context=getattr(loader, "multiprocessing_context", None),
        timeout=getattr(loader, "timeout", 0),
    )


def _visited(loader: Any) -> list[int] | None:
    """Return the numbers of the samples that a loader visits, rising; None for all."""
    batches = getattr(loader, "batch_sampler", None)
    batches = batches.batches if isinstance(batches, PositionSampler) else batches
    sampler: Any = batches.sampler if type(batches) is BatchSampler else batches
    if sampler is None or type(sampler) in (SequentialSampler, RandomSampler):
        return None
    if type(sampler) is SubsetRandomSampler:
        return sorted(set(map(int, sampler.indices)))
    if type(sampler) is WeightedRandomSampler:
        return np.flatnonzero(np.asarray(sampler.weights)).tolist()
    with preserved_rng([loader]):
        drawn = islice(iter(copy.copy(sampler)), length_of(sampler))  # some never end
        return sorted(set(map(int, drawn if sampler is not batches else chain.from_iterable(drawn))))
