"""What a notebook shows of a fit: bars, a table and a loss curve in one output."""

from __future__ import annotations

import base64
import io
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm.std import tqdm


def line_of(columns: list[str], cells: dict[str, str]) -> str:
    """Write a row of a table as text."""
    return "  ".join(cells.get(name, "").rjust(5 if name == "epoch" else max(8, len(name))) for name in columns)


class Notebook:
    """Bars, table and curve in one output, drawn anew at each change; its static HTML stays in the saved file."""

    is_plain = False
    pause = 0.1  # [s] between two drawings, at least
    patience = 0.5  # [s] before a bar that will leave nothing: its output stays in the cell as an empty line

    def __init__(self, curve: Curve | None = None) -> None:
        self.bars: list[dict[str, Any]] = []
        self._curve = curve
        self._columns: list[str] = []
        self._rows: list[dict[str, str]] = []
        self._handle: Any = None

    def open(self, label: str, first: int) -> None:
        """Begin a bar below those that there are, at a batch."""
        bar = {"label": label, "first": first, "n": first, "total": None, "note": "", "start": perf_counter()}
        self.bars.append(bar)

    def move(self, n: int, total: int | None, note: str) -> None:
        """Bring the lowest bar to a batch."""
        self.bars[-1].update(n=n, total=total, note=note)
        self._show()

    def close(self) -> None:
        """Take the lowest bar away."""
        self.bars.pop()

    def add_row(self, columns: list[str], cells: dict[str, str]) -> None:
        """Add a row to the table, to be seen when there is something to draw."""
        self._columns = columns
        self._rows.append(cells)

    def end(self) -> None:
        """Show what stays."""
        if self._curve is not None:
            self._curve.draw()
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
        from fastcore.xml import Div, Img, Table, Tbody, Td, Th, Thead, Tr, ft, to_xml  # takes 40 ms to import

        parts = []
        if self._rows:
            rows = [Tr(*[Td(cells.get(name, "")) for name in self._columns]) for cells in self._rows]
            parts.append(Table(Thead(Tr(*[Th(name) for name in self._columns])), Tbody(*rows)))
        for bar in self.bars:
            parts.append(Div(ft("progress", value=bar["n"] if bar["total"] else None, max=bar["total"]), bar_text(bar)))
        if self._curve is not None and (image := self._curve.image):
            parts.append(Img(src=f"data:image/png;base64,{image}", alt="loss curve"))
        return str(to_xml(Div(*parts), indent=False)) if parts else ""

    def _text(self) -> str:
        header = dict(zip(self._columns, self._columns, strict=True))
        return "\n".join(line_of(self._columns, cells) for cells in [header, *self._rows])


def bar_text(bar: dict[str, Any]) -> str:
    """Write what stands beside a bar: how far it is, for how long it has gone and will go on."""
    left = "<{remaining}" if bar["total"] else ""
    form = f"{{n_fmt}}/{{total_fmt}} [{{elapsed}}{left}, {{rate_fmt}}{{postfix}}]"
    seconds, note = perf_counter() - bar["start"], bar["note"] or None
    state = tqdm.format_meter(bar["n"], bar["total"], seconds, bar_format=form, postfix=note, initial=bar["first"])
    return f" {bar['label']} {state}"


class Curve:
    """Training loss of each batch, and mean losses of other loaders where they were measured."""

    _MAX_POINTS = 2000  # more would not be seen

    def __init__(self) -> None:
        self.new: list[Tensor] = []  # not read yet: reading waits for the device
        self._losses: list[float] = []
        self._marks: dict[str, list[tuple[int, float]]] = {}
        self.image = ""  # as PNG in base64, as it was drawn last

    def mark(self, loader: str, loss: float) -> None:
        """Put down the mean loss over another loader, at the batch that is done."""
        self._marks.setdefault(loader, []).append((len(self._losses) + len(self.new), loss))

    def state_dict(self) -> dict[str, Any]:
        """Return all points; waits for the device."""
        self._read()
        marks = {loader: list(points) for loader, points in self._marks.items()}
        return {"losses": torch.tensor(self._losses, dtype=torch.float64), "marks": marks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._losses, self._marks = state["losses"].tolist(), state["marks"]
        self.new.clear()

    def _read(self) -> None:
        if self.new:
            self._losses += torch.stack([loss.reshape(()) for loss in self.new]).tolist()
            self.new.clear()

    def draw(self) -> None:
        """Draw what there is into `image`; waits for the device."""
        from matplotlib.figure import Figure  # without pyplot there is no global state to clean up

        self._read()
        if not self._losses and not self._marks:
            return
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
        self.image = base64.b64encode(file.getvalue()).decode()
