"""What a fit leaves behind: weighted means of a pass, and a row of them for each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from learner.errors import LearnerError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Averages:
    """Weighted means of scalars, that wait for the device only when they are read.

    Tensors are added up where they are: up to 64 of equal weight in their own precision, those sums in float64, so that
    long passes lose no digits. Nothing of a batch is kept: small tensors that live on cost the allocator more than the
    addition. A weight may be a tensor as well; what weighs nothing does not count, also if it is NaN, as the mean loss
    of a batch without any target is.

    Example:
        >>> averages = Averages()
        >>> averages.add("loss", torch.tensor(1.0), 2)
        >>> averages.add("loss", torch.tensor(4.0), 1)
        >>> averages.means()
        {'loss': 2.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sum] = {}

    def add(self, name: str, value: Tensor | float, weight: Tensor | float) -> None:
        """Add a detached scalar that is a mean over `weight` samples, or other things."""
        if name not in self._sums:
            self._sums[name] = _Sum(value)
        self._sums[name].add(value, weight)

    def means(self) -> dict[str, float]:
        """Return the mean of each name whose values weigh anything; the one place that waits for the device.

        Raises:
            LearnerError: if a weight was negative, infinite or NaN.
        """
        return {name: total / weight for name, (total, weight) in self.totals().items() if weight}

    def totals(self) -> dict[str, tuple[float, float]]:
        """Return the weighted sum of each name, and the sum of its weights; waits and raises as `means` does."""
        weights = {name: total.final_weight(name) for name, total in self._sums.items()}
        return {name: (float(self._sums[name].total), weight) for name, weight in weights.items()}

    @classmethod
    def joined(cls, totals: Iterable[Mapping[str, tuple[float, float]]]) -> Averages:
        """Return the averages of all that went into several, from their `totals`, added up in this order.

        Example:
            >>> ours, theirs = Averages(), Averages()
            >>> ours.add("loss", torch.tensor(1.0), 2)
            >>> theirs.add("loss", torch.tensor(4.0), 1)
            >>> Averages.joined([ours.totals(), theirs.totals()]).means()
            {'loss': 2.0}
        """
        averages = cls()
        for one in totals:
            for name, (total, weight) in one.items():
                averages._sums.setdefault(name, _Sum(0.0)).join(total, weight)
        return averages

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._sums)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, bit for bit."""
        return {name: {key: getattr(total, key) for key in _Sum.__slots__} for name, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | None = None) -> None:
        """Take over what `state_dict` gave.

        Args:
            state: of another object.
            device: where the values to come will be; the CPU if None.
        """
        self._sums = {}
        for name, parts in state.items():
            total = self._sums[name] = _Sum(0.0)
            for key, value in parts.items():
                setattr(total, key, value.to(device, copy=True) if isinstance(value, Tensor) else value)


class _Sum:
    """A weighted sum: a float64 total, and the plain sum of the last few values of one weight."""

    __slots__ = ("n_recent", "recent", "total", "weight", "weight_each")

    def __init__(self, first: Tensor | float) -> None:
        device = first.device if isinstance(first, Tensor) else torch.device("cpu")
        dtype = first.dtype if isinstance(first, Tensor) and first.is_floating_point() else torch.float64
        if device.type == "mps":  # which has no float64
            dtype = torch.float32
        self.recent = torch.zeros((), device=device, dtype=torch.promote_types(dtype, torch.float32))
        self.total: Tensor | float = 0.0
        self.weight: Tensor | float = 0.0
        self.weight_each = 0.0
        self.n_recent = 0

    def add(self, value: Tensor | float, weight: Tensor | float) -> None:
        if isinstance(weight, Tensor) or not weight:
            self._add_weighed(value, weight)
            return
        if weight != self.weight_each or self.n_recent == 64:
            self._bring_up_to_date()
            self.weight_each = weight
        try:
            self.recent.add_(value)
        except RuntimeError:  # a scalar of shape (1,)
            self.recent.add_(value.reshape(()))  # type: ignore[union-attr]
        self.n_recent += 1

    def join(self, total: float, weight: float) -> None:
        self.total = self.total + total
        self.weight = self.weight + weight

    def _add_weighed(self, value: Tensor | float, weight: Tensor | float) -> None:
        exact = torch.float32 if self.recent.device.type == "mps" else torch.float64
        value = torch.as_tensor(value, dtype=exact, device=self.recent.device).reshape(())
        weight = torch.as_tensor(weight, dtype=exact, device=self.recent.device)
        weight = torch.where((weight >= 0) & weight.isfinite(), weight, math.nan)  # so that the total shows it
        self.total = self.total + torch.where(weight == 0, 0.0, value * weight)
        self.weight = self.weight + weight

    def _bring_up_to_date(self) -> None:
        if self.n_recent:
            recent = self.recent if self.recent.device.type == "mps" else self.recent.double()
            self.total = self.total + recent * self.weight_each
            self.weight += self.n_recent * self.weight_each
            self.recent = torch.zeros_like(self.recent)
            self.n_recent = 0

    def final_weight(self, name: str) -> float:
        self._bring_up_to_date()
        weight = float(self.weight)
        if math.isnan(weight):
            raise LearnerError(
                f"the weight of `{name}` must be a finite number of at least 0 for each batch, got another in this "
                f"pass; look at what sets `learn.weight`."
            )
        return weight


class History:
    """A row per epoch: `epoch` and `loader/metric`, over all the fits of a learner.

    A pass that a Cancel ended is there with the means of the batches that it saw, and `cut_short` says why. Where a
    callback went back to a checkpoint within an epoch, `recovered` says from where, and why.
    `epoch` counts on from fit to fit. A metric that an epoch lacks is None in `to_dict` and NaN in `to_pandas`.

    Attributes:
        rows: a dict for each epoch.
        throughput: for each pass that is in the rows its `epoch`, `loader`, `samples_per_s` and `waiting`, the share of
            its time that was waiting for the loader [0-1]. It is apart from the rows and not in checkpoints: no two
            runs take the same time, and a run that goes on has the rows of one that was not stopped. Of a pass that was
            gone on with, it is the part since then.

    Example:
        >>> history = History()
        >>> history.record(0, "train", {"loss": 0.5})
        >>> history.record(0, "valid", {"loss": 0.75})
        >>> history.to_dict()
        {'epoch': [0], 'train/loss': [0.5], 'valid/loss': [0.75]}
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.throughput: list[dict[str, Any]] = []
        self._start = 0

    def begin_fit(self) -> None:
        """Count the epochs of the coming fit on from the last row."""
        self._start = self.rows[-1]["epoch"] + 1 if self.rows else 0

    def record(self, epoch: int, name: str, metrics: dict[str, float], cut_short: str | None = None) -> None:
        """Put the metrics of a pass over loader `name` into the row of `epoch`, counted from this fit's start.

        A pass that measured nothing leaves no trace. Where a Cancel ended the pass, `cut_short` is the reason, and the
        row says so; of several passes, it has the reason of each.
        """
        if not metrics:
            return
        row = self._row_of(epoch)
        row.update({f"{name}/{metric}": value for metric, value in metrics.items()})
        if cut_short is not None:
            before = row.get("cut_short")
            row["cut_short"] = f"{before}; {name}: {cut_short}" if before else f"{name}: {cut_short}"

    def record_text(self, epoch: int, name: str, text: str) -> None:
        """Put a text into the row of `epoch`, counted from this fit's start, in place of what it has under this name.

        Example:
            >>> history = History()
            >>> history.record_text(0, "recovered", "batch 27 is left out")
            >>> history[0]
            {'epoch': 0, 'recovered': 'batch 27 is left out'}
        """
        self._row_of(epoch)[name] = text

    def _row_of(self, epoch: int) -> dict[str, Any]:
        number = self._start + epoch
        if not self.rows or self.rows[-1]["epoch"] != number:
            self.rows.append({"epoch": number})
        return self.rows[-1]

    def record_throughput(self, epoch: int, name: str, samples_per_s: float | None, waiting: float | None) -> None:
        """Put down how fast a pass over loader `name` was; as for `record`, `epoch` counts from this fit's start."""
        self.throughput.append(
            {"epoch": self._start + epoch, "loader": name, "samples_per_s": samples_per_s, "waiting": waiting}
        )

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
        there = {row["epoch"] for row in self.rows}
        self.throughput = [one for one in self.throughput if one["epoch"] in there]  # the others are undone

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
        from learner.drawing import panels

        columns = self.to_dict()
        epochs = columns.pop("epoch", [])
        columns = {name: values for name, values in columns.items() if not any(isinstance(v, str) for v in values)}
        metrics = dict.fromkeys(name.split("/", 1)[1] for name in columns) or {"loss": None}
        figure, axes = panels(len(metrics))
        for ax, panel in zip(axes, metrics, strict=True):
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
