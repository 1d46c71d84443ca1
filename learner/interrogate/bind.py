"""Add methods to one instance of a model, and take them off again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType, TracebackType
from typing import Any, Self

from torch import nn

from learner.data.signature import checked_model
from learner.errors import LearnerError


class Bound:
    """Methods that were bound to a model; takes them off at the end of a `with` block, or by `remove()`.

    Attributes:
        names: of the methods, in the order in which they were bound.
    """

    def __init__(self, model: nn.Module, methods: dict[str, MethodType]) -> None:
        self.names = tuple(methods)
        self._model, self._methods = model, methods
        space = vars(model)
        self._before = {name: space[name] for name in methods if name in space}
        # Not by `setattr`, which would refuse the name of a module, parameter or buffer also where it may be replaced.
        space.update(methods)

    def remove(self) -> None:
        """Take the methods off, and put back what they replaced; a second time does nothing.

        Raises:
            LearnerError: if one was replaced in the meantime; then none is taken off.
        """
        space = vars(self._model)
        if covered := [name for name, method in self._methods.items() if space.get(name, method) is not method]:
            raise LearnerError(f"{covered} must be taken off last put on first, got replaced since; undo that before.")
        for name in self._methods:
            space.pop(name, None)
        space.update(self._before)
        self._methods, self._before = {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()


def bind(model: nn.Module, *functions: Callable[..., Any], replace: bool = False) -> Bound:
    """Bind plain functions as methods of this one instance; its class and other instances know nothing of them.

    They stay until the handle that is returned takes them off: leave a `with` block, or call its `remove()`. Pickle
    the model afterwards: a pickle made while they are on looks for them when it is read, and does not find them.

    Args:
        model: the instance.
        *functions: functions whose first parameter is the model; each is bound under its own name.
        replace: whether a name may be taken that the model has already, as `forward`; it is put back afterwards.

    Raises:
        TypeError: if one is no plain function.
        ValueError: if a name is given twice, or taken, or is one of a property or of Python's own, as `__len__`.

    Source:
        The idea is that of the blog post "(Ab)using Python for better debugging of pre-trained PyTorch models" (2019).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> def hidden(self, x): return self[0](x)
        >>> with bind(model, hidden):
        ...     model.hidden(torch.ones(5, 3)).shape
        torch.Size([5, 2])
        >>> hasattr(model, "hidden")
        False
    """
    checked_model(model)
    methods: dict[str, MethodType] = {}
    for function in functions:
        if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
            raise TypeError(f"`functions` must be plain functions with names, got {function!r}; use `def`.")
        name = function.__name__
        if name in methods:
            raise ValueError(f"`functions` must have names of their own, got {name!r} twice.")
        if (name.startswith("__") and name.endswith("__")) or hasattr(
            inspect.getattr_static(type(model), name, None), "__set__"
        ):
            raise ValueError(
                f"`functions` must have names that Python looks up in an instance, got {name!r}, which it takes from "
                f"the class; rename it."
            )
        if hasattr(model, name) and not replace:
            raise ValueError(
                f"`functions` must have names that the model has not, got {name!r}; rename it, or say `replace=True`."
            )
        methods[name] = MethodType(function, model)
    if not methods:
        raise ValueError("`functions` must hold a function, got none.")
    return Bound(model, methods)
