"""The loss of each training batch of a run, on record beside its checkpoints, so that a replay can be compared with it.

A file of it is float64 numbers, the lowest byte first, and nothing else: that of training batch `n`, counted from the
beginning of the training as checkpoints are, is at byte `8 * n`; -inf where there is none, as of a batch that was
cancelled before it had one. `numpy.fromfile(path, "<f8")` reads it. Where several processes train together, it is the
loss of the whole batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from learner.checkpoint.atomic import set_aside
from learner.errors import LearnerError
from learner.loop.column import Column
from learner.loop.types import Learner
from learner.loop.weight import batch_weight
from learner.ranks.job import Job

NAME = "losses.f64"
NONE = -math.inf  # no loss; NaN is one
_SIZE = 8  # [bytes]


class LossFile:
    """Write down the loss of each training batch, some at a time.

    Args:
        folder: of the checkpoints.

    Example:
        >>> import tempfile
        >>> file = LossFile(tempfile.mkdtemp())
        >>> file.write(0, [0.5, 0.25])
        >>> file.write(3, [0.125])
        >>> file.read()
        array([0.5  , 0.25 ,  -inf, 0.125])
        >>> file.forget(after=1)
        >>> file.read()
        array([0.5])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder).expanduser() / NAME

    def write(self, first: int, losses: Sequence[float]) -> None:
        """Write losses from training batch `first` on; for batches before it that are missing, `NONE`.

        Raises:
            LearnerError: if it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
                n = file.seek(0, os.SEEK_END) // _SIZE  # of a half one, the beginning is written over
                file.seek(_SIZE * min(n, first))
                file.write(np.array([*[NONE] * (first - n), *losses], dtype="<f8").tobytes())
        except OSError as error:
            raise LearnerError(f"`{self.path}` cannot be written: {error}") from error

    def read(self) -> np.ndarray:
        """Return all losses, by the number of their batch; none where there is no file."""
        return np.fromfile(self.path, "<f8") if self.path.is_file() else np.empty(0)

    def forget(self, after: int) -> None:
        """Keep the losses of the first `after` batches alone, from which a fit goes on; it writes its own after them.

        Raises:
            LearnerError: if the file cannot be changed.
        """
        try:
            if self.path.is_file() and self.path.stat().st_size > _SIZE * after:
                os.truncate(self.path, _SIZE * after)
        except OSError as error:
            raise LearnerError(f"`{self.path}` cannot be written: {error}") from error

    def set_aside(self) -> None:
        """Rename the file to `losses.f64.old`, since another training begins.

        Raises:
            LearnerError: if it cannot be renamed.
        """
        try:
            if self.path.is_file():
                set_aside(self.path)
        except OSError as error:
            raise LearnerError(f"`{self.path}` cannot be renamed: {error}") from error


class Losses:
    """Losses of training batches as they come, read from the device when they are asked for.

    Each of several processes that train together has the loss of its share of a batch, and puts it down with what that
    is a mean over.

    Args:
        state: what `state_dict` of another one gave.
    """

    def __init__(self, state: Sequence[list[Tensor] | None] = (None, None)) -> None:
        self._losses, self._weights = map(Column, state)

    def add(self, learn: Learner) -> None:
        """Add the loss of the training batch that is done, or that it has none."""
        self._losses.append(NONE if learn.loss is None else learn.loss.detach())
        if learn.job.world > 1:
            self._weights.append(batch_weight(learn))

    def state_dict(self) -> list[list[Tensor]]:
        """Return the losses, and what they are means over, in a few tensors."""
        return [self._losses.state_dict(), self._weights.state_dict()]

    def read(self, job: Job) -> list[float]:
        """Return the losses of whole batches; waits for the device, and all processes of a job call it."""
        losses = self._losses.read()
        if job.world == 1:
            return losses
        return whole_losses(job.gather([losses, self._weights.read()], at="the losses of training batches"))


def whole_losses(shares: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """Return the losses of whole batches from those of shares: of each process losses, and what they are means over.

    Example:
        >>> whole_losses([[[1.0, 2.0, NONE], [3, 4, 1]], [[5.0, NONE, NONE], [1, 0, 1]]])
        [2.0, 2.0, -inf]
    """
    losses, weights = np.array(shares, dtype=float).transpose(1, 0, 2)
    totals = weights.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.where(weights == 0, 0.0, losses * weights).sum(axis=0)
        return [float(loss) for loss in np.where(totals == 0, NONE, sums / totals)]


class LossRecord:
    """The losses of a fit as they come, read from the device when they are written.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._file = LossFile(folder)
        self.restart()

    def restart(self) -> None:
        """Forget what another fit has not written."""
        self._new = Losses()

    def begin(self, n_done: int) -> None:
        """Keep on file what is of the batches before; 0 for another training, whose file is set aside."""
        if n_done:
            self._file.forget(after=n_done)
        else:
            self._file.set_aside()

    def add(self, learn: Learner) -> None:
        """Add the loss of the training batch that is done."""
        self._new.add(learn)

    def take(self, job: Job) -> list[float]:
        """Return what is new, and forget it; waits for the device, and all processes of a job call it."""
        new, self._new = self._new, Losses()
        return new.read(job)

    def write(self, n_done: int, losses: Sequence[float]) -> None:
        """Write the last few of `n_done` losses."""
        self._file.write(n_done - len(losses), losses)
