"""Keep what a pass predicts: the callback behind `Learner.get_preds`."""

from __future__ import annotations

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
    if isinstance(value, tuple | list):
        return tuple(_to_cpu(item) for item in value)
    return value


def _joined(parts: list[Any]) -> Any:
    if not parts:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(parts) if parts[0].ndim else torch.stack(parts)
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(_joined(list(column)) for column in zip(*parts, strict=True))
    return parts
