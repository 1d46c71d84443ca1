"""An optimizer as plain data: its class, what it trains, its state; compared, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from learner.checkpoint.model import describe_tensor
from learner.loop.trainable import named_parameters, other_parameters
from learner.loop.types import Learner
from learner.optim.several import kind_of, parts_of

# What torch's optimizers remember number by number: the momenta of SGD, Adam and its kind, RMSprop, Adagrad, Adadelta.
_LIKE_PARAMETERS = {
    *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "grad_avg"),
    *("sum", "acc_delta", "ax", "prev"),
}


def optimizer_state(learn: Learner) -> dict[str, Any]:
    """Return what a learner's optimizer holds, and what it is to be compared by."""
    opt: Any = learn.opt
    return {
        "class": kind_of(opt),
        "groups": _groups(learn, opt),
        "state": opt.state_dict(),
        "rates": None if learn.rates is None else learn.rates.state_dict(),
        "others": other_parameters(learn, opt),
    }


def _groups(learn: Learner, opt: Any) -> list[list[str]]:
    names = {p: name for name, p in named_parameters(learn).items()}  # of which shapes are compared elsewhere
    groups = [group["params"] for group in opt.param_groups]
    return [[names.get(p) or f"(not the model's) {describe_tensor(p)}" for p in group] for group in groups]


def optimizer_differences(learn: Learner, opt: Any, state: Mapping[str, Any]) -> list[str]:
    """Say what of an optimizer is not as the one was that a snapshot was taken of."""
    saved = state["optimizer"]
    if saved is None or opt is None:
        return []
    if (kind := kind_of(opt)) != saved["class"]:
        return [f"the optimizer is {kind} here, {saved['class']} saved"]
    now = _groups(learn, opt)
    if now == saved["groups"]:
        return _state_differences(opt, saved["state"]["state"])
    told = f"{len(now)} here, {len(saved['groups'])} saved"
    for mine, theirs in zip(now, saved["groups"], strict=False):
        if mine != theirs:
            told = f"{[name for name in mine if name not in theirs] or mine} here, "
            told += f"{[name for name in theirs if name not in mine] or theirs} saved"
            break
    return [f"the optimizer's parameter groups differ: {told}"]


def _state_differences(opt: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Say which tensors that the optimizer remembers are not of the shape that they have here, or must have.

    What it remembers here has that shape; before its first step, a momentum of torch's own classes has the parameter's.
    """
    found, state = [], opt.state
    parts = {p: part for part in parts_of(opt) for group in part.param_groups for p in group["params"]}
    for i, p in enumerate(p for group in opt.param_groups for p in group["params"]):
        is_of_torch = type(parts[p]).__module__.startswith("torch.optim")
        for key, value in saved.get(i, {}).items():
            like = state[p].get(key) if p in state else None
            if like is None and is_of_torch and key in _LIKE_PARAMETERS and not is_lazy(p):
                like = p
            if isinstance(value, Tensor) and isinstance(like, Tensor) and value.shape != like.shape:
                shapes = f"{tuple(like.shape)} here, {tuple(value.shape)} saved"
                found.append(f"the optimizer's {key!r} of parameter {i} is {shapes}")
    return found


def put_back_optimizer(learn: Learner, opt: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give an optimizer what `optimizer_state` gave."""
    with torch.no_grad():
        for parameter, value in zip(other_parameters(learn, opt), saved["others"], strict=True):
            parameter.copy_(value)
    opt.load_state_dict(saved["state"])
    # It has cast state to the parameters' dtype: momenta in float32 of parameters in bfloat16 would lose their digits.
    parameters, state = [p for group in opt.param_groups for p in group["params"]], opt.state
    for i, values in saved["state"]["state"].items():
        now = state[parameters[i]]
        for key, value in values.items():
            if isinstance(value, Tensor) and now[key].dtype != value.dtype:
                now[key] = value.to(now[key].device, copy=True)
