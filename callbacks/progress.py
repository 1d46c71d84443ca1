"""Show how a fit goes: a bar for each pass, a table that grows a row an epoch, and in Jupyter a loss curve."""

from __future__ import annotations

import base64
import io
import math
import sys
from time import perf_counter
from typing import Any

import torch
from fastcore.imports import in_notebook
from fastcore.xml import Div, Img, Table, Tbody, Td, Th, Thead, Tr, ft, to_xml
from torch import Tensor
from tqdm.std import tqdm

from learner import Callback, Learner
from learner.history import format_value

_PAUSE = 0.1  # [s] between two drawings, at least
_SHARE = 0.1  # [0-1] of the time that drawing may take, at most


class ProgressCallback(Callback):
    """Show a bar for each pass, with the loss of the batch, and a table of the metrics with a row for each epoch.

    In a terminal the bar goes to stderr and vanishes, the rows go to stdout and stay; what is no terminal gets no
    bar, so a log file holds plain lines. In Jupyter all of it is one output, of which the table stays. Passes
    outside a fit show a bar alone, and so does a fit in a sandbox.

    The loss is read, which waits for the device, only when it is drawn: at most 10 times a second.

    Args:
        plot: in Jupyter, draw a live curve of the training loss of each batch, and of the other loaders' mean losses.

    Reads: i, n_batches, loss, epoch, dls, dl_name, role, training, metrics, history, in_sandbox.

    Example:
        >>> from learner import Loaders
        >>> x = torch.zeros(8, 3)
        >>> learn = Learner(torch.nn.Linear(3, 1), Loaders.from_arrays(train=(x, x[:, :1]), batch_size=4),
        ...                 torch.nn.functional.mse_loss, cbs=ProgressCallback())
        >>> learn.fit(2)
        epoch  train/loss      time
            0      0...
            1      0...
    """

    order = 100

    def __init__(self, plot: bool = False) -> None:
        self.plot = plot
        self._screen: _Terminal | _Notebook | None = None
        self._curve: _Curve | None = None
        self._round: _Round | None = None  # the row that is growing
        self._epoch: int | None = None  # of that row, or of the last one
        self._is_fitting = False
        self._pauses_until = self._next = -math.inf  # [s] when drawing is allowed, and when it is due

    def before_fit(self, learn: Learner) -> None:
        """Start a new table."""
        self._curve = _Curve() if self.plot and in_notebook() and not learn.in_sandbox else None
        self._screen = _Notebook(self._curve) if in_notebook() else _Terminal()
        self._round = self._epoch = None
        self._is_fitting = True
        self._start = learn.history.state_dict()["start"]
        self._columns: dict[str, dict[str, None]] = {name: {} for name in learn.dls}

    def before_epoch(self, learn: Learner) -> None:
        """Open a bar, and a row if a round begins."""
        if self._screen is None:
            self._screen = _Notebook() if in_notebook() else _Terminal()
        if self._is_fitting and learn.epoch != self._epoch and not learn.in_sandbox:
            self._end_round()
            self._round, self._epoch = _Round(self._start + learn.epoch), learn.epoch
        self._screen.open(f"epoch {self._start + learn.epoch} {learn.dl_name}" if self._is_fitting else learn.dl_name)
        leaves_a_table = self._is_fitting and not learn.in_sandbox
        due = self._pauses_until if leaves_a_table else perf_counter() + self._screen.patience
        self._next = max(due, self._pauses_until) if self._screen.is_seen else math.inf
        if perf_counter() >= self._next:
            self._draw(0, learn.n_batches, None)

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
        if self._round is not None and self._round.cells:
            self._end_round()
        self._is_fitting = False
        self._end()

    def _draw(self, n: int, total: int | None, loss: Tensor | None) -> None:
        if self._screen is None:
            return
        note = "" if loss is None else f"loss {format_value(loss.item())}"
        start = perf_counter()
        self._screen.move(n, total, note)
        end = perf_counter()
        self._next = self._pauses_until = end + max(_PAUSE, (end - start) / _SHARE)

    def _end_round(self) -> None:
        if self._round is not None and self._screen is not None:
            columns = [f"{loader}/{metric}" for loader, metrics in self._columns.items() for metric in metrics]
            self._screen.add_row(["epoch", *columns, "time"], self._round.row())
            self._round = None

    def _end(self) -> None:
        if self._screen is not None:
            self._screen.end()
        self._screen = self._curve = self._round = None


class _Round:
    """An epoch as it comes in, loader by loader."""

    def __init__(self, number: int) -> None:
        self.cells: dict[str, str] = {}
        self.seen: set[str] = set()  # loaders
        self._number = number
        self._start = self._end = perf_counter()

    def take(self, loader: str, metrics: dict[str, float]) -> None:
        self.seen.add(loader)
        self.cells.update({f"{loader}/{metric}": format_value(value) for metric, value in metrics.items()})
        self._end = perf_counter()

    def row(self) -> dict[str, str]:
        seconds = self._end - self._start
        time = f"{seconds:.1f}s" if seconds < 60 else str(tqdm.format_interval(seconds))
        return {"epoch": str(self._number), **self.cells, "time": time}


