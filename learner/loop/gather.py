"""Keep what a pass predicts: the callback behind `Learner.get_preds`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from learner.callback import Callback
from learner.loop.types import Learner


class Gather(Callback):
    """Keep detached copies of predictions and targets on the CPU."""

    order = math.inf

    def __init__(self) -> None:
        self._preds: list[Any] = []
        self._targets: list[Any] = []

    def after_batch(self, learn: Learner) -> None:
        """Take this batch's."""
        if learn.preds is None:  # the batch was cut short
            return
        self._preds.append(_to_cpu(learn.preds, learn.batch_size))
        if learn.yb is not None:
            self._targets.append(_to_cpu(learn.yb, learn.batch_size))

    def result(self) -> tuple[Any, Any]:
        """Return predictions and targets, each joined along the first axis; None where there was none."""
        return _joined(self._preds), _joined(self._targets)


def _to_cpu(value: Any, size: int | None) -> Any:
    """Copy the tensors of a nest to the CPU; make a list that holds parts, and not one thing a sample, a tuple."""
    if isinstance(value, Tensor):
        return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item, size) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_to_cpu(item, size) for item in value]
        return items if isinstance(value, list) and _is_of_samples(items, size) else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_cpu(getattr(value, field.name), size) for field in dataclasses.fields(value)}
    return value


def _is_of_samples(items: list[Any], size: int | None) -> bool:
    return len(items) == size and not all(
        isinstance(item, Tensor) and item.ndim and len(item) == size for item in items
    )


def _joined(batches: list[Any]) -> Any:
    """Join what batches gave: tensors along the first axis, tuples and mappings part by part, lists end to end."""
    first = batches[0] if batches else None
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.ndim else torch.stack(batches)
    if isinstance(first, dict):
        return {key: _joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(column)) for column in zip(*batches, strict=True))
    if isinstance(first, list):
        return [item for batch in batches for item in batch]
    return batches or None
