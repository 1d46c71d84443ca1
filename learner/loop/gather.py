"""Keep what a pass predicts: `Learner.get_preds`, and the callback behind it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from learner.callback import Callback
from learner.data.loaders import Loaders
from learner.loop.types import Learner
from learner.ranks.job import ALONE, Job


class Gather(Callback):
    """Keep detached copies of predictions and targets on the CPU."""

    order = math.inf

    def __init__(self) -> None:
        self._preds: list[tuple[int, Any]] = []  # with which batch it was
        self._targets: list[tuple[int, Any]] = []

    def after_batch(self, learn: Learner) -> None:
        """Take this batch's."""
        if learn.preds is None:  # the batch was cut short
            return
        self._preds.append((learn.i, _to_cpu(learn.preds, learn.batch_size)))
        if learn.yb is not None:
            self._targets.append((learn.i, _to_cpu(learn.yb, learn.batch_size)))

    def result(self, job: Job = ALONE) -> tuple[Any, Any]:
        """Return predictions and targets, each joined along the first axis; None where there was none.

        Where several processes have taken shares of each batch, all of them return the whole, in the loader's order.
        What cannot be joined is a list with what each batch gave: packed and nested sequences, tensors whose other axes
        differ from batch to batch.
        """
        preds, targets = zip(*job.gather((self._preds, self._targets), at="predictions of a pass"), strict=True)
        return _joined(_in_order(preds)), _joined(_in_order(targets))


def _in_order(shares: Iterable[list[tuple[int, Any]]]) -> list[Any]:
    """Return what processes have taken, batch by batch, within a batch in order of ranks."""
    return [value for _, value in sorted(chain.from_iterable(shares), key=itemgetter(0))]


def get_preds(learn: Learner, name_or_loader: Any = "valid") -> tuple[Any, Any]:
    """Return predictions and targets of a pass, in the loader's order, detached, on the CPU.

    Args:
        learn: the learner.
        name_or_loader: a name in `dls`, or any loader; `[x]` for a tensor `x` that is one batch. No loss is
            computed, and `metrics` stays as it is.

    Returns:
        `(preds, targets)`, each joined along the first axis, tuples and mappings part by part; targets is None
        where there are none. What cannot be joined is a list with what each batch gave: packed and nested
        sequences, tensors whose other axes differ from batch to batch.

    Raises:
        KeyError: if there is no loader of that name.
    """
    is_name = isinstance(name_or_loader, str)
    loaders = Loaders.of(learn.dls if is_name else {"infer": name_or_loader})
    name = name_or_loader if is_name else "infer"
    return gathered(learn, name, loaders[name])


def gathered(learn: Learner, name: str, dl: Any) -> tuple[Any, Any]:
    """Return predictions and targets of a pass over any loader, as `Learner.get_preds`."""
    gather = Gather()
    look_over(learn, name, dl, gather)
    return gather.result(learn.job)


def look_over(learn: Learner, name: str, dl: Any, cb: Any) -> None:
    """Run a pass of forwards alone over any loader with a callback more; `metrics` stays as it is.

    Args:
        learn: the learner.
        name: what the pass is called, as a loader in `dls`; callbacks go by it.
        dl: any iterable of batches.
        cb: hears the pass.
    """
    metrics = dict(learn.metrics)
    try:
        learn.side_pass(name, dl, "infer", cb)
    finally:
        learn.metrics.clear()  # in place: others may hold it
        learn.metrics.update(metrics)


def _to_cpu(value: Any, size: int | None) -> Any:
    """Copy the tensors of a nest to the CPU; make a list that holds parts, and not one thing a sample, a tuple."""
    if isinstance(value, Tensor):
        return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, PackedSequence):
        parts: list[Any] = [None if part is None else _to_cpu(part, size) for part in value]
        return PackedSequence(*parts)
    if isinstance(value, dict):
        return {key: _to_cpu(item, size) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_to_cpu(item, size) for item in value]
        may_be = isinstance(value, list) or not any(isinstance(item, Tensor) for item in items)
        return items if may_be and _is_of_samples(items, size) else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_cpu(getattr(value, field.name), size) for field in dataclasses.fields(value)}
    return value


def _is_of_samples(items: list[Any], size: int | None) -> bool:
    return len(items) == size and not all(
        isinstance(item, Tensor) and item.ndim and len(item) == size for item in items
    )


def _joined(batches: list[Any]) -> Any:
    """Join what batches gave: tensors along the first axis, tuples and mappings part by part, lists end to end."""
    if not _can_be_joined(batches):
        return batches or None
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.ndim else torch.stack(batches)
    if isinstance(first, dict):
        return {key: _joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(column)) for column in zip(*batches, strict=True))
    return [item for batch in batches for item in batch]


def _can_be_joined(batches: list[Any]) -> bool:
    """Tell whether what batches gave is alike: of one kind and one form, but for the number of samples."""
    if not batches or any(type(batch) is not type(batches[0]) for batch in batches):
        return False
    first = batches[0]
    if isinstance(first, Tensor):
        is_nested = any(batch.is_nested for batch in batches)
        return not is_nested and len({(batch.ndim, batch.shape[1:]) for batch in batches}) == 1
    if isinstance(first, dict):
        return all(batch.keys() == first.keys() for batch in batches)
    if isinstance(first, tuple):
        return not isinstance(first, PackedSequence) and len({len(batch) for batch in batches}) == 1
    return isinstance(first, list)
