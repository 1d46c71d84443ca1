"""Keep what a pass predicts: the callback behind `Learner.get_preds`."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from learner.callback import Callback

if TYPE_CHECKING:
    from learner.learner import Learner


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
        self._preds.append(_to_cpu(learn.preds))
        if learn.yb is not None:
            self._targets.append(_to_cpu(learn.yb))

    def result(self) -> tuple[Any, Any]:
        """Return predictions and targets, each joined along the first axis; None where there was none."""
        return _joined(self._preds), _joined(self._targets)


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_to_cpu(item) for item in value)
    if isinstance(value, list):
        return [_to_cpu(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_cpu(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def _joined(batches: list[Any]) -> Any:
    """Join what batches gave: tensors along the first axis, tuples and mappings part by part, lists end to end."""
    first = batches[0] if batches else None
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.ndim else torch.stack(batches)
    if isinstance(first, dict):
        return {key: _joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple) or (isinstance(first, list) and all(map(_is_of_parts, batches))):
        return tuple(_joined(list(column)) for column in zip(*batches, strict=True))
    if isinstance(first, list):
        return [item for batch in batches for item in batch]
    return batches or None


def _is_of_parts(values: list[Any]) -> bool:
    """Tell whether a list holds whole parts, tensors of one length, as collating tuples makes it; else samples."""
    if not all(isinstance(value, Tensor) and value.ndim for value in values):
        return False
    return len({len(value) for value in values}) == 1
