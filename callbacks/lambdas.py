"""Callbacks from plain functions, for what is not worth a class."""

import difflib
from collections.abc import Callable
from typing import Any

from learner import Callback
from learner.loop.naming import HANDLERS, check_handler


class LambdaCallback(Callback):
    """Call functions at signals: `LambdaCallback(after_batch=lambda learn: print(learn.loss))`.

    Any signal will do, one that a Learner subclass declares as well. An action (`step=...`) is taken over, as by any
    callback, and `around_step=lambda learn, action: ...` wraps it. Set `order` on the callback to move it.

    Args:
        functions: by signal; each takes the learner.

    Raises:
        ValueError: for a name that is no signal; names the nearest one.
        TypeError: for a function that cannot be called with the learner alone.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from learner import Learner, Loaders
        >>> dls = Loaders.from_arrays(train=(torch.zeros(4, 1), torch.zeros(4, 1)))
        >>> tell = LambdaCallback(after_epoch=lambda learn: print(f"epoch {learn.epoch}, {learn.dl_name}"))
        >>> Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=tell).fit(2)
        epoch 0, train
        epoch 1, train
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            if name not in HANDLERS:
                nearest = difflib.get_close_matches(name, HANDLERS, n=1, cutoff=0.0)[0]
                raise ValueError(f"a function must be given by the name of a signal, got {name!r}; is it {nearest!r}?")
            if not callable(function):
                raise TypeError(f"`{name}` must be a function, got {function!r}.")
            check_handler(type(self).__name__, name, function)
            setattr(self, name, function)
