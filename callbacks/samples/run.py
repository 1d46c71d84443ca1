"""Tie a run on record to a learner: what ran, its history as scalars, and how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from callbacks.keep.checkpoint import CheckpointCallback
from callbacks.loggers.fit_info import describe_end, describe_fit
from learner import Callback, Learner
from learner.records.run import Run
from learner.records.scalars import axis_of
from learner.records.table import Table


class RunCallback(Callback):
    """Record a fit in a run: what is trained and how, a row of scalars for each epoch, and how it ended.

    The rows are those of `learn.history`, with the epoch as their axis; each is written as soon as its epoch is done,
    so a run that is killed leaves all the epochs it finished. Epochs count on from fit to fit. A row that is on record
    to the last digit is not written again, as when training goes on from a checkpoint before it; of one that is there
    in part, as an interrupt leaves it, the rest is written.

    During the fit the run is the active one: `learner.records.log`, `collect_metrics` and `CollectCallback` write to
    it. Pictures of callbacks that have a method `figures`, as `ActivationStats`, are kept when the fit has ended well.
    `run.info["learner"]` says what is trained; after the fit `run.info["seconds"]` says how long it took, and
    `run.info["learning_rates"]` a rate of each optimizer group for each epoch, as it was when its training pass ended.
    `run.info["status"]` says how it stands: "running" (or killed),
    "finished", "failed" (`run.info["error"]` says by what), "interrupted" (by Ctrl-C or SIGTERM). Nothing is written in
    a sandbox.

    Args:
        run: as `Run.create` or `Run.open` gives it.

    Reads:
        `history`, `epoch`; for the summary `model`, `loss_f`, `opt`, `n_epochs`, `dls`, `cbs`.

    Raises:
        TypeError: if `run` is none.
        LearnerError: if the run cannot be written to.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from learner import Loaders
        >>> run = Run.create(tempfile.mkdtemp())
        >>> dls = Loaders.from_arrays(train=(torch.zeros(4, 1), torch.zeros(4, 1)))
        >>> Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=RunCallback(run)).fit(2)
        >>> run.scalars()["train/loss"].x, run.info["status"], run.info["learner"]["model"]
        ([0, 1], 'finished', 'Linear')
    """

    order = -100  # among the first to begin and the last to end, so that the run is active for the others
    is_observer = True
    state = ("_first", "_epoch", "_rates")

    def __init__(self, run: Run) -> None:
        if not isinstance(run, Run):
            raise TypeError(f"`run` must be a Run, got {run!r}; do `Run.create(path)`.")
        self.run = run
        self._is_on = False
        self._on_record: list[dict[str, str]] = []
        self._rates: list[list[float]] = []
        self._start = 0.0  # [s]
        self._first = self._n_written = self._epoch = 0  # the fit's first row in the history; how many are on record

    def before_fit(self, learn: Learner) -> None:
        """Put down what is going to run, and make the run the active one."""
        if learn.in_sandbox:
            return
        self._first = sys.maxsize if learn.is_resumed else len(learn.history)  # no row before the state is put back
        self._n_written = self._epoch = 0
        self._rates, self._start = [], time.monotonic()
        self._on_record = [_text(row) for row in self.run.logged() if axis_of(row) == "epoch"]
        for dl in learn.dls.values():
            if isinstance(dataset := getattr(dl, "dataset", None), Table):
                self.run.register_table(dataset)
        # A SeedCallback has seeded by now.
        what = {"learner": describe_fit(learn), "checkpoints": _checkpoints_of(learn)}
        self.run.update(status="running", error=None, seed=torch.initial_seed(), **what)
        self.run.__enter__()
        self._is_on = True

    def before_epoch(self, learn: Learner) -> None:
        """Write the epoch before, when a new one begins; its row is complete by then."""
        if self._is_on and learn.epoch != self._epoch:
            self._write(learn)
            self._epoch = learn.epoch

    def after_epoch(self, learn: Learner) -> None:
        """Note the rates of a training pass, before a schedule sets those of the next."""
        if self._is_on and learn.training and learn.opt is not None:
            self._rates.append([float(group["lr"]) for group in learn.opt.param_groups])

    def cleanup_fit(self, learn: Learner) -> None:
        """Write the last epoch, and how the fit ended."""
        if not self._is_on:
            return
        self._is_on = False
        self.run.__exit__(None, None, None)
        self._write(learn)
        seconds = round(time.monotonic() - self._start, 3)
        self.run.update(**describe_end(learn.ended_by), seconds=seconds, learning_rates=self._rates)
        if self.run.info["status"] == "finished":
            self._keep_figures(learn)

    def _write(self, learn: Learner) -> None:
        """Log the rows that the history has and the run has not, or what is missing of them."""
        rows = learn.history.rows[self._first + self._n_written :]
        self._n_written += len(rows)
        for full in rows:
            row = {name: value for name, value in full.items() if not isinstance(value, str)}
            if "cut_short" in full:
                self.run.update(cut_short=f"epoch {row['epoch']}, {full['cut_short']}")
            text = _text(row)
            known = {name for old in self._on_record if old.items() <= text.items() for name in old} - {"epoch"}
            if row.keys() - known > {"epoch"}:
                self.run.log({name: value for name, value in row.items() if name not in known})

    def _keep_figures(self, learn: Learner) -> None:
        """Keep the pictures of callbacks that have some."""
        for cb in learn.cbs:
            for name, figure in cb.figures().items() if hasattr(cb, "figures") else ():
                from matplotlib import pyplot as plt

                self.run.add_figure(name, figure)
                plt.close(figure)


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row with its values as text, by which NaN is known again."""
    return {name: str(value) for name, value in row.items()}


def _checkpoints_of(learn: Learner) -> str | None:
    """Return the folder that checkpoints are written to, where the losses of all batches are as well."""
    return next((str(cb.path) for cb in learn.cbs if isinstance(cb, CheckpointCallback)), None)
