"""Show how a fit goes: a bar for each pass, a table that grows a row an epoch, and in Jupyter a loss curve."""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from fastcore.imports import in_notebook
from tqdm.std import tqdm

from callbacks.show.progress_notebook import Curve, Notebook
from callbacks.show.progress_terminal import Terminal
from callbacks.show.remaining import Remaining, in_words
from learner import Callback, Learner
from learner.data.wrapper import length_of
from learner.errors import CancelException
from learner.history import format_value
from learner.loop.tell import tell

_PAUSE = 0.1  # [s] between two drawings of the curve, at least
_SHARE = 0.1  # [0-1] of the time that drawing may take, at most


class ProgressCallback(Callback):
    """Show a bar for each pass, with the loss of the batch, and a table of the metrics with a row for each epoch.

    A bar says how far the fit is and how long it will still take, where its loaders have a length:
    `epoch 3/30 train ... 14/80 ... 1,523 samples/s, 0:41 left`; epochs are numbered as in the history, from 0.

    In a terminal the bar goes to stderr and vanishes, the rows go to stdout and stay. What is no terminal gets a plain
    line instead, once a minute in a pass that takes as long. In Jupyter all of it is one output, of which the table
    stays. Passes outside a fit show a bar alone, and so does a fit in a sandbox. Where a Cancel exception ends a pass
    and gives a reason, as `CancelFitException("the loss is too high")`, a line says so.

    A fit that goes on from a checkpoint shows the whole table and curve, also what was before; its first bar begins
    where it goes on, and the time of a row is that of both.

    The loss is read, which waits for the device, only when it is drawn: at most 10 times a second.

    Args:
        plot: in Jupyter, draw a live curve of the training loss of each batch, and of the other loaders' mean losses.

    Reads: i, n_batches, loss, epoch, dls, dl_name, role, training, metrics, history, throughput, in_sandbox.

    Example:
        >>> import torch
        >>> from learner import Loaders
        >>> x = torch.zeros(8, 3)
        >>> learn = Learner(torch.nn.Linear(3, 1), Loaders.from_arrays(train=(x, x[:, :1]), batch_size=4),
        ...                 torch.nn.functional.mse_loss, cbs=ProgressCallback())
        >>> learn.fit(2)
        epoch  train/loss      time
            0  ...
            1  ...
    """

    order = 100
    ranks = "first"

    def __init__(self, plot: bool = False) -> None:
        self.plot = plot
        self._screen: Terminal | Notebook | None = None
        self._curve: Curve | None = None
        self._rows: list[tuple[list[str], dict[str, str]]] = []  # columns and cells
        self._n_shown = 0  # of the rows
        self._round: _Round | None = None  # the row that is growing
        self._epoch: int | None = None  # of that row, or of the last one
        self._columns: dict[str, dict[str, None]] = {}
        self._is_fitting = False
        self._has_table = True  # not while something is tried out, whose rows are not to stay
        self._pauses_until = self._next = -math.inf  # [s] when drawing is allowed, and when it is due
        self._curve_due = -math.inf  # [s] when the curve may be drawn again
        self._remaining: Remaining | None = None
        self._n_open = 0  # passes: one, and those within it

    def before_fit(self, learn: Learner) -> None:
        """Start a new table."""
        self._curve = Curve() if self.plot and in_notebook() and not learn.in_sandbox else None
        self._screen = Notebook(self._curve) if in_notebook() else Terminal()
        self._rows, self._n_shown, self._round, self._epoch = [], 0, None, None
        self._is_fitting, self._has_table = True, not learn.in_sandbox
        self._start = learn.history.state_dict()["start"]
        self._columns = {name: {} for name in learn.dls}
        self._remaining = Remaining({name: length_of(dl) for name, dl in learn.dls.items()}, learn.n_epochs)
        self._n_open, self._curve_due = 0, -math.inf

    def before_epoch(self, learn: Learner) -> None:
        """Open a bar, and a row if a round begins."""
        if self._screen is None:
            self._screen = Notebook() if in_notebook() else Terminal()
        if self._is_fitting and learn.epoch != self._epoch and not learn.in_sandbox:
            self._end_round()
            self._round, self._epoch = _Round(self._start + learn.epoch), learn.epoch
        self._show_rows()
        self._screen.open(self._label(learn), learn.i)
        self._n_open += 1
        if self._remaining is not None and self._n_open == 1:
            self._remaining.begin(learn.dl_name, learn.i, perf_counter())
        leaves_a_table = self._is_fitting and not learn.in_sandbox
        waits = not leaves_a_table or self._screen.is_plain
        due = perf_counter() + self._screen.patience if waits else self._pauses_until
        self._next = max(due, self._pauses_until)
        if perf_counter() >= self._next:
            self._draw(learn, learn.i)

    def after_batch(self, learn: Learner) -> None:
        """Move the bar, if it is time."""
        if self._curve is not None and learn.training and learn.loss is not None:
            self._curve.new.append(learn.loss.detach())
        if perf_counter() >= self._next:
            self._draw(learn, learn.i + 1)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Close the bar, also of a pass that was cut short; write the row if this was the last loader."""
        if self._screen is None:
            return
        self._screen.close()
        self._n_open -= 1
        if self._remaining is not None and self._n_open == 0:
            self._remaining.end(learn.i + (learn.batch is not None), perf_counter())
        metrics = learn.metrics.get(learn.dl_name, {})
        if self._curve is not None and not learn.training and "loss" in metrics:
            self._curve.mark(learn.dl_name, metrics["loss"])
        if not self._screen.bars and self._round is not None:
            self._round.take(learn.dl_name, metrics)
            self._columns.setdefault(learn.dl_name, {}).update(dict.fromkeys(metrics))
            # An empty row waits until it is known whether the fit goes on; so does one of which a loader is
            # missing, since this pass may be one that a callback asked for.
            if learn.dl_name == list(learn.dls)[-1] and self._round.cells and self._round.seen.issuperset(learn.dls):
                self._end_round()
        self._tell_reason(learn)
        if not self._is_fitting and not self._screen.bars:
            self._end()

    def after_fit(self, learn: Learner) -> None:
        """Write the row of a round that was cancelled."""
        self._end_round()

    def cleanup_fit(self, learn: Learner) -> None:
        """Write what an interrupted round has finished, and leave the table."""
        if self._round is not None and not self._round.cells:
            self._round = None
        self._end_round()
        self._is_fitting, self._remaining = False, None
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """Return the table, the row that is growing, and the curve."""
        return {
            "rows": list(self._rows),
            "round": None if self._round is None else self._round.state_dict(),
            "epoch": self._epoch,
            "columns": {name: list(metrics) for name, metrics in self._columns.items()},
            "curve": None if self._curve is None else self._curve.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, for the fit that goes on."""
        if not (self._is_fitting and self._has_table):
            return
        self._rows, self._epoch = state["rows"], state["epoch"]
        self._round = None if state["round"] is None else _Round(**state["round"])
        self._columns = {name: dict.fromkeys(metrics) for name, metrics in state["columns"].items()}
        if self._curve is not None and state["curve"] is not None:
            self._curve.load_state_dict(state["curve"])

    def _label(self, learn: Learner) -> str:
        """Say which pass it is, of how many epochs."""
        if not self._is_fitting:
            return learn.dl_name
        of = "" if learn.n_epochs is None else f"/{self._start + learn.n_epochs}"
        return f"epoch {self._start + learn.epoch}{of} {learn.dl_name}"

    def _draw(self, learn: Learner, n: int) -> None:
        """Show how far the pass is, when `n` of its batches are done."""
        if self._screen is None:
            return
        start = perf_counter()
        is_outer = self._remaining is not None and self._n_open == 1
        left = self._remaining.left(learn.epoch, n, start) if is_outer and self._remaining is not None else None
        notes = [] if learn.steps is None else [f"step {learn.n_steps - learn.first_step} of {learn.steps}"]
        notes += [] if learn.loss is None else [f"loss {format_value(learn.loss.item())}"]
        notes += [rate] if (rate := str(learn.throughput)) else []
        notes += [] if left is None else [f"{in_words(left)} left"]
        self._screen.move(n, learn.n_batches, ", ".join(notes))
        end = perf_counter()
        self._next = self._pauses_until = end + max(self._screen.pause, (end - start) / _SHARE)
        if self._curve is not None and end >= self._curve_due:
            self._draw_curve(self._curve)

    def _tell_reason(self, learn: Learner) -> None:
        """Say why a pass of the fit's own was ended, if the exception that did it says so."""
        reason = str(learn.ended_by) if isinstance(learn.ended_by, CancelException) else ""
        if reason and self._is_fitting and self._n_open == 0 and not learn.in_sandbox:
            tell(f"epoch {self._start + learn.epoch} {learn.dl_name}, batch {learn.i}: ended, {reason}")

    def _draw_curve(self, curve: Curve) -> None:
        """Draw the curve for the next drawings of the bar; it takes longer, and the bar must not wait for its pause."""
        start = perf_counter()
        curve.draw()
        end = perf_counter()
        self._curve_due = end + max(_PAUSE, (end - start) / _SHARE)

    def _end_round(self) -> None:
        if self._round is not None:
            columns = [f"{loader}/{metric}" for loader, metrics in self._columns.items() for metric in metrics]
            self._rows.append((["epoch", *columns, "time"], self._round.row()))
            self._round = None
        self._show_rows()

    def _show_rows(self) -> None:
        """Write the rows that were not written yet: that which has grown, or those of before a fit that goes on."""
        if self._screen is not None:
            for row in self._rows[self._n_shown :]:
                self._screen.add_row(*row)
            self._n_shown = len(self._rows)

    def _end(self) -> None:
        if self._screen is not None:
            self._screen.end()
        self._screen = self._curve = self._round = None


class _Round:
    """An epoch as it comes in, loader by loader."""

    def __init__(
        self, number: int, cells: dict[str, str] | None = None, seen: Iterable[str] = (), seconds: float = 0.0
    ) -> None:
        self.cells = cells or {}
        self.seen = set(seen)  # loaders
        self._number = number
        self._end = perf_counter()
        self._start = self._end - seconds

    def state_dict(self) -> dict[str, Any]:
        seconds = perf_counter() - self._start
        return {"number": self._number, "cells": dict(self.cells), "seen": set(self.seen), "seconds": seconds}

    def take(self, loader: str, metrics: dict[str, float]) -> None:
        self.seen.add(loader)
        self.cells.update({f"{loader}/{metric}": format_value(value) for metric, value in metrics.items()})
        self._end = perf_counter()

    def row(self) -> dict[str, str]:
        seconds = self._end - self._start
        time = f"{seconds:.1f}s" if seconds < 60 else str(tqdm.format_interval(seconds))
        return {"epoch": str(self._number), **self.cells, "time": time}
