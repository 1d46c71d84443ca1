"""Metrics that are objects with `reset`, `update` and `compute`: what they have gathered, as data for a checkpoint."""

from __future__ import annotations

from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from learner import LearnerError

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


def joined(name: str, metrics: list[Any]) -> Any:
    """Return an object that has gathered all that several of one kind have, each on a share of the data.

    Args:
        name: of the metric, for an error.
        metrics: at least one; they are used up.

    Raises:
        LearnerError: if they are neither of torchmetrics nor have a `merge_state`.
    """
    first, *others = metrics
    if not others:
        return _alone(first)
    if _is_of_torchmetrics(first):
        return _synchronised(metrics)
    if not hasattr(first, "merge_state"):
        raise LearnerError(
            f"metric `{name}` must be one that can be joined, where several processes have each seen a share of the "
            f"data, got a {type(first).__name__}; give it `merge_state(others)`, which takes over what others have "
            f"gathered, as torcheval's have."
        )
    first.merge_state(others)
    return first


def joined_state(name: str, metrics: list[Any]) -> dict[str, Any]:
    """Return what `state_of` gives of an object that has gathered all that several have; raises as `joined`."""
    one = joined(name, metrics)
    for part in _parts_of(one).values():
        if _is_of_torchmetrics(part) and len(metrics) > 1:
            lists = [key for key, value in part.metric_state.items() if isinstance(value, list)]
            part.sync(dist_sync_fn=part.dist_sync_fn, distributed_available=lambda: True)
            for key in lists:  # which are joined to one tensor, and would not take more
                value = getattr(part, key)
                setattr(part, key, value if isinstance(value, list) else [value])
    return state_of(one)


def _is_of_torchmetrics(metric: Any) -> bool:
    return hasattr(metric, "dist_sync_fn") and hasattr(metric, "metric_state")


def _alone(metric: Any) -> Any:
    """Let an object of torchmetrics not ask other processes by itself."""
    for part in _parts_of(metric).values():
        if _is_of_torchmetrics(part):
            part.distributed_available_fn = lambda: False
    return metric


def _synchronised(metrics: list[Any]) -> Any:
    """Return the first object, which finds at `compute`, as torchmetrics asks for it, what the others have gathered.

    Torchmetrics calls `dist_sync_fn` with one tensor of its state after the other; what each object would send is
    listened to first.
    """
    every = [_parts_of(metric) for metric in metrics]
    for path, part in every[0].items():
        if _is_of_torchmetrics(part):
            part.dist_sync_fn = _Answers([_sent(parts[path]) for parts in every])
            part.distributed_available_fn = lambda: True
    return metrics[0]


def _sent(part: Any) -> list[Tensor]:
    """Return the tensors that an object of torchmetrics would send to others, in order."""
    sent: list[Tensor] = []

    def listen(tensor: Tensor, group: Any = None) -> list[Tensor]:
        sent.append(tensor)
        return [tensor]

    part.sync(dist_sync_fn=listen, distributed_available=lambda: True)
    part.unsync()
    return sent


class _Answers:
    """What the others send, for one tensor after the other."""

    def __init__(self, sent: list[list[Tensor]]) -> None:
        if len({len(one) for one in sent}) > 1:
            raise LearnerError(
                "metrics of torchmetrics must gather as many parts in each process to be joined, got "
                f"{[len(one) for one in sent]}; use one whose state has a `dist_reduce_fx`."
            )
        self._columns = iter([list(column) for column in zip(*sent, strict=True)])

    def __call__(self, tensor: Tensor, group: Any = None) -> list[Tensor]:
        return next(self._columns)
