"""What a fit leaves behind: weighted means of a pass, and a row of them for each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Averages:
    """Means of scalars, weighted by batch size, that wait for the device only when they are read.

    Tensors are added up where they are, in single precision for 64 batches and then in double, so nothing of a
    batch is kept and long passes lose no digits.

    Example:
        >>> averages = Averages()
        >>> averages.add("loss", torch.tensor(1.0), 2)
        >>> averages.add("loss", torch.tensor(4.0), 1)
        >>> averages.means()
        {'loss': 2.0}
    """

    _FOLD = 64

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}  # a float, or a 0-d tensor on the device of the values
        self._weights: dict[str, float] = {}
        self._partial: dict[str, Tensor] = {}
        self._n_added: dict[str, int] = {}

    def add(self, name: str, value: Tensor | float, weight: float) -> None:
        """Add a scalar that stands for `weight` samples."""
        if not isinstance(value, Tensor):
            self.add_sum(name, float(value) * weight, weight)
            return
        if name not in self._partial:
            dtype = torch.promote_types(value.dtype, torch.float32)  # halves would drown in their own sum
            self._partial[name] = torch.zeros((), dtype=dtype, device=value.device)
            self._n_added[name] = 0
            self._weights.setdefault(name, 0.0)
        self._partial[name].add_(value if value.ndim == 0 else value.reshape(()), alpha=weight)
        self._weights[name] += weight
        self._n_added[name] += 1
        if self._n_added[name] == self._FOLD:
            self._fold(name)

    def add_sum(self, name: str, total: Tensor | float, weight: float) -> None:
        """Add what is already a sum over `weight` samples."""
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._weights[name] = self._weights.get(name, 0.0) + weight

    def _fold(self, name: str) -> None:
        partial = self._partial.pop(name)
        if partial.device.type != "mps":  # which has no float64
            partial = partial.double()
        self._sums[name] = self._sums.get(name, 0.0) + partial

    def means(self) -> dict[str, float]:
        """Return the mean of each name; the one place that waits for the device."""
        for name in list(self._partial):
            self._fold(name)
        return {name: float(total) / self._weights[name] for name, total in self._sums.items()}


class History:
    """A row per epoch: `epoch` and `loader/metric`, over all the fits of a learner.

    `epoch` counts on from fit to fit. A metric that an epoch lacks is None in `to_dict` and NaN in `to_pandas`.

    Example:
        >>> history = History()
        >>> history.record(0, "train", {"loss": 0.5})
        >>> history.record(0, "valid", {"loss": 0.75})
        >>> history.to_dict()
        {'epoch': [0], 'train/loss': [0.5], 'valid/loss': [0.75]}
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._start = 0

    def begin_fit(self) -> None:
        """Count the epochs of the coming fit on from the last row."""
        self._start = self.rows[-1]["epoch"] + 1 if self.rows else 0

    def record(self, epoch: int, name: str, metrics: dict[str, float]) -> None:
        """Put the metrics of a pass over loader `name` into the row of `epoch`, counted from this fit's start.

        A pass without metrics, one that was cut short, leaves no trace.
        """
        if not metrics:
            return
        number = self._start + epoch
        if not self.rows or self.rows[-1]["epoch"] != number:
            self.rows.append({"epoch": number})
        self.rows[-1].update({f"{name}/{metric}": value for metric, value in metrics.items()})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {"rows": [dict(row) for row in self.rows], "start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.rows, self._start = [dict(row) for row in state["rows"]], state["start"]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return columns by name, in order of appearance."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [row.get(name) for row in self.rows] for name in names}

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame; needs pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("`to_pandas` needs pandas; do `pip install pandas`, or use `to_dict`.") from None
        return pd.DataFrame(self.to_dict())

    def plot(self) -> Figure:
        """Draw each metric over the epochs, one panel a metric, one line a loader; return the figure."""
        from matplotlib import pyplot as plt

        columns = self.to_dict()
        epochs = columns.pop("epoch", [])
        panels = dict.fromkeys(name.split("/", 1)[1] for name in columns) or {"loss": None}
        figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.2), squeeze=False, layout="tight")
        for ax, panel in zip(axes[0], panels, strict=True):
            for name, values in columns.items():
                loader, metric = name.split("/", 1)
                if metric == panel:
                    known = [(e, v) for e, v in zip(epochs, values, strict=True) if v is not None]
                    ax.plot(*zip(*known, strict=True), marker=".", label=loader)
            ax.set(xlabel="epoch", title=panel)
            if ax.lines:
                ax.legend()
        return figure

    def __repr__(self) -> str:
        columns = self.to_dict()
        if not columns:
            return "History: no epoch yet"
        cells = [[name, *(format_value(v) for v in values)] for name, values in columns.items()]
        widths = [max(map(len, column)) for column in cells]
        lines = zip(*[[c.rjust(w) for c in column] for column, w in zip(cells, widths, strict=True)], strict=True)
        return "\n".join("  ".join(line) for line in lines)

    def _repr_html_(self) -> str:
        from fastcore.xml import Table, Tbody, Td, Th, Thead, Tr, to_xml

        columns = self.to_dict()
        rows = [Tr(*[Td(format_value(v)) for v in values]) for values in zip(*columns.values(), strict=True)]
        html: str = to_xml(Table(Thead(Tr(*[Th(name) for name in columns])), Tbody(*rows)))
        return html


def format_value(value: Any) -> str:
    """Write a cell of a table of metrics: counts as they are, floats with four digits after the point."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"
    return str(value)
