"""What a service has to do to show a run: the protocol between `LoggerCallback` and each of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["finished", "failed", "interrupted"]


class Point(NamedTuple):
    """Numbers by name, and how many optimizer steps had been made; a row of the history has its `epoch` among them."""

    step: int
    values: dict[str, float]


class Logger(Protocol):
    """Six methods that a service needs, for `LoggerCallback`: write a class with these for one that is not here.

    `start` comes first and `end` last, both once in a fit; what comes after `end` is another `start`. Any of them may
    raise: an error of `start` ends the fit before it has begun, for all others the callback says once what failed, and
    training goes on. Handles are dropped in `end`, so that a callback can be copied and pickled.

    Example:
        >>> class Printer:
        ...     def start(self, run_id, step, config): print("start", step); return "the only run"
        ...     def scalars(self, points): print(*(f"{point.step}: {sorted(point.values)}" for point in points))
        ...     def figure(self, name, png, step): print("figure", name, len(png))
        ...     def text(self, name, text, step): print("text", name)
        ...     def file(self, path): print("file", path.name)
        ...     def end(self, status, reason): print(status, reason)
        >>> import torch
        >>> from callbacks import LoggerCallback
        >>> from learner import Learner, Loaders
        >>> dls = Loaders.from_arrays(train=(torch.zeros(4, 1), torch.zeros(4, 1)), batch_size=2)
        >>> Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss).fit(1, cbs=LoggerCallback(Printer()))
        start 1
        text model
        1: ['lr', 'train/batch_loss'] 2: ['lr', 'train/batch_loss'] 2: ['epoch', 'train/loss']
        finished None
    """

    def start(self, run_id: str | None, step: int, config: Mapping[str, Any]) -> str:
        """Begin a run, or go on with one; return its id.

        Args:
            run_id: of the run to go on with, as `start` returned it; None for a new run.
            step: the first one that there will be values of. A run that is gone on with may have values of this step
                and later ones, which a training that was stopped left and which come again.
            config: what is trained and how: numbers, strings, None, and lists and mappings of them.
        """

    def scalars(self, points: Sequence[Point]) -> None:
        """Take numbers, in the order of their steps; several points may be of one step, and may come twice."""

    def figure(self, name: str, png: bytes, step: int) -> None:
        """Take a picture, as a PNG file."""

    def text(self, name: str, text: str, step: int) -> None:
        """Take a text."""

    def file(self, path: Path) -> None:
        """Take a copy of a file."""

    def end(self, status: Status, reason: str | None) -> None:
        """End the run.

        Args:
            status: how the fit has ended.
            reason: the error of a fit that failed.
        """


class Names:
    """Names as a service takes them: each is made once, and no two are made the same.

    Args:
        make: returns a name that the service takes.

    Example:
        >>> names = Names(lambda name: name.replace("%", "_"))
        >>> names["a%"], names["a_"], names["a%"]
        ('a_', 'a__', 'a_')
    """

    def __init__(self, make: Callable[[str], str]) -> None:
        self._make = make
        self._made: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._made:
            made = self._make(name)
            while made in self._made.values():
                made += "_"
            self._made[name] = made
        return self._made[name]


def imported(module: str, extra: str) -> Any:
    """Return the module of a service.

    Raises:
        ImportError: if it is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'`{extra}` must be installed; do `pip install "learner-callbacks[{extra}]"`.') from error
