"""Scalars over time in a file of JSON lines: what was logged before a crash can be read after it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from learner.data.batch import describe
from learner.errors import LearnerError
from learner.records.files import opened, writing

AXES = ("step", "iteration", "epoch")  # the finest first
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # JSON has no numbers for them

Number = int | float


class Series(NamedTuple):
    """Values of one name, in the order in which they were logged.

    Attributes:
        axis: what `x` is: "epoch", "iteration" or "step" where that was given, else "index", a count from 0.
        x: where on the axis each value is.
        values: the values, to the last digit as they were given.
    """

    axis: str
    x: list[Number]
    values: list[Number]


class ScalarFile:
    r"""A file with a line per row of scalars; each row is there as soon as it was added.

    A line is strict JSON, so NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity". A last line that
    was cut short, as by a kill, is passed over, and taken off by the next row.

    Args:
        path: the file, made with the first row.

    Raises:
        LearnerError: if the file cannot be written, or holds something else than such lines.

    Example:
        >>> import tempfile
        >>> file = ScalarFile(Path(tempfile.mkdtemp()) / "scalars.jsonl")
        >>> file.append(checked_scalars({"epoch": 0, "loss": math.inf}))
        >>> file.path.read_text(), file.rows()
        ('{"epoch": 0, "loss": "Infinity"}\n', [{'epoch': 0, 'loss': inf}])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_whole = False

    def append(self, row: Mapping[str, Number]) -> None:
        """Add a row, as `checked_scalars` gives it."""
        line = json.dumps({name: _encoded(value) for name, value in row.items()}, allow_nan=False)
        with writing(self.path):
            if not self._is_whole:
                self._mend()
            self._is_whole = False  # until the line is there as a whole
            with opened(self.path, "ab") as file:
                file.write(f"{line}\n".encode())
            self._is_whole = True

    def _mend(self) -> None:
        """Make the file end with a whole line, or the next one would be lost with the torn one."""
        with suppress(FileNotFoundError), opened(self.path, "r+b") as file:
            data = file.read()
            end = data.rfind(b"\n") + 1
            if data[end:]:
                file.truncate(end)

    def rows(self) -> list[dict[str, Number]]:
        """Return what was logged, a dict each time."""
        try:
            with opened(self.path) as file:
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LearnerError(f"`{self.path}` must be a file that can be read, got {error}.") from error
        lines = data.split(b"\n")[:-1]  # after the last line break comes what is torn, or nothing
        return [self._decoded(i, line) for i, line in enumerate(lines, start=1)]

    def _decoded(self, i: int, line: bytes) -> dict[str, Number]:
        try:
            row = json.loads(line)
            return {name: value if isinstance(value, int | float) else _SPECIAL[value] for name, value in row.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise LearnerError(
                f"`{self.path}` must hold a JSON object of numbers in each line, got {line[:40]!r} in line {i}; was it "
                f"edited? Take that line out."
            ) from error

    def series(self) -> dict[str, Series]:
        """Return what was logged by name; the values of a name that came with another axis too as "name by axis"."""
        found: dict[str, Series] = {}
        for row in self.rows():
            axis = axis_of(row)
            for name in (name for name in row if name not in AXES):
                series = _series_of(found, name, axis or "index")
                series.x.append(row[axis] if axis else len(series.x))
                series.values.append(row[name])
        return found


def _series_of(found: dict[str, Series], name: str, axis: str) -> Series:
    first = found.setdefault(name, Series(axis, [], []))
    return first if first.axis == axis else found.setdefault(f"{name} by {axis}", Series(axis, [], []))


def axis_of(names: Iterable[str]) -> str | None:
    """Return which of the names is the axis: the finest of epoch, iteration and step; None if there is none."""
    return next((axis for axis in AXES if axis in names), None)


def checked_scalars(values: Any) -> dict[str, Number]:
    """Return scalars by name as Python's own numbers, or say what is none.

    Raises:
        TypeError: if `values` is no mapping, a name is no string, or a value no number.
        ValueError: if there is no value, or an axis is not finite.

    Example:
        >>> import torch
        >>> checked_scalars({"epoch": 1, "loss": torch.tensor(0.5), "n": np.int64(3)})
        {'epoch': 1, 'loss': 0.5, 'n': 3}
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"`values` must be a mapping from names to numbers, got {describe(values)}.")
    row = {_checked_name(name): _number(name, value) for name, value in values.items()}
    if not row.keys() - AXES:
        raise ValueError(f"`values` must hold a value beside the axis, got {dict(values)!r}; add one, as 'loss'.")
    for axis in AXES:
        if not _is_finite(row.get(axis, 0)):
            raise ValueError(f"`{axis}` must be finite, for it is the axis, got {row[axis]}.")
    return row


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"`values` must have names that are strings and not empty, got {name!r}.")
    return name


def _number(name: str, value: Any) -> Number:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        size = value.numel() if isinstance(value, Tensor) else value.size
        if size != 1:
            raise TypeError(f"`{name}` must be a number, got {describe(value)}; reduce it, as by `.mean()`.")
        value = value.item()  # waits for the device
    if isinstance(value, complex | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"`{name}` must be a number, got {describe(value)}; leave it out, or put it into `config`.")
    return int(value) if isinstance(value, Integral) else float(value)


def _encoded(value: Number) -> Number | str:
    if _is_finite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _is_finite(value: Number) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be larger than any float
