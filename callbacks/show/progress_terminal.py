"""What a terminal shows of a fit: bars that vanish and a table that stays; elsewhere, lines of plain text."""

from __future__ import annotations

import sys

from tqdm.std import tqdm

from callbacks.show.progress_notebook import line_of
from learner.loop.tell import is_terminal, tell

_PAUSE = 0.1  # [s] between two drawings, at least
_LINE_PAUSE = 60.0  # [s] between two lines about a long pass, where there is no terminal


class Bar(tqdm):  # type: ignore[misc]
    """A bar of tqdm's that starts no thread to watch it."""

    monitor_interval = 0


class Terminal:
    """Bars on stderr if that is a terminal, else plain lines; the table on stdout, line by line.

    Attributes:
        bars: those that are open, the lowest last.
        is_plain: whether stderr is not a terminal.
        pause: between two drawings, at least [s].
        patience: before the first drawing of a bar [s].
    """

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.is_plain = not is_terminal(sys.stderr)
        self.pause = _LINE_PAUSE if self.is_plain else _PAUSE
        self.patience = _LINE_PAUSE if self.is_plain else 0.0
        self._columns: list[str] = []
        self._labels: list[str] = []

    def open(self, label: str, first: int) -> None:
        """Begin a bar below those that there are, at a batch."""
        # The delay leaves the first drawing to `move`.
        bar = Bar(
            desc=label,
            initial=first,
            leave=False,
            disable=self.is_plain,
            dynamic_ncols=True,
            mininterval=0,
            miniters=0,
            delay=1e-9,
        )
        self.bars.append(bar)
        self._labels.append(label)

    def move(self, n: int, total: int | None, note: str) -> None:
        """Bring the lowest bar to a batch, or write a line that says so."""
        if self.is_plain:
            far = str(n) if total is None else f"{n}/{total}"
            tell(" · ".join([self._labels[-1], far, *([note] if note else [])]))
            return
        bar = self.bars[-1]
        bar.total = total
        bar.set_postfix_str(note, refresh=False)
        bar.update(n - bar.n)

    def close(self) -> None:
        """Take the lowest bar away."""
        self._labels.pop()
        self.bars.pop().close()

    def add_row(self, columns: list[str], cells: dict[str, str]) -> None:
        """Write a row of the table, below a new header if its columns are others than before."""
        if columns != self._columns:
            self._columns = columns
            self._write(line_of(columns, dict(zip(columns, columns, strict=True))))
        self._write(line_of(columns, cells))

    def end(self) -> None:
        """Leave the rows as they are."""

    def _write(self, line: str) -> None:
        with Bar.external_write_mode():  # takes the bars away meanwhile
            tell(line)
