"""What a capture changes of a model besides its hooks, and how that is put back in whatever order captures end."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

from torch import nn

from learner.interrogate.hooks import after_copy

_lock = Lock()
_devices: dict[nn.Module, tuple[int, Any]] = {}  # for how many captures a module is on one, and its own


class Stoppable(Protocol):
    """What is told of a forward that no hook of the model tells of."""

    @property
    def is_in_forward(self) -> bool:
        """Whether a forward of the model was told of."""

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hear that a forward begins."""

    def end(self) -> None:
        """Hear that it has ended."""


class Stop(BaseException):  # so that no `except Exception` of a model keeps it
    """All was seen that a capture wanted to see."""

    def __init__(self, capture: Stoppable) -> None:
        self.capture = capture


class _Shortened:
    """A forward that gives None where a capture stops it; once that has ended, the forward that it stands for."""

    def __init__(self, module: nn.Module, capture: Stoppable) -> None:
        self._forward: Callable[..., Any] = module.forward
        functools.update_wrapper(self, self._forward, updated=())
        self.own = vars(module).get("forward")
        self.is_over = False
        self._capture, self._module_id = capture, id(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        capture = self._capture
        is_bare = not self.is_over and not capture.is_in_forward  # `model.forward(x)` calls no hooks of the model
        if is_bare:
            capture.begin(args, kwargs)
        try:
            return self._forward(*args, **kwargs)
        except Stop as stop:
            if stop.capture is not capture:
                raise
            capture.end()
            return None
        finally:
            if is_bare:
                capture.end()

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any] | None:
        """Stay out of a copy of the module, which would run the forward of this one."""
        if self.own is None:
            after_copy(memo, self._module_id, lambda module: vars(module).pop("forward"))
        return copy.deepcopy(self.own, memo)


@contextmanager
def ending_early(module: nn.Module, capture: Stoppable) -> Iterator[None]:
    """Have the forward of a module give None where a capture stops it."""
    space = vars(module)
    with _lock:
        shortened = space["forward"] = _Shortened(module, capture)
    try:
        yield
    finally:
        with _lock:
            shortened.is_over = True
            # One that began later may be there still; it takes off this one when it ends.
            while isinstance(top := space.get("forward"), _Shortened) and top.is_over:
                del space["forward"]
                if top.own is not None:
                    space["forward"] = top.own


@contextmanager
def on_one_device(model: nn.Module) -> Iterator[None]:
    """Have `DataParallel` use its first device: of replicas nobody knows which sees which samples."""
    split = [module for module in model.modules() if isinstance(module, nn.DataParallel)]
    with _lock:
        for module in split:
            n_users, own = _devices.get(module, (0, module.device_ids))
            _devices[module] = n_users + 1, own
            module.device_ids = own[:1]
    try:
        yield
    finally:
        with _lock:
            for module in split:
                n_users, own = _devices.pop(module)
                if n_users > 1:
                    _devices[module] = n_users - 1, own
                else:
                    module.device_ids = own
