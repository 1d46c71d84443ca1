"""Methods of a learner that another package brings: announced by name, read when they are called first."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from learner.errors import LearnerError

_MODULES: dict[str, str] = {}


def announce(method: str, module: str) -> None:
    """Say in which module a method of `Learner` is, a function of the same name that takes the learner first."""
    _MODULES[method] = module


def extension(method: str) -> Callable[..., Any]:
    """Return the function that was announced for a method.

    Raises:
        LearnerError: if none was.
    """
    if method not in _MODULES:
        raise LearnerError(f"`{method}` must be brought by the callbacks; do `import callbacks` first.")
    return getattr(import_module(_MODULES[method]), method)  # type: ignore[no-any-return]
