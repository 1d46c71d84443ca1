"""A learner in words: what it trains, on what, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from learner.data.loaders import Loaders
from learner.data.wrapper import length_of
from learner.loop.types import Learner
from learner.optim.several import kind_of


def describe_learner(learn: Learner) -> str:
    """Return what a learner is made of and what it has done, a line each."""
    return "\n  ".join([f"{type(learn).__name__}: {_model(learn.model)}", *_parts(learn)])


def _parts(learn: Learner) -> Iterator[str]:
    yield f"data: {', '.join(f'{name} ({_length(dl)})' for name, dl in Loaders.of(learn.dls).items())}"
    yield f"loss: {f'made by {_maker_of_loss(learn)}' if learn.loss_f is None else _name(learn.loss_f)}"
    yield f"optimizer: {_name(learn.opt_func) if learn.opt is None else kind_of(learn.opt)}, {_rates(learn)}"
    yield f"callbacks: {', '.join(type(cb).__name__ for cb in learn.cbs) or 'none'}"
    done = f"{_count(len(learn.history), 'epoch')}, {_count(learn.n_steps, 'step')}"
    yield f"trained: {done}" if learn.n_steps else "not trained yet"


def _model(model: nn.Module) -> str:
    parameters = list(model.parameters())
    if any(is_lazy(parameter) for parameter in parameters):
        return f"{type(model).__name__}, parameters not made yet"
    total = sum(parameter.numel() for parameter in parameters)
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    return f"{type(model).__name__}, {_count(total, 'parameter')}" + (f", {frozen:,} of them frozen" if frozen else "")


def _maker_of_loss(learn: Learner) -> str:
    """Return who makes the loss where there is no function for it: a callback, a subclass of Learner, or the model."""
    owner, _ = learn._dispatch.actions.get("get_loss", (None, ()))
    if owner is not None:
        return type(owner).__name__
    subclasses = [base for base in type(learn).__mro__ if base.__module__ != "learner.learner"]
    makes_it = any("get_loss" in vars(base) for base in subclasses)
    return type(learn).__name__ if makes_it else "the model"


def _rates(learn: Learner) -> str:
    """Return the rates now while a fit runs, else those that the next one begins with: a schedule ends at others."""
    known = learn.rates
    if learn.opt is None:
        rates = [learn.lr]
    elif learn._is_fitting or known is None or known.opt is not learn.opt:
        rates = [float(group["lr"]) for group in learn.opt.param_groups]
    else:
        rates = known.of_next_fit(learn.lr)
    return f"lr {', '.join(f'{rate:g}' for rate in dict.fromkeys(rates))}"


def _length(dl: Any) -> str:
    length = length_of(dl)
    return "no length" if length is None else _count(length, "batch", "batches")


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _name(function: Any) -> str:
    """Return what a person calls a function, a class, a module or a partial of one."""
    function = getattr(function, "func", function)
    return str(getattr(function, "__name__", type(function).__name__))
