"""The files of a training that is kept: checkpoints and the loss of each batch, written beside it, one at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from learner.checkpoint.file import BackgroundWriter
from learner.checkpoint.folder import CheckpointFolder, Keep, describe_aside
from learner.checkpoint.losses import LossRecord
from learner.checkpoint.shards import is_model_in_shards, write_shards
from learner.loop.tell import tell
from learner.loop.types import Learner


class CheckpointFiles:
    """Write the files of one training; of several processes, the first one does.

    Args:
        path: the folder.
        keep: which checkpoints stay, as for `CheckpointFolder`.

    Attributes:
        folder: the checkpoints.
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Keep) -> None:
        self.folder = CheckpointFolder(path, keep)
        self.path = self.folder.path
        self._losses, self._writer = LossRecord(self.path), BackgroundWriter()
        self._is_open = self._writes = False

    def open(self, learn: Learner) -> None:
        """Begin a fit; in the process that writes, keep all others out of the folder."""
        self._losses.restart()
        self._is_open, self._writes = True, learn.job.is_first
        if self._writes:
            self.folder.open()

    def begin(self, n_batches: int, *, goes_on: bool) -> None:
        """Set aside what a fit replaces, and say so.

        Args:
            n_batches: that the training has done.
            goes_on: whether the fit goes on with them.
        """
        if self._writes:
            self._losses.begin(n_batches if goes_on else 0)
            if aside := self.folder.set_aside(after=n_batches if goes_on else -1):
                tell(describe_aside(self.path, len(aside), goes_on=goes_on))

    def add_loss(self, learn: Learner) -> None:
        """Put down the loss of the training batch that is done, without waiting for it."""
        if self._is_open:
            self._losses.add(learn)

    def save(self, learn: Learner, state: dict[str, Any], n_batches: int, *, is_best: bool) -> None:
        """Begin to write a checkpoint, and the losses up to it; all processes call this.

        Raises:
            TypeError, LearnerError: if the state holds what is not plain data.
            ShardsError: if the parts of a model in shards cannot be written.
        """
        if is_model_in_shards(learn.model):
            place = learn.job.from_first(lambda: self.folder.new_shards(n_batches), at="a folder of shards")
            state = write_shards(state, place, learn.job)
        losses = self._losses.take(learn.job)
        if self._writes:
            self._writer.start(self._write, state, n_batches, losses, is_best=is_best)

    def save_losses(self, learn: Learner, n_batches: int) -> None:
        """Begin to write the losses up to a batch alone; all processes call this."""
        losses = self._losses.take(learn.job)
        if self._writes:
            self._writer.start(lambda _: self._losses.write(n_batches, losses), {})

    def _write(self, state: Mapping[str, Any], n_batches: int, losses: list[float], is_best: bool) -> None:
        self.folder.save(state, n_batches, is_best=is_best)
        self._losses.write(n_batches, losses)

    def wait(self) -> bool:
        """Wait for what is being written; return whether it was. A failure is a warning."""
        try:
            self._writer.wait()
        except Exception as error:
            warn_of_unwritten(error)
            return False
        return True

    def close(self) -> None:
        """End a fit: wait, and let others write to the folder."""
        try:
            self.wait()
        finally:
            if self._writes:
                self.folder.close()
            self._is_open = self._writes = False


def warn_of_unwritten(reason: object) -> None:
    """Say that there is no checkpoint where there should be one."""
    warnings.warn(f"a checkpoint was not written: {reason}", RuntimeWarning, stacklevel=4)
