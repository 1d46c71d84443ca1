"""Metrics that are objects with `reset`, `update` and `compute`: what they have gathered, as data for a checkpoint."""

from __future__ import annotations

from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

# Attributes of a metric object that are how it was made, and no part of what it has gathered.
_FIXED = (FunctionType, BuiltinFunctionType, MethodType, partial, type, torch.device, torch.dtype)
_OF_MODULES = vars(nn.Module()).keys() - {"_buffers"}


def is_object(metric: Any) -> bool:
    """Tell whether something is such an object."""
    return all(hasattr(metric, name) for name in ("reset", "update", "compute"))


def state_of(metric: Any) -> dict[str, Any]:
    """Return what an object has gathered."""
    if _has_state(metric):
        return {"state": metric.state_dict()}
    return {"parts": {path: _gathered(part) for path, part in _parts_of(metric).items()}}


def put_back(metric: Any, saved: dict[str, Any]) -> None:
    """Give an object what `state_of` returned of it, or of one like it."""
    if _has_state(metric):
        metric.load_state_dict(saved["state"])
        return
    for path, part in _parts_of(metric).items():
        others = set(dir(part)) - _gathered(part).keys()  # which no file may set
        for name, value in saved["parts"][path].items():
            if name not in others:
                setattr(part, name, value)


def _has_state(metric: Any) -> bool:
    """Tell whether an object has a state dict that is about it: a module's own, and torchmetrics', leaves most out."""
    is_bare = isinstance(metric, nn.Module) and type(metric).state_dict is nn.Module.state_dict
    has_both = hasattr(metric, "state_dict") and hasattr(metric, "load_state_dict")
    return has_both and not is_bare and not hasattr(metric, "metric_state")


def _parts_of(metric: Any) -> dict[str, Any]:
    return dict(metric.named_modules()) if isinstance(metric, nn.Module) else {"": metric}


def _gathered(part: Any) -> dict[str, Any]:
    """Return the attributes in which an object may keep what it has seen."""
    attributes = vars(part)
    if (states := getattr(part, "metric_state", None)) is not None:  # of torchmetrics; the rest is how it was made
        return {n: v for n, v in attributes.items() if n in states or isinstance(v, Tensor) or type(v) in (int, float)}
    left_out = _OF_MODULES if isinstance(part, nn.Module) else ()
    return {n: v for n, v in attributes.items() if n not in left_out and not isinstance(v, _FIXED)}
