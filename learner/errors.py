"""What the loop raises: errors, and the Cancel exceptions that are control flow.

    Exception
    ├── LearnerError                 the learner cannot go on; the message says what to change
    └── CancelException              control flow, caught by the loop
        ├── CancelStepException      leaves out the optimizer step of this batch, and drops its gradients
        │   └── PostponeStepException    puts it off: the gradients stay, and those of the next batch join them
        ├── CancelBatchException     ends this batch
        ├── CancelEpochException     ends the pass over this loader
        ├── CancelFitException       ends the fit
        └── RestartFitException      ends the fit, which then goes on from a checkpoint

Wrong arguments are `TypeError` and `ValueError`, as everywhere in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class LearnerError(Exception):
    """Something only the person who wrote the run can put right."""


class CancelException(Exception):
    """Base of the Cancel exceptions. Raise one of those below, never this one."""


class CancelStepException(CancelException):
    """Leave out the rest of the step, `step` and `zero_grad` with it; `after_batch` comes next.

    In a training pass all gradients are dropped and `learn.n_skipped` counts the step. Once the step is made, in
    `after_step`, it only keeps the signal from the callbacks that come later.
    """


class PostponeStepException(CancelStepException):
    """Put the step off: as `CancelStepException`, but the gradients stay, and those of the next batch join them."""


class CancelBatchException(CancelException):
    """End this batch: no `after_batch`, then `cleanup_batch`, then the next batch."""


class CancelEpochException(CancelException):
    """End this pass: no `after_epoch`, then `cleanup_epoch`, then the next loader."""


class CancelFitException(CancelException):
    """End the fit: no `after_fit`, then `cleanup_fit`, and `fit` returns."""


class RestartFitException(CancelException):
    """End the fit as an error does, then go on from a checkpoint, as if the program had been started again.

    Args:
        find: returns the checkpoint, as `Learner.fit` takes it as `resume`, when all clean-ups have run.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        super().__init__("goes on from a checkpoint")
        self.find = find


_BY_REACH = (CancelStepException, CancelBatchException, CancelEpochException, CancelFitException)
ERROR = len(_BY_REACH)


def severity(error: BaseException | None) -> int:
    """Rank what ended a stage: nothing -1, then the Cancels by how much they end, then `ERROR` for the rest."""
    if error is None:
        return -1
    return next((i for i, cancel in enumerate(_BY_REACH) if isinstance(error, cancel)), ERROR)
