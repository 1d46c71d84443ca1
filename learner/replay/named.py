"""A function that is named in a shell, as `train.py:make_learner`, so that other processes can find it as well."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from learner.errors import LearnerError


@dataclass(frozen=True)
class NamedFunction:
    """A function without arguments at the top level of a file or a module; it is imported when it is called.

    Attributes:
        where: a file, `train.py`, or a module, `package.train`.
        name: of the function.

    Example:
        >>> NamedFunction.of("os:getcwd")() == str(Path.cwd())
        True
    """

    where: str
    name: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the function that a text names.

        Raises:
            LearnerError: if it names none.
        """
        where, _, name = text.rpartition(":")
        if not where or not name.isidentifier():
            raise LearnerError(f"a function must be named by its file, got {text!r}; do train.py:make_learner.")
        return cls(where, name)

    def find(self) -> Callable[[], Any]:
        """Import the function.

        Raises:
            LearnerError: if there is no such file or module, or no such function in it.
        """
        module = _of_file(Path(self.where)) if self.where.endswith(".py") else _of_name(self.where)
        found: Callable[[], Any] | None = getattr(module, self.name, None)
        if not callable(found):
            raise LearnerError(f"`{self.where}` must have a function {self.name!r} at its top level, which it has not.")
        return found

    def __call__(self) -> Any:
        """Call the function."""
        return self.find()()


def _of_file(path: Path) -> Any:
    """Import a file under the name that it has as a module, as Python does for a script beside it."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise LearnerError(f"a function must be in a file that is there, which `{path}` is not.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    if Path(module.__file__ or "").resolve() != path:
        raise LearnerError(
            f"`{path}` must have a name that no other module has, but {module.__file__} has it; rename it."
        )
    return module


def _of_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # it lacks something itself
            raise
        raise LearnerError(f"a function must be in a module that is there, which {name!r} is not: {error}.") from None
