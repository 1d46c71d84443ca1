"""Optimizers that ask for the loss again within a step, as L-BFGS does, and what cannot go with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learner.errors import LearnerError
from learner.loop.types import Learner
from learner.optim.several import kind_of, parts_of

# What the first forward of a batch has left, of which metrics and history are.
_OF_FIRST_FORWARD = ("output", "preds", "loss", "weight", "_logged")


def needs_closure(opt: Optimizer | None) -> bool:
    """Tell whether the `step` of an optimizer cannot be called without a closure.

    Example:
        >>> from torch import nn
        >>> needs_closure(torch.optim.LBFGS(nn.Linear(1, 1).parameters()))
        True
        >>> needs_closure(torch.optim.SGD(nn.Linear(1, 1).parameters()))
        False
    """
    parts = [] if opt is None else parts_of(opt)
    parameters = [inspect.signature(type(part).step).parameters.get("closure") for part in parts]
    return any(closure is not None and closure.default is inspect.Parameter.empty for closure in parameters)


def refuse_closure(learn: Learner, who: str, reason: str) -> None:
    """Refuse an optimizer that needs a closure, beside a callback that cannot work with one.

    Raises:
        LearnerError: if so; names both.
    """
    if learn.opt is not None and needs_closure(learn.opt):
        raise LearnerError(
            f"{who} must have an optimizer that makes its step from one gradient, got {kind_of(learn.opt)}, "
            f"which asks for the loss again within a step{reason}; take another optimizer, or leave {who} out."
        )


def make_closure(learn: Learner) -> Callable[[], Tensor]:
    """Return what gives an optimizer the loss of this batch, and leaves its gradients.

    The first call gives the loss that is there, whose gradients are, too; each later one makes both anew.
    """
    is_first = True

    def closure() -> Tensor:
        nonlocal is_first
        if not is_first:
            learn.zero_grad()
            evaluate_again(learn)
        is_first = False
        return learn.loss.detach()  # type: ignore[no-any-return]

    return closure


@contextmanager
def first_forward_kept(learn: Learner) -> Iterator[None]:
    """Give output, predictions, loss and what was logged back as they were before the batch was evaluated again."""
    before = {name: getattr(learn, name) for name in _OF_FIRST_FORWARD}
    try:
        yield
    finally:
        vars(learn).update(before)


def forget_loss(learn: Learner) -> None:
    """Drop what the loss of this batch has left besides itself: its weight, and what was logged with it."""
    vars(learn).update(weight=None, _logged=[])


def evaluate_again(learn: Learner) -> None:
    """Predict, take the loss and add its gradients, as the loop has done for this batch, callbacks included.

    `after_predict` and `after_loss` are emitted, since a callback may change the loss there; what is logged is not
    counted twice.
    """
    forget_loss(learn)
    with torch.enable_grad():
        learn.predict()
        learn.callback("after_predict")
        learn.get_loss()
        learn.callback("after_loss")
        learn.backward()


def step_with_closure(learn: Learner) -> None:
    """Let the optimizer make a step, asking for the loss as often as it likes.

    Raises:
        LearnerError: if it is one of several, of which nobody knows whose loss it wants.
    """
    opt: Any = learn.opt
    if parts_of(opt) != [opt]:
        raise LearnerError(
            f"`opt` must be one optimizer to ask for the loss within a step, got {kind_of(opt)}; step each yourself, "
            f"with a closure of its own, in a callback that has a method `step`."
        )
    with first_forward_kept(learn):
        opt.step(make_closure(learn))
