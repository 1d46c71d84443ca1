"""A model as plain data: weights, all buffers, train/eval and `requires_grad` flags; compared, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.interrogate.layers import inside
from learner.loop.types import Learner


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return all that a model holds, of wrappers nothing; tensors are the live ones."""
    inner = inside(model)
    saved = inner.state_dict()
    return {
        "state": dict(saved),
        "other_buffers": {name: buffer for name, buffer in inner.named_buffers() if name not in saved},
        "no_buffers": _no_buffers(inner),
        "training": {name: module.training for name, module in inner.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in inner.named_parameters()},
    }


def _no_buffers(model: nn.Module) -> list[str]:
    """Return the names of buffers that are None, as a cache is before its first use."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is None
    ]


def loss_module(learn: Learner) -> nn.Module | None:
    """Return the loss if it is a module with parameters or buffers."""
    loss = learn.loss_f
    return loss if isinstance(loss, nn.Module) and any(True for _ in (*loss.parameters(), *loss.buffers())) else None


def loss_differences(loss: nn.Module | None, saved: Mapping[str, Any] | None) -> list[str]:
    """Say what of a loss that is a module is not as it was saved."""
    if loss is None and saved is None:
        return []
    if loss is None or saved is None:
        return ["`loss_f` is a module with parameters or buffers on one side alone"]
    return model_differences("loss_f", loss, saved)


def model_differences(what: str, model: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    """Say what of a model, called `what`, is not as the one was that `model_state` was taken of."""
    now = model_state(model)
    may_be_new = {*now["no_buffers"], *saved["no_buffers"]}
    found = []
    for part in ("state", "other_buffers"):
        mine, theirs = _shapes(now[part]), _shapes(saved[part])
        for name in dict.fromkeys((*theirs, *mine)):
            here, there = mine.get(name, "missing"), theirs.get(name, "missing")
            if here not in (there, "lazy") and not ("missing" in (here, there) and name in may_be_new):
                found.append(f"{what}: {name!r} is {here} here, {there} saved")
    missing = saved["training"].keys() ^ now["training"].keys()
    return found + [f"{what}: module {name!r} is on one side alone" for name in sorted(missing)]


def _shapes(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: describe_tensor(value) if isinstance(value, Tensor) else "extra state" for name, value in tensors.items()
    }


def describe_tensor(tensor: Tensor) -> str:
    """Return type and shape of a tensor in a few letters."""
    return "lazy" if is_lazy(tensor) else f"{tensor.dtype} {tuple(tensor.shape)}"


def put_back_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Give a model what `model_state` gave."""
    inner = inside(model)
    _put_back_missing_buffers(inner, {**saved["other_buffers"], **saved["state"]})
    inner.load_state_dict(saved["state"])
    buffers = dict(inner.named_buffers())
    with torch.no_grad():
        for name, value in saved["other_buffers"].items():
            buffers[name].copy_(value)
    put_back_training(model, saved["training"])
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(saved["requires_grad"][name])


def _put_back_missing_buffers(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Let buffers be None, or be there, as they were."""
    device = next((p.device for p in model.parameters()), None)
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            value = saved.get(f"{prefix}.{name}" if prefix else name)
            if (buffer is None) != (value is None):
                module._buffers[name] = None if value is None else value.to(device, copy=True)


def put_back_training(model: nn.Module, saved: Mapping[str, bool]) -> None:
    """Set the train/eval flags that are given, by the name of the module; a wrapper has that of what it wraps."""
    inner = inside(model)
    for name, module in inner.named_modules():
        module.training = saved.get(name, module.training)
    model.training = inner.training
