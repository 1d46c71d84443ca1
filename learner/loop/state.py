"""Snapshot and restore: what a pass must not disturb, and what a sandbox puts back.

`preserved_rng` and `pass_mode` guard a pass; `remember` and `remember_training` take a snapshot and return the
function that puts it back.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, singledispatch
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.data.generators import preserved_rng, remember_rng
from learner.data.loaders import Loaders
from learner.errors import LearnerError
from learner.loop.exported import exports_passed_over
from learner.loop.trainable import other_parameters
from learner.loop.types import Learner
from learner.optim.several import parts_of

Restore = Callable[[], Any]


def put_back_modes(flags: Iterable[tuple[nn.Module, bool]]) -> None:
    """Set the train/eval flag of each module."""
    for module, training in flags:
        module.training = training


@contextmanager
def pass_mode(model: nn.Module, loader: Any, *, training: bool) -> Iterator[list[tuple[nn.Module, bool]]]:
    """Run a pass in the right mode and leave no trace of it; give the flags as they are outside of it.

    Training: gradients on; flags as the user set them, unless the whole model is in eval mode, which is then
    lifted for the pass (a frozen batch norm stays frozen). Else: no gradients, eval mode, and the flags and
    every random generator are put back, so that looking at a model never changes what is trained. A model that
    a callback puts in the place of this one is put back as well, where `set_mode` has added its flags.
    """
    flags: list[tuple[nn.Module, bool]] = []
    n_kept = set_mode(model, flags, training=training)
    try:
        if training:
            with torch.enable_grad():
                yield flags
        else:
            with torch.no_grad(), preserved_rng([loader]):
                yield flags
    finally:
        put_back_modes(flags[n_kept:])


def set_mode(model: nn.Module, flags: list[tuple[nn.Module, bool]], *, training: bool) -> int:
    """Set the mode of a model for a pass; add to `flags` what they were, return how many of them stay as they are.

    A module that `torch.export` made has the mode of its export for good.
    """
    own = [(module, module.training) for module in model.modules()]
    flags += own
    if training and any(is_training for _, is_training in own):
        return len(own)
    with exports_passed_over((module for module, _ in own), training=training):
        model.train(training)
    return 0


@singledispatch
def remember(value: Any) -> Restore:
    """Take down plain containers, tensors, generators and things with a state dict; return what gives it back.

    Containers and tensors are put back *in place*, so whoever else holds them sees the old content too.
    Anything else is given back as the same object.
    """
    if hasattr(value, "bit_generator"):  # NumPy's; to name its class would import numpy.random, 5 ms
        state = copy.deepcopy(value.bit_generator.state)
        return _after(lambda: setattr(value.bit_generator, "state", state), value)
    if hasattr(value, "load_state_dict") and hasattr(value, "state_dict") and not isinstance(value, type):
        state = copy.deepcopy(value.state_dict())
        return _after(lambda: value.load_state_dict(copy.deepcopy(state)), value)
    return lambda: value


def _after(put_back: Callable[[], object], value: Any) -> Restore:
    def restore() -> Any:
        put_back()
        return value

    return restore


@remember.register
def _(value: Tensor) -> Restore:
    data = value.detach().clone()
    if any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True)):
        return lambda: data  # an expanded view cannot be written to

    def put_back() -> None:
        with torch.no_grad():
            value.copy_(data)

    return _after(put_back, value)


@remember.register
def _(value: np.ndarray) -> Restore:
    return _after(partial(np.copyto, value, value.copy()), value)


@remember.register(list)
@remember.register(deque)
def _(value: Any) -> Restore:
    items = [remember(item) for item in value]

    def put_back() -> None:
        old = [item() for item in items]
        value.clear()
        value.extend(old)

    return _after(put_back, value)


@remember.register(dict)
def _(value: dict[Any, Any]) -> Restore:
    items = {key: remember(item) for key, item in value.items()}

    def put_back() -> None:
        old = {key: item() for key, item in items.items()}
        value.clear()
        value.update(old)

    return _after(put_back, value)


@remember.register(set)
def _(value: set[Any]) -> Restore:
    members = set(value)

    def put_back() -> None:
        value.clear()
        value.update(members)

    return _after(put_back, value)


@remember.register(tuple)
def _(value: tuple[Any, ...]) -> Restore:
    if type(value) is not tuple:
        return lambda: value
    items = [remember(item) for item in value]
    return lambda: tuple(item() for item in items)


@remember.register
def _(value: torch.Generator) -> Restore:
    return _after(partial(value.set_state, value.get_state()), value)


@remember.register
def _(value: random.Random) -> Restore:
    return _after(partial(value.setstate, value.getstate()), value)


def _remember_unless(value: Any, apart: Collection[Tensor]) -> Restore:
    if isinstance(value, Tensor) and value in apart:
        return lambda: value
    return remember(value)


def remember_model(model: nn.Module, apart: Collection[Tensor] = frozenset()) -> Restore:
    """Take down parameters, all buffers, gradients, `requires_grad` and modes; return what puts them back.

    Args:
        model: the model.
        apart: a set of tensors whose values need not be put back.

    Raises:
        LearnerError: if a layer is lazy and has not run yet, for nothing puts that back.
    """
    if lazy := [name for name, t in chain(model.named_parameters(), model.named_buffers()) if is_lazy(t)]:
        more = ", ..." if len(lazy) > 5 else ""
        raise LearnerError(
            f"`model` must have its final parameters before a sandbox can put them back, got lazy ones that have not "
            f"seen a batch: {', '.join(map(repr, lazy[:5]))}{more}; call the model on a batch first, `learn.model(x)`."
        )
    modes = [(module, module.training) for module in model.modules()]
    parameters = [
        (p, _remember_unless(p, apart), p.requires_grad, p.grad, remember(p.grad)) for p in model.parameters()
    ]
    # Buffers may be rebound in forward, so they go back by name; the persistent ones and the others alike.
    buffers = [(m, n, _remember_unless(b, apart)) for m in model.modules() for n, b in m._buffers.items()]

    def restore() -> None:
        put_back_modes(modes)
        for parameter, data, requires_grad, grad, old_grad in parameters:
            data()
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
            old_grad()
        for module, name, buffer in buffers:
            module._buffers[name] = buffer()

    return restore


def remember_optimizer(opt: torch.optim.Optimizer, apart: Collection[Tensor] = frozenset()) -> Restore:
    """Take down an optimizer's state and groups exactly, casting nothing; return what puts them back.

    Args:
        opt: the optimizer.
        apart: a set of tensors whose values need not be put back.
    """
    parts = [_remember_one(part, apart) for part in parts_of(opt)]

    def restore() -> None:
        for part in parts:
            part()

    return restore


def _remember_one(opt: torch.optim.Optimizer, apart: Collection[Tensor]) -> Restore:
    state = {p: {k: _remember_unless(v, apart) for k, v in values.items()} for p, values in opt.state.items()}
    groups = [{k: remember(v) for k, v in g.items() if k != "params"} for g in opt.param_groups]

    def restore() -> None:
        opt.state.clear()
        opt.state.update({p: {k: v() for k, v in values.items()} for p, values in state.items()})
        del opt.param_groups[len(groups) :]
        for group, saved in zip(opt.param_groups, groups, strict=True):
            for key in group.keys() - saved.keys() - {"params"}:
                del group[key]
            group.update({key: value() for key, value in saved.items()})

    return restore


def remember_trained(
    learn: Learner, *, skips_lazy: bool = False, apart: Collection[Tensor] = frozenset()
) -> list[Restore]:
    """Take down model, loss and optimizer, with what it trains besides; return what puts each of them back.

    Args:
        learn: the learner.
        skips_lazy: whether a module with lazy layers, which nothing puts back, is left out; else it is an error.
        apart: a set of tensors whose values need not be put back.
    """
    modules = [learn.model, *([learn.loss_f] if isinstance(learn.loss_f, nn.Module) else [])]
    if skips_lazy:
        modules = [module for module in modules if not any(map(is_lazy, module.parameters()))]
    parts = [remember_model(module, apart) for module in modules]
    if learn.opt is not None:
        others = nn.ParameterList(other_parameters(learn, learn.opt))
        parts += [remember_model(others, apart), remember_optimizer(learn.opt, apart)]
    return parts


def remember_learner(learn: Learner, by_reference: Iterable[str]) -> Restore:
    """Take down all that training touches; return what puts it back.

    Args:
        learn: the learner.
        by_reference: attributes that training replaces and never changes in place.
    """
    whole = dict(vars(learn))
    apart = {"model", "opt", "_outside", "dls", "loss_f", "opt_func", "predictor", *by_reference}
    kept = {name: remember(value) for name, value in whole.items() if name not in apart}
    parts = [remember_rng(Loaders.of(learn.dls).values()), *remember_trained(learn)]
    parts += [remember(vars(cb)) for cb in learn.cbs if hasattr(cb, "__dict__")]

    def restore() -> None:
        vars(learn).clear()
        vars(learn).update(whole)
        vars(learn).update({name: give() for name, give in kept.items()})
        for part in reversed(parts):
            part()

    return restore
