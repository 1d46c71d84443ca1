"""Which checkpoint of a run to go on from, to come to a place; few of them are read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from learner.checkpoint.file import read_checkpoint
from learner.checkpoint.folder import CheckpointFolder, step_of
from learner.data.loaders import role_of
from learner.data.numbers import whole_number
from learner.errors import LearnerError
from learner.replay.walk import Now


class Target(NamedTuple):
    """A place to come to.

    Attributes:
        words: what a person asked for.
        is_before: tells whether a checkpoint is of there or of before.
        is_there: tells whether a fit is there, or further.
        is_exactly: tells whether it is there.
    """

    words: str
    is_before: Callable[[Mapping[str, Any]], bool]
    is_there: Callable[[Now], bool]
    is_exactly: Callable[[Now], bool]


def at_step(n: Any, name: str = "step") -> Target:
    """Return where so many optimizer steps have been made: before the first batch after that.

    Raises:
        TypeError, ValueError: if it is not a whole number of at least 0.
    """
    n = _count(n, name)

    def is_before(state: Mapping[str, Any]) -> bool:
        loop, gradients = state["loop"], state["fit"]["gradients"].values()
        if loop["n_steps"] != n:
            return bool(loop["n_steps"] < n)
        # Of several batches without a step, the first one is meant.
        return not loop["n_skipped"] and all(gradient is None for gradient in gradients)

    return Target(f"`{name}={n}`", is_before, lambda now: now.n_steps >= n, lambda now: True)


def at_epoch(epoch: Any, i: Any) -> Target:
    """Return a batch of the first training pass of an epoch, as the history numbers epochs.

    Raises:
        TypeError, ValueError: if one of them is not a whole number of at least 0.
    """
    epoch, i = _count(epoch, "epoch"), _count(i, "i")

    def is_before(state: Mapping[str, Any]) -> bool:
        fit, names = state["fit"], list(state["fit"]["loaders"])
        first = next(n for n, name in enumerate(names) if role_of(name) == "train")
        at = (state["loop"]["history"]["start"] + fit["n_done"], names.index(fit["loader"]), fit["i"])
        return bool(at <= (epoch, first, i))

    return Target(
        f"`epoch={epoch}, i={i}`",
        is_before,
        lambda now: (now.epoch, now.i) >= (epoch, i),
        lambda now: (now.epoch, now.i) == (epoch, i),
    )


def at_batch(n: int, words: str) -> Target:
    """Return a training batch by the count of the checkpoints."""
    return Target(words, lambda state: state["step"] <= n, lambda now: now.n_batches >= n, lambda now: True)


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number, got {value!r}; do 0, for instance.")
    n = whole_number(value, name)
    if n < 0:
        raise ValueError(f"`{name}` must be at least 0, got {n}.")
    return n


class Checkpoints:
    """The checkpoints of one run: a folder of them, or one file.

    Args:
        path: the folder or file.

    Raises:
        TypeError: if it is no path.
        LearnerError: if there is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"`path` must be the path of a checkpoint, or of a folder of them, got {path!r}.")
        self.path = Path(path).expanduser()
        is_file = self.path.is_file() or self.path.suffix == ".pt"
        self._files = [self.path] if is_file else CheckpointFolder(self.path).files()
        if not self._files:
            raise LearnerError(
                f"`path` must be a checkpoint or a folder that has some, got {str(path)!r}, where there is none; train "
                f"with a CheckpointCallback."
            )

    @property
    def first(self) -> int:
        """How many training batches were done at the first one; of one file that stands alone, at that."""
        return step_of(self._files[0])

    def nearest(self, target: Target) -> tuple[Path, dict[str, Any]]:
        """Return path and content of the last checkpoint that is not after a place.

        Raises:
            LearnerError: if all are after it, or none can be read.
        """
        files, found, first = list(self._files), None, None
        low, high = 0, len(files)  # all before `low` are before the place, all from `high` on are after it
        while low < high:
            middle = (low + high) // 2
            try:
                state = _of_a_fit(files[middle], read_checkpoint(files[middle]))
            except LearnerError as error:
                if len(self._files) == 1:
                    raise
                warnings.warn(f"{error} An earlier one is used.", RuntimeWarning, stacklevel=4)
                del files[middle]
                high -= 1
                continue
            if target.is_before(state):
                found, low = (files[middle], state), middle + 1
            else:
                first, high = (files[middle], state), middle
        if found is not None:
            return found
        if first is None:
            raise LearnerError(f"no checkpoint in `{self.path}` is whole.")
        raise LearnerError(
            f"{target.words} must not be before the first checkpoint, {first[0].name}, which is of "
            f"{_words(first[1])}; `CheckpointCallback(keep='spread')` and 'all' keep the beginning as well."
        )

    def after(self, path: Path) -> Path | None:
        """Return the checkpoint that comes after one, if there is one."""
        later = self._files[self._files.index(path) + 1 :]
        return later[0] if later else None


def _of_a_fit(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    if "fit" not in state or "step" not in state:
        raise LearnerError(f"`{path}` must be a checkpoint of a CheckpointCallback, got one of another kind.")
    return state


def _words(state: Mapping[str, Any]) -> str:
    fit, loop = state["fit"], state["loop"]
    where = f", batch {fit['i']} of loader {fit['loader']!r}" if fit["i"] else ""
    return f"step {loop['n_steps']} (epoch {loop['history']['start'] + fit['n_done']}{where})"
