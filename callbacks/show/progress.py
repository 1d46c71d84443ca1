"""Show how a fit goes: a bar for each pass, a table that grows a row an epoch, and in Jupyter a loss curve."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from fastcore.imports import in_notebook
from torch import Tensor
from tqdm.std import tqdm

from callbacks.show.progress_notebook import Curve, Notebook, line_of
from learner import Callback, Learner
from learner.history import format_value

_PAUSE = 0.1  # [s] between two drawings, at least
_SHARE = 0.1  # [0-1] of the time that drawing may take, at most


class ProgressCallback(Callback):
    """Show a bar for each pass, with the loss of the batch, and a table of the metrics with a row for each epoch.

    In a terminal the bar goes to stderr and vanishes, the rows go to stdout and stay; what is no terminal gets no
    bar, so a log file holds plain lines. In Jupyter all of it is one output, of which the table stays. Passes
    outside a fit show a bar alone, and so does a fit in a sandbox. A fit that goes on from a checkpoint shows the whole
    table and curve, also what was before; its first bar begins where it goes on, and the time of a row is that of both.

    The loss is read, which waits for the device, only when it is drawn: at most 10 times a second.

    Args:
        plot: in Jupyter, draw a live curve of the training loss of each batch, and of the other loaders' mean losses.

    Reads: i, n_batches, loss, epoch, dls, dl_name, role, training, metrics, history, in_sandbox.

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

    def __init__(self, plot: bool = False) -> None:
        self.plot = plot
        self._screen: _Terminal | Notebook | None = None
        self._curve: Curve | None = None
        self._rows: list[tuple[list[str], dict[str, str]]] = []  # columns and cells
        self._n_shown = 0  # of the rows
        self._round: _Round | None = None  # the row that is growing
        self._epoch: int | None = None  # of that row, or of the last one
        self._columns: dict[str, dict[str, None]] = {}
        self._is_fitting = False
        self._pauses_until = self._next = -math.inf  # [s] when drawing is allowed, and when it is due

    def before_fit(self, learn: Learner) -> None:
        """Start a new table."""
        self._curve = Curve() if self.plot and in_notebook() and not learn.in_sandbox else None
        self._screen = Notebook(self._curve) if in_notebook() else _Terminal()
        self._rows, self._n_shown, self._round, self._epoch = [], 0, None, None
        self._is_fitting = True
        self._start = learn.history.state_dict()["start"]
        self._columns = {name: {} for name in learn.dls}

    def before_epoch(self, learn: Learner) -> None:
        """Open a bar, and a row if a round begins."""
        if self._screen is None:
            self._screen = Notebook() if in_notebook() else _Terminal()
        if self._is_fitting and learn.epoch != self._epoch and not learn.in_sandbox:
            self._end_round()
            self._round, self._epoch = _Round(self._start + learn.epoch), learn.epoch
        self._show_rows()
        label = f"epoch {self._start + learn.epoch} {learn.dl_name}" if self._is_fitting else learn.dl_name
        self._screen.open(label, learn.i)
        leaves_a_table = self._is_fitting and not learn.in_sandbox
        due = self._pauses_until if leaves_a_table else perf_counter() + self._screen.patience
        self._next = max(due, self._pauses_until) if self._screen.is_seen else math.inf
        if perf_counter() >= self._next:
            self._draw(learn.i, learn.n_batches, None)

    def after_batch(self, learn: Learner) -> None:
        """Move the bar, if it is time."""
        if self._curve is not None and learn.training and learn.loss is not None:
            self._curve.new.append(learn.loss.detach())
        if perf_counter() >= self._next:
            self._draw(learn.i + 1, learn.n_batches, learn.loss)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Close the bar, also of a pass that was cut short; write the row if this was the last loader."""
        if self._screen is None:
            return
        self._screen.close()
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
        self._is_fitting = False
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
        if not self._is_fitting:
            return
        self._rows, self._epoch = state["rows"], state["epoch"]
        self._round = None if state["round"] is None else _Round(**state["round"])
        self._columns = {name: dict.fromkeys(metrics) for name, metrics in state["columns"].items()}
        if self._curve is not None and state["curve"] is not None:
            self._curve.load_state_dict(state["curve"])

    def _draw(self, n: int, total: int | None, loss: Tensor | None) -> None:
        if self._screen is None:
            return
        note = "" if loss is None else f"loss {format_value(loss.item())}"
        start = perf_counter()
        self._screen.move(n, total, note)
        end = perf_counter()
        self._next = self._pauses_until = end + max(_PAUSE, (end - start) / _SHARE)

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


class Bar(tqdm):  # type: ignore[misc]
    """A bar of tqdm's that starts no thread to watch it."""

    monitor_interval = 0


class _Terminal:
    """Bars on stderr if that is a terminal; the table on stdout, line by line."""

    patience = 0.0

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.is_seen = True
        self._columns: list[str] = []

    def open(self, label: str, first: int) -> None:
        # The delay leaves the first drawing to `move`.
        bar = Bar(
            desc=label,
            initial=first,
            leave=False,
            disable=None,
            dynamic_ncols=True,
            mininterval=0,
            miniters=0,
            delay=1e-9,
        )
        self.bars.append(bar)
        self.is_seen = not bar.disable

    def move(self, n: int, total: int | None, note: str) -> None:
        bar = self.bars[-1]
        bar.total = total
        bar.set_postfix_str(note, refresh=False)
        bar.update(n - bar.n)

    def close(self) -> None:
        self.bars.pop().close()

    def add_row(self, columns: list[str], cells: dict[str, str]) -> None:
        if columns != self._columns:
            self._columns = columns
            tqdm.write(line_of(columns, dict(zip(columns, columns, strict=True))))
        tqdm.write(line_of(columns, cells))  # as `print`, but keeps clear of other bars
        sys.stdout.flush()  # a killed run leaves its rows in the log

    def end(self) -> None:
        """Leave the rows as they are."""
