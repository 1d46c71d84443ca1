"""Go back to a batch of a run that kept checkpoints, and stand before it. Start reading at `rewind`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor

from learner.data.exact import require_exact
from learner.data.loaders import Loaders
from learner.data.numbers import whole_number
from learner.data.position import has_state
from learner.errors import LearnerError
from learner.history import History
from learner.loop.checks import refuse_while_running
from learner.loop.state import remember
from learner.loop.types import Learner
from learner.replay.find import Checkpoints, Target, at_batch, at_epoch, at_step
from learner.replay.ids import Ids
from learner.replay.observers import require_trained_ones
from learner.replay.record import Record, describe_difference
from learner.replay.walk import Walk


class Moment:
    """Where a rewind stands: before a training batch of a run that was, with the learner as it was then.

    What is changed in the weights, the optimizer, the loss or the callbacks counts when it trains on. What a look at
    something leaves behind does not: buffers, gradients, modes of the model and random numbers are those of then when
    the next batch begins, so that a forward and a backward pass by hand change nothing.

    Of several processes that train together all go back, and each has its share of the batch.

    Args:
        learn: the learner, in a sandbox.
        walk: that has come to there.
    """

    def __init__(self, learn: Learner, walk: Walk) -> None:
        self._learn, self._walk = learn, walk

    @property
    def batch(self) -> Any:
        """The next batch, as the loader gave it; None where the fit is over."""
        return None if self._walk.stop is None else self._walk.stop.batch

    @property
    def ids(self) -> Ids | None:
        """The numbers of its samples in the dataset, or its `example_id`; None where nobody knows.

        Of `Loaders.zipped` they are a dict, with those of each loader by its name.
        """
        return None if self._walk.stop is None else self._walk.stop.ids

    @property
    def why_no_ids(self) -> str | None:
        """Why nobody knows which samples it holds; None where they are known."""
        return None if self._walk.stop is None else self._walk.stop.why_no_ids

    @property
    def epoch(self) -> int:
        """Which epoch it is, as the history numbers it."""
        return self._walk.now.epoch

    @property
    def i(self) -> int:
        """Which batch of its pass it is, from 0."""
        return self._walk.now.i

    @property
    def n_steps(self) -> int:
        """Optimizer steps that were made."""
        return self._walk.now.n_steps

    @property
    def is_over(self) -> bool:
        """Whether the fit is over: no batch comes any more."""
        return self._walk.stop is None

    def advance(self, k: int = 1) -> None:
        """Train the next `k` batches, and stand before the one after them, or at the end of the fit.

        Raises:
            TypeError, ValueError: if `k` is not a whole number of at least 1.
            LearnerError: if fewer are left; then the learner stands where it stood.
        """
        k = whole_number(k, "k")
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}.")
        last = self._walk.now.n_batches + k
        if not self._walk.go(lambda now: now.n_batches >= last):
            raise LearnerError(f"`k` must be at most the number of training batches that are left of the fit, got {k}.")

    def run(self) -> Tensor:
        """Run the next batch as training would, but for the optimizer's step; return its loss.

        The gradients, as callbacks have left them (clipped, for one), and what the learner has of a batch (`xb`, `yb`,
        `output`, `preds`, `loss`) are there to be looked at. Where a window of gradients is open, they are the sums.
        """
        self._walk.look()
        loss: Tensor = self._learn.loss
        return loss.detach()

    def change(self, change: Any) -> None:
        """Change something for the batches to come, and let all of it count: random numbers and buffers, too.

        Args:
            change: a function of the learner, as `lambda learn: learn.add_cb(ClipGradientCallback(1.0))`, or one of
                `learner.replay`: `without`, `relabelled`, `lr`, `seed`.

        Raises:
            TypeError: if it returns something.
            LearnerError: if the model is another one then, or the batch does not hold the samples that are named.
        """
        self._walk.change(change)

    def __repr__(self) -> str:
        if self.is_over:
            return f"Moment: the end of the fit, {self.n_steps} steps made"
        return f"Moment: before batch {self.i} of epoch {self.epoch}, {self.n_steps} steps made"


@contextmanager
def rewind(
    learn: Learner,
    path: str | os.PathLike[str],
    step: int | None = None,
    *,
    epoch: int | None = None,
    i: int | None = None,
    at: Literal["worst"] | None = None,
    cbs: Any = None,
) -> Iterator[Moment]:
    """Go back to a batch of a run that kept checkpoints: within the block the learner is as it was then.

    It goes on from the last checkpoint before, writes nothing, and stands before a training batch, with the
    weights, the optimizer, open gradients, callbacks and random numbers of then, bit for bit. A warning says if
    the losses on the way are not those on record, from which batch on, and what commonly does that. The block gets
    a `Moment`: `batch` and `ids` of the samples; `advance(k)` trains on, `run()` runs the batch without a step. At
    the end all is as it was before the block, as after `sandbox`.

    Args:
        learn: the learner.
        path: a folder of a `CheckpointCallback`, or one checkpoint.
        step: how many optimizer steps had been made; 0 for the first batch.
        epoch: in place of `step`, an epoch as the history numbers it.
        i: a batch of its training pass, from 0; the first one if left out.
        at: in place of both, "worst": the batch with the largest loss on record, or the first that is not finite.
        cbs: callbacks that `fit` was given.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.
        LearnerError: if there is no such batch, or no checkpoint before it; if model, optimizer, loaders or
            callbacks are not as those that trained, with what differs; while this learner runs.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from callbacks import CheckpointCallback
        >>> from learner import Learner, Loaders
        >>> x, folder = torch.linspace(-1, 1, 20)[:, None], tempfile.mkdtemp()
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=CheckpointCallback(folder))
        >>> learn.fit(3)
        >>> with learn.rewind(folder, step=7) as then:
        ...     print(then, len(then.ids), learn.n_steps)
        ...     loss = then.run()
        ...     then.advance(3)
        ...     print(then)
        Moment: before batch 2 of epoch 1, 7 steps made 4 7
        Moment: before batch 0 of epoch 2, 10 steps made
        >>> learn.n_steps
        15
    """
    refuse_while_running(learn, "rewind")
    target = _target_of(path, step, epoch, i, at)
    with travelled(learn, path, target, cbs) as walk:
        yield Moment(learn, walk)


def _target_of(path: str | os.PathLike[str], step: Any, epoch: Any, i: Any, at: Any) -> Target:
    """Return the place that a person asks for.

    Raises:
        TypeError, ValueError: if none is asked for, or several, or one that cannot be.
        LearnerError: for the worst batch, if there is no loss on record.
    """
    given = [name for name, value in (("step", step), ("epoch", epoch), ("at", at)) if value is not None]
    if len(given) != 1:
        raise TypeError(f"one of `step`, `epoch` and `at` must be given, got {given or 'none'}; do step=0.")
    if i is not None and epoch is None:
        raise TypeError(f"`i` must go with `epoch`, whose batch it is, got i={i!r} with `{given[0]}`; leave it out.")
    if step is not None:
        return at_step(step)
    if epoch is not None:
        return at_epoch(epoch, 0 if i is None else i)
    if at != "worst":
        raise ValueError(f"`at` must be 'worst', the batch with the largest loss on record, got {at!r}.")
    return at_batch(Record(path).worst(Checkpoints(path).first), "`at='worst'`")


@contextmanager
def travelled(learn: Learner, path: str | os.PathLike[str], target: Target, cbs: Any = None) -> Iterator[Walk]:
    """Have a learner at a place of a run, in a sandbox; give what takes it further.

    Raises:
        LearnerError: if there is no such place, or no checkpoint before it; if the learner is not as the one was that
            trained.
    """
    checkpoints = Checkpoints(path)
    file, state = checkpoints.nearest(target)
    with learn.added(cbs), learn.sandbox(), _loaders_put_back(learn):
        if learn.job.is_in_shards:
            raise LearnerError(
                "going back must have a model that is whole, got one in shards; do it in one process, without the "
                "ShardCallback."
            )
        require_trained_ones(learn, state)
        learn.history = History()  # the sandbox has the other one, which keeps what is in no checkpoint
        walk = Walk(learn, file, state)
        if not walk.begin(target.is_there):
            later = checkpoints.after(file)
            raise LearnerError(
                f"{target.words} must be within the fit of {file.name}, which ends when {learn.n_steps} steps are made"
                + (f"; {later.name}, which comes next, is of another fit, without its beginning." if later else ".")
            )
        if not target.is_exactly(walk.now):
            raise LearnerError(f"{target.words} must be a training batch of the fit, which has none there.")
        compare(walk, Record(path))
        yield walk


def compare(walk: Walk, record: Record, n_compared: int = 0) -> None:
    """Say in a warning from which batch on a walk is another training than the run was.

    Args:
        walk: the walk.
        record: of the run.
        n_compared: how many of its batches were compared before; what differs there was said then.
    """
    losses = walk.losses
    n = record.first_difference(walk.first, losses, is_exact=walk.is_exact)
    if n is not None and n >= n_compared:
        where = f"batch {walk.passed[n].i} of epoch {walk.passed[n].epoch}"
        then = float(record.losses[walk.first + n])
        message = describe_difference(where, n, then, losses[n], walk.samples_of(n), is_exact=walk.is_exact)
        warnings.warn(message, RuntimeWarning, stacklevel=5)


@contextmanager
def _loaders_put_back(learn: Learner) -> Iterator[None]:
    """Put loaders with a state of their own back at the end; of those without one nobody can promise a thing."""
    loaders = Loaders.of(learn.dls)
    for name, loader in loaders.items():
        if isinstance(loader, Iterator):
            raise LearnerError(f"loader {name!r} must give its batches again, but it is an iterator: pass a loader.")
    require_exact(loaders, may_warn=True)
    parts = [remember(loader) for loader in loaders.values() if has_state(loader)]
    try:
        yield
    finally:
        for part in parts:
            part()
