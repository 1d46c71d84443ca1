"""Write checkpoints while a model trains, so that a run that is killed goes on as if it had not been."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from torch import nn

from callbacks.keep.monitor import Best, Monitor
from learner import Callback, CancelBatchException, CancelFitException, Learner, LearnerError
from learner.checkpoint.files import CheckpointFiles, warn_of_unwritten
from learner.checkpoint.folder import Keep, read_newest
from learner.checkpoint.resume import fit_state, options_of
from learner.checkpoint.rng import rng_state
from learner.checkpoint.shards import ShardsError
from learner.checkpoint.snapshot import trained_weights
from learner.checkpoint.unsaved import UnsavedWatch
from learner.data.exact import require_exact
from learner.data.loaders import Loaders
from learner.data.moving import local_parts
from learner.data.order import OrderedLoader
from learner.data.position import SkipLoader, seed_of
from learner.data.resumable import ResumableLoaders
from learner.loop.frequency import Every, Pace
from learner.loop.tell import tell


class CheckpointCallback(Callback):
    """Write a checkpoint every so often, from which `fit(n, resume=True)` goes on bit for bit, within an epoch as well.

    The loss of each training batch is on record beside them (`learner.checkpoint.losses`), for `learn.rewind`.

    A checkpoint is all that the next batch depends on: model, optimizer, schedules, gradients of an open accumulation
    window, random generators, position, sums of metrics, history, and what callbacks keep (their `state`, or their
    `state_dict`). The order and the noise of a `DataLoader` become functions of its seed, the epoch and the position
    (`learner.data.ordered`), so batches that are done are skipped, not read, and neither workers nor validation change
    what is trained. Loaders with a state of their own go on from that. Of others the batches that are done are read
    again; what then cannot be promised to be exact is said in a warning before the fit begins.

    The copy is taken at once, the file is written beside the training, one at a time; the end of `fit` waits for it.
    What cannot be written is a warning and stops nothing. There is one at the end of a fit as well, also if a callback
    ends it, and on Ctrl-C or SIGTERM when the batch is done; none after an error, when a step may be half done, and
    none of weights that hold NaN. Of several processes that train together the first one writes, and any number of them
    goes on from it. A fit that does not resume sets the files of an earlier one aside, as `*.old`.

    Args:
        path: the folder, one for each training.
        every: how often, in the words of any callback's `every`: "epoch", "2 epochs", 100 (training batches),
            "500 steps", "10 min".
        keep: how many to keep besides the best; "all"; or "spread": few, ever farther apart as they grow older, so that
            `learn.rewind` has no more to train again than a third of the way back. Of checkpoints every 100 steps these
            are 8 files after 10^3 steps, 24 after 10^5, 38 after 10^7. These two keep the beginning of the training as
            well, from which any step can be had.
        metric: by which an epoch is the best; its checkpoint is kept, named `.best.pt`. `loss`, a metric of a
            `MetricsCallback`, or a name given to `learn.log`.
        loader: over which it is measured, by its name in `dls`.
        mode: whether the "min" or the "max" is best; where it may be left out: as for `BestModelCallback`.
        exact: refuse loaders of which nobody can promise that they give the same again, and optimizers, modules and
            generators on a callback or a subclass of Learner that are not in its `state`, instead of a warning.

    Attributes:
        best: `Best(epoch, value, metric)` of the best epoch; None without `metric`, or as long as there is none.
        path: the folder.
        best_path: the file of the best epoch that is in the folder, or None.

    Reads:
        All there is.

    Writes:
        `dl`, in the fit's own passes: a loader that gives the same samples in an order of its own.

    Raises:
        TypeError, ValueError: if an argument is wrong; before the first batch, if there is no such loader or metric, or
            for what is not exact where that was asked for.
        LearnerError: before the first batch, if the folder cannot be written to, or somebody else writes to it; at the
            end of the first epoch, if only then it shows that there is no such metric.
        TypeError: at the first checkpoint, naming the place, if a callback keeps what is not plain data.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from learner import Loaders
        >>> def learner(folder):
        ...     x = torch.linspace(-1, 1, 20)[:, None]
        ...     dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        ...     return Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, cbs=CheckpointCallback(folder))
        >>> folder = tempfile.mkdtemp()
        >>> learner(folder).fit(2)
        >>> learn = learner(folder)
        >>> learn.fit(3, resume=True)
        resume: goes on with epoch 2 of 3, where 2 were asked for before (...step-00000010.pt).
        >>> learn.n_steps
        15
    """

    order = -1000  # first in a pass, before anything of it has happened; last in a batch, when all of it has

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int | str = "epoch",
        keep: Keep = 3,
        metric: str | None = None,
        loader: str = "valid",
        mode: Literal["min", "max"] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        if every is None:
            raise TypeError("`every` must say how often, got None; do 'epoch', 100 or '10 min'.")
        if metric is None and mode is not None:
            raise ValueError(f"`mode` must have a `metric`, got {mode!r} alone; say which one, or leave it out.")
        # Not the callback's own `every`, which leaves signals out: it has to hear of each batch.
        self._every = Every.of(every, otherwise="leave it out for 'epoch'")
        self._pace = Pace(self._every)
        self._files = CheckpointFiles(path, keep)
        self.path = self._files.path
        self._monitor = Monitor("loss" if metric is None else metric, loader, mode)
        self.metric, self.exact, self._keeps_first = metric, exact, not isinstance(keep, int)
        self.best: Best | None = None
        self._is_on = self._writes = self._has_begun = False
        self._n_batches = self._n_done = 0  # batches that train, ever; epochs of this fit
        self._loaders = ResumableLoaders()
        self._rng: dict[str, Any] = {}  # when this pass began
        self._options: list[dict[str, Any]] = []  # of the optimizer, when this fit began
        self._pass_within = ""  # the loader whose pass is not at its end, while a checkpoint is made

    @property
    def best_path(self) -> Path | None:
        """The checkpoint of the best epoch, if the folder has one."""
        return self._files.folder.best()

    # -- when ------------------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Check now, not after the first epoch, that loaders, metric and folder can be used."""
        self._is_on, self._writes = False, not learn.in_sandbox
        if learn.in_sandbox and not learn.is_resumed:  # a replay goes on from a checkpoint, and writes none
            return
        if self.metric is not None:
            self._monitor.before_fit(learn)
            self.metric = self._monitor.metric  # without its loader
        if self._writes:
            require_exact(learn.dls, may_warn=not self.exact)
            self._files.open(learn)
        self._unsaved = UnsavedWatch()
        self._options = options_of(learn.opt)  # type: ignore[arg-type]  # there is one in a fit
        self._has_begun, self._n_done = False, 0
        self._loaders = ResumableLoaders(states=self._loaders.states)
        self._pace.restart(learn.n_steps)
        self._is_on = True

    def before_epoch(self, learn: Learner) -> None:
        """Write a checkpoint of the epoch that is done; let the pass begin where it is to begin."""
        if not self._is_on or learn.is_side_pass:
            return
        self._rng = rng_state(learn)
        if not self._has_begun:
            self._begin(learn)
        elif learn.dl_name == next(iter(learn.dls)):
            self._end_epoch(learn)
        learn.dl = self._placed(learn)

    def cleanup_batch(self, learn: Learner) -> None:
        """Write a checkpoint, if it is time to, or the last one."""
        if not self._is_on or learn.is_side_pass:
            return
        if learn.ended_by is not None and not isinstance(learn.ended_by, CancelBatchException):
            return  # a step may be half done
        if learn.training:
            self._n_batches += 1
            self._files.add_loss(learn)
        is_due = (learn.training or self._every.unit == "s") and self._pace.tick(learn.n_steps)
        if self._every.unit == "s":  # clocks differ
            is_due = learn.job.from_first(partial(bool, is_due), at="the clock of checkpoints")
        if is_due or learn.interrupt is not None:
            self._save(learn, learn.i + 1)

    def after_fit(self, learn: Learner) -> None:
        """Write the last checkpoint, from which a longer fit may go on."""
        if self._is_on and self._has_begun:
            self._end_epoch(learn, is_last=True)

    def cleanup_fit(self, learn: Learner) -> None:
        """Write a last checkpoint if a callback has ended the fit, and wait for the file."""
        if not self._is_on:
            return
        with closing(self._files):
            try:
                if self._has_begun and isinstance(learn.ended_by, CancelFitException):
                    self._save(learn, 0, is_best=self._is_best(learn), is_over=True)
            finally:
                self._is_on = self._writes = False

    def _begin(self, learn: Learner) -> None:
        """Look at loaders, each before its turn; in a fit that writes, at files that it replaces."""
        self._has_begun = True
        if self._writes:
            self._unsaved.look(learn, may_refuse=self.exact)
        self._files.begin(self._n_batches, goes_on=learn.is_resumed or self._n_batches > 0)
        loaders = Loaders.of(learn.dls)
        self._loaders.agree_on(
            learn.job.from_first(lambda: {name: seed_of(dl) for name, dl in loaders.items()}, at="the seeds of loaders")
        )
        for name, loader in loaders.items():  # each now, since others may use it before its turn
            self._loaders.get(name, loader)
        if self._keeps_first and not learn.is_resumed and not self._n_batches:
            self._save(learn, 0)

    def _end_epoch(self, learn: Learner, is_last: bool = False) -> None:
        self._n_done += 1
        is_due = self._every.unit == "epochs" and self._n_done % self._every.n == 0
        is_best = self._is_best(learn)
        if is_due or is_best or is_last:
            self._save(learn, 0, is_best=is_best)

    def _is_best(self, learn: Learner) -> bool:
        """Tell whether the epoch that is done is the best so far, and remember it if so."""
        if self.metric is None or not len(learn.history):
            return False
        better = self._monitor.better_in(learn.history[-1], self.best)
        if better is not None:
            self.best = better
        return better is not None

    # -- how -------------------------------------------------------------------------------------------------------

    def _placed(self, learn: Learner) -> Any:
        """Return the loader of this pass, from where it is to begin."""
        name = learn.dl_name
        if learn.dl is not Loaders.of(learn.dls)[name] and isinstance(learn.dl, OrderedLoader | SkipLoader):
            return learn.dl  # another callback of this kind has done it
        resumable = self._loaders.get(name, learn.dl)
        if self._writes and learn.i and (why := resumable.why_read_again):
            tell(f"resume: reads {learn.i} batches of loader {name!r} again, since {why}.")
        return resumable.at(learn.history.state_dict()["start"] + self._n_done, learn.i)

    def _save(self, learn: Learner, i: int, *, is_best: bool = False, is_over: bool = False) -> None:
        if not self._writes:
            return
        with trained_weights(learn):  # in a validation, an average may be in their place
            self._files.wait()
            if not any(learn.job.gather(_holds_nan(learn.model), at="a checkpoint")):
                self._save_trained(learn, i, is_best=is_best, is_over=is_over)
                return
        warn_of_unwritten(f"the weights hold NaN after batch {self._n_batches}; the last one is kept.")
        self._files.save_losses(learn, self._n_batches)

    def _save_trained(self, learn: Learner, i: int, *, is_best: bool, is_over: bool) -> None:
        self._unsaved.look(learn)
        self._pass_within = learn.dl_name if i else ""
        for cb in learn.cbs:
            if hasattr(cb, "get_ready_to_save"):
                cb.get_ready_to_save(learn)
        try:
            state = fit_state(learn, i, self._rng, self._options, is_over=is_over)
            self._files.save(learn, state, self._n_batches, is_best=is_best)
        except ShardsError as error:
            warn_of_unwritten(error)
            return
        except (TypeError, LearnerError) as error:  # what a callback keeps is not plain data
            if learn.interrupt is None:
                raise
            warn_of_unwritten(error)  # an interrupt must end the training all the same
            return
        finally:
            self._pass_within = ""
        if learn.interrupt is not None and learn.job.is_first and self._files.wait():
            again = "fit(n, resume=True)" if learn.steps is None else "fit(steps=n, resume=True)"
            tell(f"a checkpoint is in {self.path}; `{again}` goes on from it.", to="stderr")

    # -- going on --------------------------------------------------------------------------------------------------

    def find_checkpoint(self, path: str | os.PathLike[str] | None = None) -> tuple[Path, dict[str, Any]] | None:
        """Return path and content of the checkpoint to go on from: the newest that is whole, or that of a path.

        Args:
            path: a file, or a folder of checkpoints; this callback's folder if None.

        Returns:
            None, and a line that says so, if there is none yet in this callback's folder.

        Raises:
            LearnerError: if there are some and none is whole, the file cannot be read, or there is none at a path that
                was given.
        """
        if path is None:
            if (found := self._files.folder.newest()) is None:
                tell(f"resume: no checkpoint in {self.path} yet; begins anew.")
            return found
        return read_newest(path)

    def state_dict(self) -> dict[str, Any]:
        """Return what is counted, seeds, the best epoch, and the states of loaders that have one."""
        loaders = self._loaders.state_dict()
        return {
            "n_batches": self._n_batches,
            "n_done": self._n_done,
            "every": list(self._every),
            "pace": self._pace.state_dict(),
            "best": None if self.best is None else list(self.best),
            "seeds": loaders["seeds"],
            "loaders": loaders["states"],
            "pass_within": self._pass_within,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._n_batches, self._n_done = state["n_batches"], state["n_done"]
        if list(self._every) == state["every"]:  # it may be another one now
            self._pace.load_state_dict(state["pace"])
        self.best = None if state["best"] is None else Best(*state["best"])
        if self._is_on and self._has_begun:  # within a pass: its loaders have gone on from their states
            return
        states = dict(state["loaders"])
        if not self._is_on:  # the next fit begins its passes anew
            states.pop(state["pass_within"], None)
        self._loaders = ResumableLoaders(state["seeds"], states)


def _holds_nan(model: nn.Module) -> bool:
    return any(bool(t.isnan().any()) for t in local_parts(chain(model.parameters(), model.buffers())))
