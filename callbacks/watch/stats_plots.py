"""The pictures of what was recorded of each layer or parameter while training: lines, histograms, dead fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Recorded(Protocol):
    """What the pictures of a layer are drawn from."""

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

    size = (1.5 + 4.25 * len(titles), 3.5)
    figure, axes = subplots(1, len(titles), figsize=size, squeeze=False, layout="constrained")
    for i, (label, kinds) in enumerate(values.items()):
        color = colormaps["viridis"](0.9 * i / max(len(values) - 1, 1))  # by depth
        for ax, numbers in zip(axes.flat, kinds, strict=True):
            ax.plot(numbers, color=color, label=label)
            if is_log and ((numbers > 0) & numbers.isfinite()).any():  # of others there is no logarithm
                ax.set_yscale("log", nonpositive="mask")
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set(title=title, xlabel=x_label)
    columns = math.ceil(len(values) / 15)
    axes.flat[-1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", fontsize="small", ncols=columns)
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
        shown: the part of that to show; all of it if None.
    """

    def draw(ax: Axes, records: Tensor, layer: Recorded) -> None:
        image = layer.hist[records].log1p().T.numpy()
        ax.imshow(image, origin="lower", aspect="auto", extent=(0, len(layer.hist), *y_range))
        ax.set_ylim(shown or y_range)

    return _grid(draw, layers, y_label, x_label)


def plot_dead(layers: Mapping[str, Recorded], y_label: str, x_label: str) -> Figure:
    """Draw the dead fraction of each layer over the records; return the figure."""

    def draw(ax: Axes, records: Tensor, layer: Recorded) -> None:
        ax.plot(records, layer.dead[records])
        ax.set_ylim(-0.05, 1.05)

    return _grid(draw, layers, y_label, x_label)


def _grid(
    draw: Callable[[Axes, Tensor, Recorded], None], layers: Mapping[str, Recorded], y_label: str, x_label: str
) -> Figure:
    """Draw a panel for each layer; one of which nothing was recorded gets an empty one."""
    from learner.drawing import subplots

    n_rows = math.ceil(len(layers) / 4)
    n_columns = math.ceil(len(layers) / n_rows)
    size = (max(3 * n_columns, 4), 2.2 * n_rows + 0.3)
    figure, grid = subplots(n_rows, n_columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    axes: Iterable[Axes] = grid.flat
    for ax in grid.flat[len(layers) :]:
        ax.remove()
    for ax, (title, layer) in zip(axes, layers.items(), strict=False):
        ax.set_title(title, fontsize="medium")
        records = layer.hist[:, 0].isfinite().nonzero()[:, 0]
        if len(records):
            draw(ax, records, layer)
    figure.supxlabel(x_label, fontsize="medium")
    figure.supylabel(y_label, fontsize="medium")
    return figure