def _line(columns: list[str], cells: dict[str, str]) -> str:
    return "  ".join(cells.get(name, "").rjust(5 if name == "epoch" else max(8, len(name))) for name in columns)


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

    def open(self, label: str) -> None:
        # The delay leaves the first drawing to `move`.
        bar = Bar(desc=label, leave=False, disable=None, dynamic_ncols=True, mininterval=0, miniters=0, delay=1e-9)
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
            tqdm.write(_line(columns, dict(zip(columns, columns, strict=True))))
        tqdm.write(_line(columns, cells))  # as `print`, but keeps clear of other bars
        sys.stdout.flush()  # a killed run leaves its rows in the log

    def end(self) -> None:
        """Leave the rows as they are."""


class _Notebook:
    """Bars, table and curve in one output, drawn anew at each change; its static HTML stays in the saved file."""

    is_seen = True
    patience = 0.5  # [s] before a bar that will leave nothing: its output stays in the cell as an empty line

    def __init__(self, curve: _Curve | None = None) -> None:
        self.bars: list[dict[str, Any]] = []
        self._curve = curve
        self._columns: list[str] = []
        self._rows: list[dict[str, str]] = []
        self._handle: Any = None

    def open(self, label: str) -> None:
        self.bars.append({"label": label, "n": 0, "total": None, "note": "", "start": perf_counter()})

    def move(self, n: int, total: int | None, note: str) -> None:
        self.bars[-1].update(n=n, total=total, note=note)
        self._show()

    def close(self) -> None:
        self.bars.pop()

    def add_row(self, columns: list[str], cells: dict[str, str]) -> None:
        self._columns = columns
        self._rows.append(cells)

    def end(self) -> None:
        if self._handle is not None or self._rows:
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        data = {"text/html": self._html(), "text/plain": self._text()}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

    def _html(self) -> str:
        parts = []
        if self._rows:
            rows = [Tr(*[Td(cells.get(name, "")) for name in self._columns]) for cells in self._rows]
            parts.append(Table(Thead(Tr(*[Th(name) for name in self._columns])), Tbody(*rows)))
        for bar in self.bars:
            parts.append(Div(ft("progress", value=bar["n"] if bar["total"] else None, max=bar["total"]), _state(bar)))
        if self._curve is not None and (image := self._curve.image()):
            parts.append(Img(src=f"data:image/png;base64,{image}", alt="loss curve"))
        return str(to_xml(Div(*parts), indent=False)) if parts else ""

    def _text(self) -> str:
        header = dict(zip(self._columns, self._columns, strict=True))
        return "\n".join(_line(self._columns, cells) for cells in [header, *self._rows])


def _state(bar: dict[str, Any]) -> str:
    """Write what stands beside a bar: how far it is, for how long it has gone and will go on."""
    left = "<{remaining}" if bar["total"] else ""
    form = f"{{n_fmt}}/{{total_fmt}} [{{elapsed}}{left}, {{rate_fmt}}{{postfix}}]"
    state = tqdm.format_meter(
        bar["n"], bar["total"], perf_counter() - bar["start"], bar_format=form, postfix=bar["note"] or None
    )
    return f" {bar['label']} {state}"


class _Curve:
    """Training loss of each batch, and mean losses of other loaders where they were measured."""

    _MAX_POINTS = 2000  # more would not be seen

    def __init__(self) -> None:
        self.new: list[Tensor] = []  # not read yet: reading waits for the device
        self._losses: list[float] = []
        self._marks: dict[str, list[tuple[int, float]]] = {}

    def mark(self, loader: str, loss: float) -> None:
        self._marks.setdefault(loader, []).append((len(self._losses) + len(self.new), loss))

    def image(self) -> str:
        """Return the curve as PNG in base64; an empty string if there is nothing to draw."""
        from matplotlib.figure import Figure  # without pyplot there is no global state to clean up

        if self.new:
            self._losses += torch.stack([loss.reshape(()) for loss in self.new]).tolist()
            self.new.clear()
        if not self._losses and not self._marks:
            return ""
        figure = Figure(figsize=(6, 3), layout="tight")
        ax = figure.subplots()
        step = len(self._losses) // self._MAX_POINTS + 1
        ax.plot(range(1, len(self._losses) + 1, step), self._losses[::step], linewidth=1, label="train")
        for loader, points in self._marks.items():
            ax.plot(*zip(*points, strict=True), marker="o", label=loader)
        ax.set(xlabel="training batches", ylabel="loss")
        ax.legend()
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return base64.b64encode(file.getvalue()).decode()
