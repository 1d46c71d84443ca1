"""Compare what a replay goes through with what the run has on record: the loss of each training batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learner.checkpoint.losses import NONE, LossFile
from learner.errors import LearnerError
from learner.replay.ids import Ids

_N_LISTED = 32  # samples in a message
_TOLERANCE = 1e-4  # of a loss: sums of other shares are rounded otherwise, and steps make more of it
_OF_OTHERS = (
    "Another number of processes has trained: this one has the same to rounding, if no random numbers are drawn, as by "
    "dropout, of which each process has its own. "
)
_WHY = (
    "What commonly does that: another version of the code, of torch or of a driver; another kind of device, or number "
    "of threads; operations of a GPU that add up in any order, which `torch.use_deterministic_algorithms(True)` "
    "refuses; data that have changed since; a loader that cannot give the same batches again."
)


class Record:
    """The losses of a run, by the number of the training batch.

    Args:
        path: a folder of checkpoints, or a file in it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path).expanduser()
        self.folder = path if path.is_dir() else path.parent
        self.losses = LossFile(self.folder).read()

    def worst(self, first: int) -> int:
        """Return the training batch with the largest loss, or the first one whose loss is NaN or infinite.

        Args:
            first: the first batch that can be had again.

        Raises:
            LearnerError: if there is no loss on record.
        """
        losses = self.losses[first:]
        if not (losses != NONE).any():
            raise LearnerError(
                f"`at='worst'` must have losses on record, got none in `{self.folder}`; say `step=`, or train with a "
                f"CheckpointCallback of this version, which writes them."
            )
        bad = np.flatnonzero(~np.isfinite(losses) & (losses != NONE))
        return first + int(bad[0] if len(bad) else losses.argmax())

    def first_difference(self, first: int, losses: Sequence[float], *, is_exact: bool = True) -> int | None:
        """Return which of some losses is the first that is not as on record; None if all are, or are not there.

        Args:
            first: the training batch that they begin with.
            losses: of a replay.
            is_exact: whether they have to be the same to the last bit; else to a ten-thousandth.
        """
        then = self.losses[first : first + len(losses)]
        now = np.asarray(losses[: len(then)])
        is_known = (then != NONE) & (now != NONE)
        is_same = np.isclose(then, now, rtol=0 if is_exact else _TOLERANCE, atol=0, equal_nan=True)
        unlike = np.flatnonzero(is_known & ~is_same)
        return int(unlike[0]) if len(unlike) else None


def describe_difference(
    where: str, n_same: int, then: float, now: float, ids: Ids | None, *, is_exact: bool = True
) -> str:
    """Return a message that says from which batch on a replay is another training than the run was.

    Args:
        where: the batch, in words.
        n_same: how many were as on record before it.
        then: its loss on record.
        now: its loss here.
        ids: the numbers of its samples. Of data that have changed since these are the first to make a difference.
        is_exact: whether as many processes have trained as there are here.
    """
    why = _WHY if is_exact else _OF_OTHERS + _WHY
    samples = "" if ids is None else f" That batch holds samples {_listed(ids)}: look at these, if data have changed."
    return (
        f"what is gone through must be what the run went through, but the loss differs from {where} on: {now:.9g} "
        f"here, {then:.9g} on record; the {n_same} batches before it are the same. {why}{samples}"
    )


def _listed(ids: Ids) -> str:
    if isinstance(ids, dict):
        return ", ".join(f"{_listed(its)} of {name!r}" for name, its in ids.items() if its is not None)
    numbers, more = sorted(ids.tolist()), len(ids) - _N_LISTED
    return ", ".join(map(str, numbers[:_N_LISTED])) + (f" and {more} more" if more > 0 else "")
