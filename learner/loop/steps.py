"""Steps that are not made, and optimizers that nobody steps: said, since nothing else shows it."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from learner.errors import LearnerError
from learner.loop.types import Learner

_MOST_SKIPPED = 100  # in a row; half precision needs some until it has found its scale


class StepWatch:
    """Count the steps of `learn.opt` while something else than the learner makes the step; others need no watch.

    Attributes:
        n_steps: steps of the optimizer since it is watched.
    """

    def __init__(self) -> None:
        self.n_steps = 0
        self._opt: torch.optim.Optimizer | None = None
        self._handle: Any = None

    def follow(self, opt: torch.optim.Optimizer) -> None:
        """Watch this optimizer from now on."""
        if opt is not self._opt:
            self.close()
            self._opt, self._handle = opt, opt.register_step_post_hook(self._count)

    def close(self) -> None:
        """Watch no longer."""
        if self._handle is not None:
            self._handle.remove()
        self._opt = self._handle = None

    def _count(self, *_: Any) -> None:
        self.n_steps += 1


def step_watch(learn: Learner) -> StepWatch | None:
    """Return a watch where a callback, a subclass or an attribute has taken over the step, else None."""
    return StepWatch() if _who_steps(learn) else None


def require_own_optimizer(learn: Learner, what: str) -> None:
    """Refuse what acts on `learn.opt` where steps are made and that optimizer makes none of them.

    Raises:
        LearnerError: if so; names who makes the steps.
    """
    watch = learn._watch
    if watch is not None and learn.n_steps > learn._n_steps_before and not watch.n_steps:
        raise LearnerError(
            f"{what} must act on the optimizer that trains, but `learn.opt` makes no step: {_who_steps(learn)} owns "
            f"`step` and steps something else. Let it step `learn.opt`, or leave {what} out."
        )


def require_progress(learn: Learner, n_steps: int, n_skipped: int) -> None:
    """Refuse to go on for ever: a fit that is to make so many steps, and makes none any more.

    Args:
        learn: the learner, at the end of an epoch.
        n_steps: optimizer steps that were made when the epoch began.
        n_skipped: those that were skipped.

    Raises:
        LearnerError: if an epoch neither made nor skipped a step, or too many were skipped since one was made.
    """
    if learn.n_steps > n_steps or learn.steps is None:
        learn._n_skipped_at_step = learn.n_skipped
        return
    n_in_a_row = learn.n_skipped - learn._n_skipped_at_step
    if n_steps < learn._last_step and (learn.n_skipped == n_skipped or n_in_a_row >= _MOST_SKIPPED):
        raise LearnerError(
            f"`steps` must be reached, but epoch {learn.epoch} made no optimizer step of the "
            f"{learn._last_step - n_steps} that are left: each was skipped or put off; look at what does that, or ask "
            f"for epochs."
        )


def check_steps(learn: Learner) -> None:
    """Say that a training pass made no step, though none was skipped."""
    if not learn.training or learn.batch is None:
        return
    if learn._is_lr_asked:
        require_own_optimizer(learn, "`lr` of `fit`")
    has_no_step = (learn.n_steps, learn.n_skipped) == (learn._n_steps_before, learn._n_skipped_before)
    if has_no_step and not learn._has_dropped:  # who cancels a batch means it
        pairs = learn._dispatch.actions.values()
        names = {type(cb).__name__ for owner, others in pairs for cb in (owner, *others) if cb is not None}
        who = f"; actions are taken over by {', '.join(sorted(names))}" if names else ""
        warnings.warn(
            f"a pass over {learn.dl_name!r} made no optimizer step in {learn.i + 1} batches: it was put off for each, "
            f"or nothing got a gradient{who}.",
            RuntimeWarning,
            stacklevel=2,
        )


def _who_steps(learn: Learner) -> str | None:
    """Return the name of who makes the step, or None if it is the learner as it is."""
    owner, _ = learn._dispatch.actions.get("step", (None, ()))
    if owner is not None:
        return type(owner).__name__
    if "step" in learn._by_hand:
        return "`learn.step`, which was set by hand,"
    definer = next(cls for cls in type(learn).__mro__ if "step" in vars(cls))
    return None if definer.__module__ == "learner.learner" else definer.__name__
