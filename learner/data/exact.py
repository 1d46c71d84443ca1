"""Whether the rest of a pass is, bit for bit, what it would have been; and if it may not be, why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from learner.data.generators import generators_of
from learner.data.held_generators import held_generators
from learner.data.limit import BatchLimit
from learner.data.loaders import ArrayDataset
from learner.data.position import has_state, why_read_again
from learner.data.rounds import RoundsLoader
from learner.data.seeded_dataset import SeededDataset
from learner.data.zipped import ZippedLoader


def why_not_exact(loader: Any) -> str | None:
    """Say why the rest of a pass may be another than it would have been; None if it is the same.

    It is where nothing has to be read again, or what is read again draws from generators that are known. A generator
    that the dataset, the sampler or the collate function holds is found where `held_generators` looks; one that only
    a library knows, or that sits in a long container, is not.

    Example:
        >>> why_not_exact(DataLoader(range(6), shuffle=True))
        >>> why_not_exact(iter([1, 2]))
        'it is an iterator, which is used up by one pass'
    """
    if isinstance(loader, ZippedLoader):
        return next(filter(None, map(why_not_exact, loader.loaders.values())), None)
    if isinstance(loader, RoundsLoader):
        return why_not_exact(loader.loader)
    if isinstance(loader, BatchLimit):
        is_anew = loader.is_kept_by_position is not False
        return why_not_exact(loader.loader) if is_anew else "its batches were fetched before the fit began"
    return _why_not_read_alike(loader)


def require_exact(loaders: Mapping[str, Any], *, may_warn: bool) -> None:
    """Say of loaders by name that the rest of a pass may be another than it would have been.

    Args:
        loaders: the loaders.
        may_warn: whether that is a warning; else it is an error.

    Raises:
        ValueError: if it is.
    """
    for name, loader in loaders.items():
        if reason := why_not_exact(loader):
            problem = f"loader {name!r} must give the same batches again for a training to go on, but {reason}"
            if not may_warn:
                raise ValueError(f"{problem}; pass a DataLoader over numbered samples, or leave out `exact`.")
            warnings.warn(f"{problem}; the rest of a pass may differ.", RuntimeWarning, stacklevel=3)


def _why_not_read_alike(loader: Any) -> str | None:
    """Say why batches that are read again may be others; None if they are the same."""
    if isinstance(loader, DataLoader) and not has_state(loader) and (name := _own_generator(loader)):
        return f"its {name} is a random generator that nobody can put back"
    if has_state(loader) and getattr(loader, "num_workers", False) and _may_draw(loader.dataset):
        return (
            "what its workers draw at random is not in its state; `learner.data.seeded` makes it depend on the sample"
        )
    if why_read_again(loader) is None:
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
        for name, generator in held_generators(getattr(loader, part, None), part):
            if all(generator is not one for one in known):
                return name
    return None
