"""Record what a callback would have recorded, had it been there: run a part of a training again, with more callbacks.

Hindsight logging, after Garcia et al., Hindsight Logging for Model Training (VLDB 2021).
"""

from __future__ import annotations

import os
from typing import Any

from learner.errors import LearnerError
from learner.loop.callbacks import flattened
from learner.loop.types import Learner
from learner.replay.find import Target, at_step
from learner.replay.record import Record
from learner.replay.rewind import compare, travelled


def hindsight(learn: Learner, path: str | os.PathLike[str], cbs: Any, steps: slice) -> None:
    """Run a part of a training again with more callbacks, as `Learner.hindsight` says."""
    start, last = _checked_steps(steps)
    if not flattened(cbs):
        raise ValueError("`cbs` must hold a callback at least, got none; do `ActivationStats()`.")
    with travelled(learn, path, start) as walk:
        n_before = len(walk.passed)
        with learn.added(cbs):
            ends_there = walk.go(None if last is None else lambda now: now.n_steps >= last)
        if not ends_there:
            raise LearnerError(f"`steps` must end within the fit, which ends before {last} steps are made.")
        compare(walk, Record(path), n_compared=n_before)


def _checked_steps(steps: Any) -> tuple[Target, int | None]:
    """Return where the steps begin, and the one to stop before, or None for the end of the fit.

    Raises:
        TypeError, ValueError: if it is not a slice of steps one after the other.
    """
    if not isinstance(steps, slice):
        raise TypeError(f"`steps` must be a slice, got {steps!r}; do slice(1000, 1400).")
    first, last = 0 if steps.start is None else steps.start, steps.stop
    if steps.step not in (None, 1):
        raise ValueError(f"`steps` must be one after the other, got every {steps.step}; set `every` of the callback.")
    start = at_step(first, "steps.start")
    if last is not None:
        at_step(last, "steps.stop")  # only refuses what is no step
        if last <= first:
            raise ValueError(f"`steps` must hold a step at least, got {first} to {last}.")
    return start, last
