"""Go back to the last checkpoint by itself when the loss jumps, and leave out what made it jump."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from callbacks.keep.checkpoint import CheckpointCallback
from learner import Callback, CancelBatchException, Learner, LearnerError
from learner.checkpoint.losses import Losses
from learner.checkpoint.ranks import of_this_rank
from learner.checkpoint.resume import Resumption
from learner.data.numbers import real_number, whole_number
from learner.errors import RestartFitException
from learner.loop.tell import tell
from learner.records import Run
from learner.replay.find import Checkpoints, at_batch

_RECENT, _ENOUGH = 100, 20  # losses that a new one is compared with: at most, and at least
_EVERY = 16  # batches between two looks, which wait for the device


class Recovery(NamedTuple):
    """A batch whose loss jumped, and what was done.

    Attributes:
        n_batches: training batches that were done before it.
        n_steps: optimizer steps that were made before it.
        epoch, i: which batch it was, by the count of the history.
        loss: of it.
        usual: the mean of the losses before it; NaN where there were none.
        what: what was done.
    """

    n_batches: int
    n_steps: int
    epoch: int
    i: int
    loss: float
    usual: float
    what: str

    def __str__(self) -> str:
        return (
            f"the loss was {self.loss:.4g} in batch {self.i} of epoch {self.epoch} (step {self.n_steps}), and "
            f"{self.usual:.4g} before: {self.what}"
        )


class RecoverCallback(Callback):
    """When the loss of a training batch jumps, or is not finite, go back to the checkpoint before it and go on.

    The batch is left out then, or something is changed: the fit ends and goes on from the checkpoint, as if the program
    had been started again, so that callbacks and records have what they would have had. It says so, and so do the row
    of the epoch in the history, under `recovered`, and the active run, under `recoveries`, with its report. After
    `most` times it is an error that lists them.

    A loss jumps when it is above the mean of the last 100 by more than `spike` times their standard deviation; the
    first 20 losses are compared with nothing. The device is waited for once in 16 batches, and at the end of a pass.

    What is left out is in checkpoints, so a run that was killed goes on without it, and `learn.rewind` finds it left
    out. Of `change` that is what it has changed in the optimizer, the weights and what callbacks keep; callbacks that
    it adds stay to the end of the fit, and are not there in another process.

    Args:
        spike: how many standard deviations are a jump.
        change: in place of leaving the batch out: a function that changes the learner as it is at the checkpoint, as
            `learner.replay.lr(0.5)`.
        most: how many times, at most.

    Attributes:
        recoveries: what was done, a `Recovery` each.

    Reads: loss, training, epoch, i, n_steps, history, is_side_pass, in_sandbox, cbs.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.
        LearnerError: when the loss jumps, without a `CheckpointCallback`; after `most` times; where there is no
            checkpoint before the batch.

    Example:
        >>> import tempfile
        >>> import torch
        >>> x = torch.ones(4, 1)
        >>> batches = [(x, 2 * x)] * 25 + [(x, 1000 * x)] + [(x, 2 * x)] * 4  # labels of one batch are wrong
        >>> recover, keep = RecoverCallback(), CheckpointCallback(tempfile.mkdtemp(), every=5)
        >>> model, loss_f = torch.nn.Linear(1, 1), torch.nn.functional.mse_loss
        >>> learn = Learner(model, {"train": batches}, loss_f, cbs=[keep, recover])
        >>> learn.fit(1)
        recover: the loss was ... in batch 25 of epoch 0 (step 25), and ... before: the batch is left out, ...
        ...
        >>> len(recover.recoveries), learn.n_steps
        (1, 29)
    """

    order = 50

    def __init__(self, spike: float = 4.0, change: Callable[[Learner], None] | None = None, most: int = 3) -> None:
        self.spike, self.most = real_number(spike, "spike", "; do 4.0"), whole_number(most, "most")
        if not (self.spike > 0 and math.isfinite(self.spike)):
            raise ValueError(f"`spike` must be a finite number above 0, got {spike}; do 4.0.")
        if self.most < 1:
            raise ValueError(f"`most` must be at least 1, got {most}.")
        if change is not None and (not callable(change) or isinstance(change, type)):
            raise TypeError(
                f"`change` must be a function of the learner, got {change!r}; leave it out to leave the batch out."
            )
        self.change = change
        self.recoveries: list[Recovery] = []
        self._is_restarting = False
        self._added: list[Any] = []  # by the changes of this fit
        self._n = 0  # training batches that are done, ever
        self._forget_losses()

    def _forget_losses(self) -> None:
        self._recent: list[float] = []
        self._new, self._places = Losses(), list[tuple[int, int, int, int]]()
        self._read: list[float] = []  # of the places, the losses that were read from the device already

    # -- when ------------------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Start clean, unless this is what it has asked for."""
        if not self._is_restarting:
            self.recoveries, self._added = [], []
        self._forget_losses()

    def before_batch(self, learn: Learner) -> None:
        """Make the change, when all is as it was at the checkpoint; leave a batch out that is to be left out."""
        if learn.is_side_pass or not learn.training:
            return
        if self._is_restarting:
            self._is_restarting = False
            if self.change is not None:
                before = {id(cb) for cb in learn.cbs}
                self.change(learn)
                self._added += [cb for cb in learn.cbs if id(cb) not in before]
        if self.change is None and any(self._n == recovery.n_batches for recovery in self.recoveries):
            raise CancelBatchException

    def after_batch(self, learn: Learner) -> None:
        """Keep the loss on its device; look at the last ones now and then."""
        if learn.is_side_pass or not learn.training or learn.in_sandbox or learn.loss is None:
            return
        self._new.add(learn)
        epoch = learn.history.state_dict()["start"] + learn.epoch
        self._places.append((self._n, learn.n_steps - learn._has_stepped, epoch, learn.i))
        if len(self._places) >= _EVERY:
            self._look(learn)

    def cleanup_batch(self, learn: Learner) -> None:
        """Count it, as checkpoints do."""
        if not learn.is_side_pass and learn.training:
            self._n += 1

    def after_epoch(self, learn: Learner) -> None:
        """Look at the losses that are left, and put into the row of the epoch what was done in it."""
        if learn.is_side_pass or not learn.training:
            return
        self._look(learn)
        epoch = learn.history.state_dict()["start"] + learn.epoch
        if done := [str(recovery) for recovery in self.recoveries if recovery.epoch == epoch]:
            learn.history.record_text(learn.epoch, "recovered", "; ".join(done))

    def cleanup_fit(self, learn: Learner) -> None:
        """Take off what changes have added, at the end of it all."""
        if not isinstance(learn.ended_by, RestartFitException):
            self._is_restarting = False
            learn.remove_cb([cb for cb in self._added if any(cb is other for other in learn.cbs)])

    # -- how -------------------------------------------------------------------------------------------------------

    def _look(self, learn: Learner) -> None:
        """Compare the new losses with those before, one after the other."""
        self._read_losses(learn)
        (losses, self._read), (places, self._places) = (self._read, []), (self._places, [])
        for loss, place in zip(losses, places, strict=True):
            if self._jumps(loss):
                self._go_back(learn, loss, place)
            self._recent = [*self._recent, loss][-_RECENT:]

    def _jumps(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        if len(self._recent) < _ENOUGH:
            return False
        mean, deviation = float(np.mean(self._recent)), float(np.std(self._recent))
        return loss - mean > self.spike * max(deviation, 1e-6 * abs(mean))

    def _go_back(self, learn: Learner, loss: float, place: tuple[int, int, int, int]) -> None:
        """End the fit, to go on from the checkpoint before a batch.

        Raises:
            RestartFitException: to do so.
            LearnerError: if it was done often enough.
        """
        usual = float(np.mean(self._recent)) if self._recent else math.nan
        name = getattr(self.change, "__name__", "<lambda>")
        change = "something is changed" if name == "<lambda>" else f"changed by {name}"
        done = "the batch is left out" if self.change is None else change
        recovery = Recovery(*place, loss, usual, f"{done}, from the checkpoint before it on")
        if len(self.recoveries) >= self.most:
            listed = "\n".join(map(str, [*self.recoveries, recovery._replace(what="too often")]))
            raise LearnerError(
                f"the loss must not jump more than {self.most} times, `most`; lower the learning rate, clip the "
                f"gradients, or look at these batches by `learn.rewind`:\n{listed}"
            )
        folders = [cb.path for cb in learn.cbs if isinstance(cb, CheckpointCallback)]
        if not folders:
            raise LearnerError(f"RecoverCallback must have a CheckpointCallback to go back by; add one: {recovery}.")
        self.recoveries.append(recovery)
        self._is_restarting = True
        tell(f"recover: {recovery}.")
        if (run := Run.active()) is not None:
            run.update(recoveries=[each._asdict() for each in self.recoveries])
        target = at_batch(recovery.n_batches, f"batch {recovery.i} of epoch {recovery.epoch}")

        def resumption() -> Resumption:
            find = partial(Checkpoints(folders[0]).nearest, target)  # in the process that writes them
            path, state = learn.job.from_first(find, at="the checkpoint to go back to")
            return Resumption(path, of_this_rank(learn, state), is_told=False)

        raise RestartFitException(resumption)

    def _read_losses(self, learn: Learner) -> None:
        """Read the losses of whole batches, which all processes put together."""
        self._read += self._new.read(learn.job)
        self._new = Losses()

    # -- going on --------------------------------------------------------------------------------------------------

    def get_ready_to_save(self, learn: Learner) -> None:
        """Have losses that are the same in each process."""
        self._read_losses(learn)

    def state_dict(self) -> dict[str, Any]:
        """Return what was done, how many batches there were, and the last losses."""
        return {
            "recoveries": [list(recovery) for recovery in self.recoveries],
            "n": self._n,
            "recent": list(self._recent),
            "read": list(self._read),
            "new": self._new.state_dict(),
            "places": list(self._places),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; what was done since that checkpoint was done all the same."""
        saved = [Recovery(*recovery) for recovery in state["recoveries"]]
        known = {recovery.n_batches for recovery in saved}
        self.recoveries = [*saved, *(each for each in self.recoveries if each.n_batches not in known)]
        self._n, self._recent = state["n"], list(state["recent"])
        self._read, self._new = list(state["read"]), Losses(state["new"])
        self._places = [tuple(place) for place in state["places"]]
