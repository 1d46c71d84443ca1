"""Plots of what was recorded of each layer or parameter while training: lines, histograms, dead fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

_MOST_LINES = 15  # in a legend
_MOST_PANELS = 48  # of more, each would be too small to see anything in it
_MOST_LETTERS = 24  # of a line of a panel's title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Recorded(Protocol):
    """What the plots of a layer are drawn from."""

    @property
    def hist(self) -> Tensor:
        """Counts, a row for each record; NaN where not taken."""

    @property
    def dead(self) -> Tensor:
        """A fraction for each record [0-1]; NaN where not taken."""


def plot_lines(
    values: Mapping[str, Sequence[Tensor]], titles: Sequence[str], x_label: str, *, is_log: bool = False
) -> Figure:
    """Draw several kinds of numbers side by side, a line for each layer; return the figure.

    Args:
        values: by the layer's title a vector of each kind.
        titles: of the kinds.
        x_label: what the vectors are counted in.
        is_log: whether to draw them on a logarithmic axis, which leaves out what is not above 0.
    """
    from matplotlib import colormaps

    from learner.drawing import subplots

    longest = max(map(len, values), default=0)
    size = (4 * len(titles) + 0.5 + 0.075 * longest, 3.8)
    figure, axes = subplots(1, len(titles), figsize=size, squeeze=False, layout="constrained")
    for i, (label, kinds) in enumerate(values.items()):
        color = colormaps["viridis"](0.9 * i / max(len(values) - 1, 1))  # by depth
        for ax, numbers in zip(axes.flat, kinds, strict=True):
            ax.plot(numbers, color=color, label=label)
            if is_log and ((numbers > 0) & numbers.isfinite()).any():  # of others there is no logarithm
                ax.set_yscale("log", nonpositive="mask")
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set(title=title, xlabel=x_label)
    handles = axes.flat[-1].lines
    shown = _evenly(len(handles), _MOST_LINES)
    some = None if len(shown) == len(handles) else f"{len(shown)} of {len(handles)}, by depth"
    axes.flat[-1].legend(
        handles=[handles[i] for i in shown],
        title=some,
        bbox_to_anchor=(1.02, 1),
        loc="upper left",
        fontsize="small",
        title_fontsize="small",
        frameon=False,
    )
    return figure


def plot_histograms(
    layers: Mapping[str, Recorded],
    y_label: str,
    x_label: str,
    y_range: tuple[float, float],
    *,
    shown: tuple[float, float] | None = None,
) -> Figure:
    """Draw the histograms of each layer side by side, as log(1 + count), the last bin on top; return the figure.

    Args:
        layers: by title.
        y_label: what was counted.
        x_label: what the records are counted in.
        y_range: from where to where the bins go.
        shown: the part of that to show; as far as there are counts if None.
    """
    shown = shown or _with_counts(layers.values(), y_range)

    def draw(ax: Axes, records: Tensor, layer: Recorded) -> None:
        image = layer.hist[records].log1p().T.numpy()
        ax.imshow(image, origin="lower", aspect="auto", extent=(0, len(layer.hist), *y_range))
        ax.set_ylim(shown)

    return _grid(draw, layers, y_label, x_label)


def plot_dead(layers: Mapping[str, Recorded], y_label: str, x_label: str) -> Figure:
    """Draw the dead fraction of each layer over the records; return the figure."""

    def draw(ax: Axes, records: Tensor, layer: Recorded) -> None:
        ax.plot(records, layer.dead[records])
        ax.set_ylim(-0.05, 1.05)

    return _grid(draw, layers, y_label, x_label)


def _with_counts(layers: Iterable[Recorded], y_range: tuple[float, float]) -> tuple[float, float]:
    """Return the part of a range in whose bins any layer has counts."""
    sums = [layer.hist.nan_to_num().sum(dim=0) for layer in layers]
    bins = torch.stack(sums).sum(dim=0).nonzero()[:, 0].tolist() if sums else []
    if not bins:
        return y_range
    low, high = y_range
    width = (high - low) / len(sums[0])
    return low + bins[0] * width, low + (bins[-1] + 1) * width


def _grid(
    draw: Callable[[Axes, Tensor, Recorded], None], layers: Mapping[str, Recorded], y_label: str, x_label: str
) -> Figure:
    """Draw a panel for each layer, or for some if there are very many; without records a panel stays empty."""
    from learner.drawing import subplots

    titles = list(layers)
    shown = _evenly(len(titles), _MOST_PANELS)
    most_columns = 4 if len(shown) <= 12 else 6
    n_rows = math.ceil(len(shown) / most_columns)
    n_columns = math.ceil(len(shown) / n_rows)
    size = (max(12 / most_columns * n_columns, 4), 2 * n_rows + 0.5)
    options = {"squeeze": False, "sharex": True, "sharey": True, "layout": "constrained"}
    figure, grid = subplots(n_rows, n_columns, figsize=size, **options)
    for i, ax in enumerate(grid.flat):
        if i >= len(shown):
            grid.flat[i - n_columns].xaxis.set_tick_params(labelbottom=True)  # it is the lowest of its column
            ax.remove()
            continue
        title = titles[shown[i]]
        ax.set_title(_in_two_lines(title), fontsize="small", parse_math=False)
        records = layers[title].hist[:, 0].isfinite().nonzero()[:, 0]
        if len(records):
            draw(ax, records, layers[title])
    if len(shown) < len(titles):
        figure.suptitle(f"{len(shown)} of {len(titles)} layers, evenly by depth", fontsize="medium")
    figure.supxlabel(x_label, fontsize="medium")
    figure.supylabel(y_label, fontsize="medium")
    return figure


def _evenly(n: int, most: int) -> list[int]:
    """Return at most so many indices below n, evenly spaced, with the first and the last."""
    return torch.linspace(0, n - 1, min(n, most)).round().int().tolist() if n else []


def _in_two_lines(title: str) -> str:
    """Return a layer's name with its class below it if they are long; of a long name only the end, which says most."""
    if len(title) <= _MOST_LETTERS:
        return title
    name, _, kind = title.partition(" ")
    name = name if len(name) <= _MOST_LETTERS else "…" + name[1 - _MOST_LETTERS :].lstrip(".")
    return f"{name}\n{kind}".strip()
