"""Charts of lines, drawn as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastcore.xml import FT, Figcaption, Figure, Li, Ul, ft

from learner.history import format_value

N_COLORS = 6  # of lines in one chart; there are as many in report.css
_MOST_POINTS = 600  # of a line: more than there are pixels show nothing more
_MOST_DOTS = 60
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 210, 48, 10, 8, 34


def line_chart(title: str, axis: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> FT:
    """Return a chart of lines.

    Where an x comes several times, as when training went on from before, the last value counts. Values that are not
    finite are gaps, and counted in the legend.

    Args:
        title: what the values are.
        axis: what x is.
        lines: by name x and y.
    """
    drawn = {name: _thinned(*_in_order(*line)) for name, line in lines.items()}
    x = np.concatenate([x for x, _ in drawn.values()])
    y = np.concatenate([y for _, y in drawn.values()])
    (left, right), (low, high) = _range(x, 0.0), _range(y[np.isfinite(y)], 0.05)

    def across(x: Any) -> Any:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: Any) -> Any:
        return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    marks = []
    for tick in _ticks(low, high):
        at = f"{down(tick):.1f}"
        marks.append(ft("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, cls="grid"))
        marks.append(ft("text", f"{tick:.6g}", x=_LEFT - 6, y=at, text_anchor="end", dominant_baseline="middle"))
    for tick in _ticks(left, right, is_whole=True):
        marks.append(ft("text", f"{tick:.6g}", x=f"{across(tick):.1f}", y=_HEIGHT - _BOTTOM + 15, text_anchor="middle"))
    marks.append(ft("text", axis, x=_WIDTH - _RIGHT, y=_HEIGHT - 4, text_anchor="end"))
    legend = []
    for i, (name, (x, y)) in enumerate(drawn.items()):
        is_known = np.isfinite(y)
        marks.append(ft("g", *_line(name, axis, x, y, across(x), down(y)), cls=f"s{i % N_COLORS}"))
        n_odd = np.count_nonzero(~np.isfinite(np.asarray(lines[name][1], float)))
        odd = f", {n_odd:,} not finite" if n_odd else ""
        last = f" {format_value(float(y[is_known][-1]))}" if is_known.any() else ""
        legend.append(Li(f"{name}{last}{odd}".strip(), cls=f"s{i % N_COLORS}"))
    told = f"{title} by {axis}; last values: " + ", ".join(item.children[0] for item in legend)
    chart = ft("svg", *marks, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", cls="chart", role="img", aria_label=told)
    return Figure(Figcaption(title, Ul(*legend, cls="legend")), chart, cls="card")


def _in_order(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    last = dict(zip(x, y, strict=True))
    order = sorted(last)
    return np.array(order, float), np.array([last[at] for at in order], float)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a line with few points: the lowest and the highest of each stretch, so that no peak is lost."""
    if len(x) <= _MOST_POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(x)), _MOST_POINTS // 2)
    ends = [(part[np.argmin(y[part])], part[np.argmax(y[part])]) for part in stretches]
    kept = np.unique([0, *np.ravel(ends), len(x) - 1])
    return x[kept], y[kept]


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = (high - low) * margin if high > low else abs(low) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, is_whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=is_whole).tick_values(low, high)
    return [0.0 if abs(tick) < 1e-9 * (high - low) else float(tick) for tick in ticks if low <= tick <= high]


def _line(name: str, axis: str, x: np.ndarray, y: np.ndarray, across: np.ndarray, down: np.ndarray) -> list[FT]:
    """Return a line with gaps; of few points each is a dot that says what it is."""
    is_known = np.isfinite(y)
    marks = []
    for piece in np.split(np.arange(len(x)), np.flatnonzero(~is_known)):
        points = [f"{across[i]:.1f},{down[i]:.1f}" for i in piece if is_known[i]]
        if len(points) > 1 or (points and is_known.sum() > _MOST_DOTS):
            marks.append(ft("polyline", points=" ".join(points)))
    if is_known.sum() <= _MOST_DOTS:
        for i in np.flatnonzero(is_known):
            says = ft("title", f"{name} {axis} {_place(x[i])}: {format_value(float(y[i]))}".strip())
            marks.append(ft("circle", says, cx=f"{across[i]:.1f}", cy=f"{down[i]:.1f}", r=2.2))
    return marks


def _place(x: float) -> str:
    return f"{x:.0f}" if x.is_integer() and abs(x) < 1e15 else f"{x:g}"
