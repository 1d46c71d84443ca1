"""What a block of training has cost, row by row: what `Learner.timed` gives, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["action", "loader", "callback", "loop"]

_HEAD = ("who", "at", "µs a batch", "share", "calls", "replaced")
_KINDS: dict[Kind, str] = {
    "action": "actions",
    "loader": "waiting for the loader",
    "callback": "callbacks",
    "loop": "the loop itself",
}
_MOST_BARS = 25


class Entry:
    """A row while it grows: what was called how often, how long it took, and what it has replaced."""

    __slots__ = ("at", "calls", "is_whole", "kind", "ns", "replaced", "who")

    def __init__(self, who: str, at: str, kind: Kind, is_whole: bool) -> None:
        self.who, self.at, self.kind = who, at, kind
        self.is_whole = is_whole  # whether what it calls is a part of it, and not a row of its own
        self.ns, self.calls = 0, 0
        self.replaced: dict[str, None] = {}  # a set in the order in which it was filled


class TimedRow(NamedTuple):
    """What was called, what that took a batch [µs], its share of the whole [0-1], and what it has replaced.

    `kind` is "action", "loader" (waiting for the next batch), "callback", or "loop" (all else that a pass does).
    """

    who: str
    at: str
    us: float
    share: float
    calls: int
    replaced: tuple[str, ...]
    kind: Kind


class Timings:
    """Where the time of a block of training went; prints as text, shows as HTML in a notebook.

    The rows add up to the whole: each moment of a fit, or of a pass outside of one, is in one row. Several callbacks
    of one class have numbers, in running order. All of it is time of the host: an accelerator works on while the host
    has gone on, and a row in which the host waits for it, as one that reads a number, holds what it was still busy
    with. `callbacks.ProfilerCallback` shows the accelerator itself.

    Attributes:
        n_batches: batches of all passes, those that a callback runs in a handler of its own left out.
        device: where the model was when the block ended.

    Example:
        >>> timings = Timings()
        >>> timings.n_batches, timings.entry("Clip", "after_backward", "callback").ns = 2, 50_000
        >>> timings.entry("Clip", "after_backward", "callback").calls = 2
        >>> timings.rows
        [TimedRow(who='Clip', at='after_backward', us=25.0, share=1.0, calls=2, replaced=(), kind='callback')]
    """

    def __init__(self) -> None:
        self.n_batches, self.device = 0, "cpu"
        self._entries: dict[tuple[str, str], Entry] = {}

    def entry(self, who: str, at: str, kind: Kind, is_whole: bool = False) -> Entry:
        """Return the row of that name, a new one where there is none yet."""
        return self._entries.setdefault((who, at), Entry(who, at, kind, is_whole))

    @property
    def us(self) -> float:
        """What a batch took in all [µs]; of the whole block, where it had no batch."""
        return sum(entry.ns for entry in self._entries.values()) / 1e3 / max(1, self.n_batches)

    @property
    def rows(self) -> list[TimedRow]:
        """What was called at all, what took longest first."""
        n_batches, whole = max(1, self.n_batches), self.us
        return [
            TimedRow(
                entry.who,
                entry.at,
                us := entry.ns / 1e3 / n_batches,
                us / whole if whole else 0.0,
                entry.calls,
                tuple(name for name in entry.replaced if not name.startswith("_")),
                entry.kind,
            )
            for entry in sorted(self._entries.values(), key=lambda entry: -entry.ns)
            if entry.calls
        ]

    def plot(self) -> Figure:
        """Draw a bar for each row, what took longest on top; what takes little is summed up in the last one."""
        from learner.drawing import subplots

        rows = self.rows
        rest = sum(row.us for row in rows[_MOST_BARS:])
        labels = ["the loop itself" if row.kind == "loop" else f"{row.who}.{row.at}" for row in rows[:_MOST_BARS]]
        labels += [f"{len(rows) - _MOST_BARS} others"] if rest else []
        figure, ax = subplots(figsize=(8, 1.4 + 0.25 * len(labels)), layout="tight")
        for color, (kind, words) in enumerate(_KINDS.items()):
            shown = [(i, row.us) for i, row in enumerate(rows[:_MOST_BARS]) if row.kind == kind]
            ax.barh([i for i, _ in shown], [us for _, us in shown], color=f"C{color}", label=words)
        if rest:
            ax.barh(_MOST_BARS, rest, color="0.6")
        ax.set_yticks(range(len(labels)), labels)
        ax.set(xlabel="µs a batch")
        ax.set_title(self._title().replace(": ", "\n"), fontsize="small")
        ax.invert_yaxis()
        ax.legend()
        return figure

    def __repr__(self) -> str:
        lines = [_HEAD, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rights = (2, 3, 4)  # columns of numbers
        table = [
            "  ".join(
                cell.rjust(width) if i in rights else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self._title(), *self._notes(), *table])

    def _repr_html_(self) -> str:
        from fastcore.xml import Div, P, Table, Tbody, Td, Th, Thead, Tr, to_xml

        head = Thead(Tr(*[Th(name) for name in _HEAD]))
        body = Tbody(*[Tr(*[Td(cell) for cell in cells]) for cells in self._cells()])
        html: str = to_xml(Div(P(self._title()), *[P(note) for note in self._notes()], Table(head, body)))
        return html

    def _title(self) -> str:
        shares = dict.fromkeys(_KINDS, 0.0)
        for row in self.rows:
            shares[row.kind] += row.share
        parts = ", ".join(f"{words} {shares[kind]:.0%}" for kind, words in _KINDS.items())
        return f"{self.n_batches:,} batches, {self.us:,.1f} µs each: {parts}"

    def _notes(self) -> list[str]:
        if self.device == "cpu":
            return []
        return [f"time of the host: what the device ({self.device}) does meanwhile is in no row"]

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (row.who, row.at, f"{row.us:,.1f}", f"{row.share:.1%}", f"{row.calls:,}", ", ".join(row.replaced))
            for row in self.rows
        ]
