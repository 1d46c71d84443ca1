"""How many steps a schedule is made for: whether it asks for that number, and what a fit has to answer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from learner import Learner, LearnerError
from learner.data.loaders import role_of
from learner.data.wrapper import length_of

_COUNTS = ("total_steps", "T_max", "num_training_steps")  # what schedules call their number of steps
_OTHER_COUNTS = ("epochs", "steps_per_epoch")  # from which OneCycleLR works it out


def open_count(make: Callable[..., Any]) -> str | None:
    """Return the parameter of `make` that asks for the number of steps and has no value yet, or None.

    Args:
        make: will be called as `make(opt)`, with that parameter by name.

    Raises:
        TypeError: if `make` cannot be called so.

    Example:
        >>> from functools import partial
        >>> from torch.optim.lr_scheduler import CosineAnnealingLR
        >>> open_count(CosineAnnealingLR), open_count(partial(CosineAnnealingLR, T_max=10))
        ('T_max', None)
    """
    try:
        signature = inspect.signature(make)
    except ValueError:  # a builtin has none
        return None
    parameters = signature.parameters
    has_value = {n for n, p in parameters.items() if p.default not in (inspect.Parameter.empty, None)}
    is_counted = any(name in has_value for name in _OTHER_COUNTS)
    count = next((n for n in _COUNTS if n in parameters and n not in has_value and not is_counted), None)
    try:
        signature.bind("opt", **({count: 1} if count else {}))
    except TypeError as error:
        raise TypeError(
            f"`make` must be called as make(opt), got {getattr(make, '__name__', make)}{signature}: {error}; "
            f"give the rest with functools.partial."
        ) from None
    return count


def count_steps(learn: Learner, each: Literal["batch", "epoch"], name: str) -> int:
    """Return how many steps a schedule makes in a fit; 1 for a fit of none, since no schedule is made for 0 steps.

    Args:
        learn: a learner at the start of a fit.
        each: what a step of the schedule is.
        name: the parameter that gets the number, for the error.

    Raises:
        LearnerError: if the epochs or a training loader have no length.
    """
    if learn.steps is not None and each == "batch":
        return learn.steps
    n_epochs = length_of(learn.epochs)  # a callback may have replaced them
    if n_epochs is None:
        raise LearnerError(_must_be_given(name, "`learn.epochs`"))
    n_steps = 1 if each == "epoch" else _steps_per_epoch(learn, name)
    return max(1, n_epochs * n_steps)


def _steps_per_epoch(learn: Learner, name: str) -> int:
    """Return how many optimizer steps the training loaders make; the last one of a pass may have fewer batches."""
    n_steps = 0
    for loader, dl in learn.dls.items():
        if role_of(loader) == "train":
            n_batches = length_of(dl)
            if n_batches is None:
                raise LearnerError(_must_be_given(name, f"loader {loader!r}"))
            n_steps += math.ceil(n_batches / learn.batches_per_step)
    return n_steps


def _must_be_given(name: str, what: str) -> str:
    return f"`{name}` of the schedule must be given, since {what} has no length; do `partial(..., {name}=n)`."
