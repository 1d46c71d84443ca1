"""The scalars of a run: a chart of each metric with a line for each split, and a table of the last values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastcore.xml import FT, Div

from learner.records.report.charts import N_COLORS, line_chart
from learner.records.report.notes import Notes
from learner.records.report.tables import sortable
from learner.records.scalars import Series

# By metric and axis, then by split: the series of train and valid belong side by side.
Metrics = dict[tuple[str, str], dict[str, Series]]


def by_split(scalars: Mapping[str, Series], splits: set[str]) -> Metrics:
    """Return series by metric and axis, then by the split that their name begins with or holds.

    Example:
        >>> series = Series("epoch", [0], [0.5])
        >>> {metric: list(lines) for metric, lines in by_split({"train/loss": series, "lr": series}, {"train"}).items()}
        {('loss', 'epoch'): ['train'], ('lr', 'epoch'): ['']}
    """
    found: Metrics = {}
    for name, series in scalars.items():
        split, metric = _parted(name, splits)
        lines = found.setdefault((metric, series.axis), {})
        lines[split if split not in lines else name] = series
    # The loss first; what was logged under a plain name before what is a part of something.
    return dict(sorted(found.items(), key=lambda item: (item[0][0].count("/"), item[0][0] != "loss")))


def _parted(name: str, splits: set[str]) -> tuple[str, str]:
    """Return the split that the name of a scalar begins with or holds, and the name without it."""
    parts = name.split("/")
    split = next((part for part in parts if part in splits), None)
    if split is None or len(parts) == 1:
        return "", name
    parts.remove(split)
    return split, "/".join(parts)


def curves(metrics: Metrics, notes: Notes) -> list[FT]:
    """Return the charts of all metrics that have more than one value."""
    charts = []
    for (metric, axis), lines in metrics.items():
        names = list(lines)
        if all(len(line.x) < 2 for line in lines.values()):
            continue  # one number is no curve; it stands among the last values
        for i in range(0, len(names), N_COLORS):
            few = {name: (lines[name].x, lines[name].values) for name in names[i : i + N_COLORS]}
            charts.append(notes.tried(f"curve of {metric}", line_chart, metric.replace("_", " "), axis, few))
    return [Div(*charts, cls="cards")] if charts else []


def last_values(metrics: Metrics) -> list[FT]:
    """Return a table of the last value of each metric, a column for each split."""
    if not metrics:
        return []
    columns: dict[str, list[Any]] = {"metric": [metric for metric, _ in metrics]}
    columns["at"] = [_at(axis, lines) for (_, axis), lines in metrics.items()]
    for split in dict.fromkeys(split for lines in metrics.values() for split in lines):
        last = [lines[split].values[-1] if split in lines else None for lines in metrics.values()]
        columns[split or "value"] = last
    return [sortable(columns, style="short", label="last values")]


def _at(axis: str, lines: Mapping[str, Series]) -> str:
    last = {series.x[-1] for series in lines.values()}
    return f"{axis} " + " and ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in sorted(last))
