"""Record what a callback would have recorded, had it been there: run a part of a training again, with more callbacks.

Hindsight logging, after Garcia et al., Hindsight Logging for Model Training (VLDB 2021).
"""

from __future__ import annotations

import os
from typing import Any

from learner.errors import LearnerError
from learner.loop.callbacks import flattened
from learner.loop.checks import refuse_while_running
from learner.loop.types import Learner
from learner.replay.find import Target, at_step
from learner.replay.record import Record
from learner.replay.rewind import compare, travelled


def hindsight(learn: Learner, path: str | os.PathLike[str], cbs: Any, steps: slice) -> None:
    """Record what callbacks would have recorded, had they been there: run a part of a training again with them.

    It goes on from the last checkpoint before, in a sandbox, so nothing but the callbacks is changed; what they
    write to files they do not write here. A warning says if the losses on the way are not those on record, as
    `rewind` does. The fit may be left in the middle of a pass: who records at its end hears `cleanup_epoch` alone.

    Args:
        learn: the learner.
        path: as for `rewind`.
        cbs: callbacks that are not among those that trained.
        steps: optimizer steps, `slice(1000, 1400)`; to the end of the fit without a stop.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.
        LearnerError: as for `rewind`; if the fit ends before `steps.stop`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from callbacks import CheckpointCallback, RecorderCallback
        >>> from learner import Learner, Loaders
        >>> x, folder = torch.linspace(-1, 1, 20)[:, None], tempfile.mkdtemp()
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=CheckpointCallback(folder))
        >>> learn.fit(3)
        >>> norms = RecorderCallback(norm=lambda learn: learn.model.weight.grad.norm())
        >>> learn.hindsight(folder, norms, slice(7, 12))
        >>> len(norms.values["norm"]), learn.n_steps
        (5, 15)
    """
    refuse_while_running(learn, "hindsight")
    start, last = checked_steps(steps)
    if not flattened(cbs):
        raise ValueError("`cbs` must hold a callback at least, got none; do `ActivationStats()`.")
    with travelled(learn, path, start) as walk:
        n_before = len(walk.passed)
        with learn.added(cbs):
            ends_there = walk.go(None if last is None else lambda now: now.n_steps >= last)
        if not ends_there:
            raise LearnerError(f"`steps` must end within the fit, which ends before {last} steps are made.")
        compare(walk, Record(path), n_compared=n_before)


def checked_steps(steps: Any) -> tuple[Target, int | None]:
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
