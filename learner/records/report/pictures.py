"""The pictures of samples on record. Each function draws arrays and returns the figure; `Samples` calls them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from learner.records.report.images import draw_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

# Of medium lightness, so that they can be seen on light and on dark ground.
_BODY, _TAIL, _LOW, _MISSING = "#3f90da", "#d2391a", "#a05bd6", "#9a9fa6"
_MANY = 20  # classes; of more, colours and numbers cannot be told apart
_MOST_CLASSES = 100  # of a whole matrix; of more it would show nothing, and grow with their square
_MOST_PANELS = 20


def data_map(confidence: np.ndarray, variability: np.ndarray, correctness: np.ndarray) -> Figure:
    """Draw how sure a model was of the true class of each sample, against how much that varied over the epochs.

    Args:
        confidence: mean probability of the true class [0-1].
        variability: its standard deviation over the epochs.
        correctness: share of the epochs in which the sample was right [0-1]; the colour.

    Source:
        Swayamdipta et al. 2020, "Dataset Cartography", figure 1.
    """
    from matplotlib.colors import LinearSegmentedColormap

    from learner.drawing import subplots

    figure, (ax, side) = subplots(
        1, 2, figsize=(7.4, 4.8), width_ratios=(6, 1), sharey=True, layout="constrained", gridspec_kw={"wspace": 0}
    )
    order = np.argsort(-correctness, kind="stable")  # the few that are mostly wrong lie on top
    stops = [_TAIL, "#e39a12", "#2ba58c", _BODY]
    colors = LinearSegmentedColormap.from_list("correctness", stops).with_extremes(bad=_MISSING)
    points = ax.scatter(
        variability[order],
        confidence[order],
        c=correctness[order],
        cmap=colors,
        vmin=0,
        vmax=1,
        plotnonfinite=True,
        **_dots(len(order)),
    )
    widest = float(np.nanmax(variability, initial=0.25))
    ax.set(xlabel="variability", ylabel="confidence", xlim=(-0.02 * widest, 1.06 * widest), ylim=(-0.03, 1.03))
    for x, y, word in ((0.3, 0.97, "easy to learn"), (0.97, 0.5, "ambiguous"), (0.3, 0.03, "hard to learn")):
        text = ax.text(
            x, y, word, transform=ax.transAxes, ha="right" if x > 0.5 else "left", va="center", color="#444444"
        )
        _outlined(text)
    ax.set_title(f"{len(confidence):,} samples", fontsize="medium")
    side.hist(
        confidence[np.isfinite(confidence)],
        bins=np.linspace(0, 1, 31).tolist(),
        orientation="horizontal",
        color="#94a4a2",
    )
    side.set_xscale("symlog", linthresh=1)  # else the easy ones hide all others
    side.set(xlabel="log count")
    side.tick_params(which="both", left=False, labelleft=False, bottom=False, labelbottom=False)
    side.spines[["top", "right"]].set_visible(False)
    ax.spines[["top", "right"]].set_visible(False)
    _draw_bar(figure, side, points, "correctness", fraction=0.4)
    return figure


def histogram(values: np.ndarray, name: str, *, ids: np.ndarray | None = None, when: str = "") -> Figure:
    """Draw how values are spread, counts on a log scale, with the tails beyond 1 % and 99 % marked.

    Args:
        values: one per sample; those that are not finite are left out and counted in the title.
        name: of the values.
        ids: of the samples, to name the three largest.
        when: words for the title.
    """
    from learner.drawing import subplots

    figure, ax = subplots(figsize=(7, 3.8), layout="constrained")
    known = np.isfinite(values)
    finite = values[known]
    odd = f", {len(values) - len(finite):,} not finite" if len(finite) < len(values) else ""
    ax.set_title(f"{name} of {len(values):,} samples{odd}{when}", fontsize="medium")
    ax.set(xlabel=name, ylabel="samples", yscale="log")
    ax.spines[["top", "right"]].set_visible(False)
    if not len(finite):
        return figure
    low, high = np.quantile(finite, [0.01, 0.99], method="inverted_cdf")
    counts, edges = np.histogram(finite, bins=min(60, 10 + int(len(finite) ** 0.5)))
    middles = (edges[1:] + edges[:-1]) / 2
    colors = np.where(middles > high, _TAIL, np.where(middles < low, _LOW, _BODY))
    ax.bar(middles, counts, width=np.diff(edges), color=colors.tolist())
    ax.set_ylim(bottom=0.7)  # a single sample is still seen
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_minor_formatter("")
    if len(finite) >= 100:  # of fewer, 1 % is not one of them
        for at, color, n, word in ((low, _LOW, finite < low, "below 1 %"), (high, _TAIL, finite > high, "above 99 %")):
            ax.axvline(at, color=color, lw=1, ls="--", label=f"{word}, {at:.3g}: {n.sum():,} samples")
    if ids is not None:
        words = ", ".join(f"#{i}" for i in ids[known][np.argsort(-finite, kind="stable")[:3]])
        ax.plot([], [], " ", label=f"largest: {words}")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize="small")
    return figure


def confusion_matrix(
    true: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
    when: str = "",
    *,
    cell: tuple[int, int] | None = None,
    images: Sequence[np.ndarray | str] = (),
    captions: Sequence[str] = (),
) -> Figure:
    """Draw how often which class was taken for which: counts, the colour the share of the true class.

    Of more than 100 classes those with the most errors are drawn, and all others as one.

    Args:
        true: class ids; rows with a negative one are left out.
        predicted: class ids.
        classes: names by id.
        when: words for the title.
        cell: a true class and a predicted one, to be framed.
        images: samples of that cell, drawn beside the matrix.
        captions: of the images.
    """
    from matplotlib.patches import Rectangle

    from learner.drawing import new_figure

    title = "" if cell is None else f"true {classes[cell[0]]}, said {classes[cell[1]]}"
    matrix = counted(true, predicted, classes, when, kept=cell or ())
    size = matrix.size
    figure = new_figure(figsize=(size + 1.6 + (size if cell else 0), size), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(size + 1.6, size)) if cell else [figure]
    ax = draw_matrix(halves[0], matrix)
    if cell is not None:
        row, column = (int(matrix.place[i]) for i in cell)
        n = matrix.counts[row, column]
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=_TAIL, lw=2))
        shown = f"{len(images)} of {n:,}" if len(images) < n else f"{n:,}"
        draw_images(halves[1], images, captions, f"{title}: {shown}")
    return figure


class Matrix(NamedTuple):
    """How often which class was taken for which, as it is drawn.

    Attributes:
        counts: (C, C), a row for each true class.
        classes: names of the rows and columns.
        place: the row of each class id; several share one where there are too many.
        title: words for how many samples there are, and how many are right.
    """

    counts: np.ndarray
    classes: Sequence[str]
    place: np.ndarray
    title: str

    @property
    def size(self) -> float:
        """How large to draw it, without the bar [inches]."""
        return min(9.0, 2.6 + 0.42 * len(self.classes))


def counted(
    true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], when: str = "", kept: Sequence[int] = ()
) -> Matrix:
    """Return how often which class was taken for which; of more than 100, those with the most errors and one more.

    Args:
        true: class ids; rows with a negative one are left out.
        predicted: class ids.
        classes: names by id.
        when: words for the title.
        kept: ids that have a row of their own in any case.
    """
    known = (true >= 0) & (predicted >= 0)
    true, predicted = true[known].astype(np.int64), predicted[known].astype(np.int64)
    title = f"{len(true):,} samples, {(true == predicted).sum() / max(len(true), 1):.1%} right{when}"
    place = np.arange(len(classes))
    if len(classes) > _MOST_CLASSES:
        place, classes = _with_most_errors(true, predicted, classes, kept)
        title += f"\nof {len(place):,} classes those with the most errors"
    n = len(classes)
    counts = np.bincount(place[true] * n + place[predicted], minlength=n * n).reshape(n, n)
    return Matrix(counts, classes, place, title)


def draw_matrix(part: FigureBase, matrix: Matrix) -> Axes:
    """Draw counts into a figure or a part of one, the colour the share of the true class; return the axes."""
    from matplotlib import pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba

    counts, classes, ax = matrix.counts, matrix.classes, part.subplots()
    n = len(classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # Nothing where there is nothing, so that it can be read on any ground; errors are small shares, and must be seen.
    stops = (0, to_rgba(_BODY, 0)), (1e-3, to_rgba(_BODY, 0.2)), (1, to_rgba("#2c76bd", 1))
    colors = LinearSegmentedColormap.from_list("shares", stops)
    image = ax.imshow(shares, cmap=colors, norm=PowerNorm(0.4, 0, 1))
    _draw_bar(part, ax, image, "share of the true class", fraction=0.045, ticks=[0, 0.01, 0.1, 0.3, 1])
    ax.set_title(matrix.title, fontsize="medium")
    ax.set(xlabel="predicted", ylabel="true")
    if n <= _MANY:
        longest = max(map(len, classes))
        turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if longest > 2 else {}
        ax.set_xticks(range(n), classes, parse_math=False, **turned)
        ax.set_yticks(range(n), classes, parse_math=False)
        for i, j in zip(*counts.nonzero(), strict=True):
            color = "white" if shares[i, j] > 0.3 else plt.rcParams["text.color"]
            ax.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=color, fontsize=10 if n <= 12 else 7)
    return ax


def _with_most_errors(
    true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], kept: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    """Return a place for each class, and the names by place: few have one of their own, the others share the last.

    Args:
        true: class ids.
        predicted: class ids.
        classes: names by id.
        kept: ids that have a place of their own in any case.
    """
    n, wrong = len(classes), true != predicted
    errors = np.bincount(true[wrong], minlength=n) + np.bincount(predicted[wrong], minlength=n)
    errors[list(kept)] = errors.sum() + 1
    chosen = np.sort(np.argsort(-errors, kind="stable")[: _MANY - 1])
    place = np.full(n, len(chosen))
    place[chosen] = np.arange(len(chosen))
    return place, [*(classes[i] for i in chosen), f"{n - len(chosen):,} others"]


def plane_map(
    panels: Mapping[str, Callable[[], np.ndarray]],
    name: str,
    *,
    by: Any = "pca",
    colors: Sequence[np.ndarray] | None = None,
    color_name: str = "",
    classes: Sequence[str] = (),
) -> Figure:
    """Draw vectors as points on a plane that is fitted on the last panel and applied to all; at most 20 panels.

    Args:
        panels: by title a function that gives vectors (N, D); rows that are not finite are left out.
        name: of the vectors.
        by: "pca", or something with `fit` and `transform`.
        colors: a value for each vector, by panel.
        color_name: what the values are.
        classes: the values in the order in which to list them, if they are names.

    Raises:
        TypeError: if `by` is something else.
        ValueError: if the last panel has less than two finite vectors.
    """
    from learner.drawing import subplots

    titles = list(panels)
    if len(titles) > _MOST_PANELS:  # evenly, the first and the last one among them
        titles = [titles[i] for i in np.linspace(0, len(titles) - 1, _MOST_PANELS).round().astype(int)]
    last = panels[titles[-1]]()
    place = _fitted(last[np.isfinite(last).all(1)], name, by)
    del last
    points, shown = {}, {}
    for i, title in enumerate(panels):
        if title in titles:
            vectors = panels[title]()
            known = np.isfinite(vectors).all(1)
            points[title], shown[title] = place(vectors[known]), None if colors is None else colors[i][known]
    n_columns = min(len(titles), 5)
    n_rows = math.ceil(len(titles) / n_columns)
    side = 5.2 if len(titles) == 1 else 3.0
    size = (side * n_columns + 1.2, side * n_rows + 0.4)
    figure, axes = subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    palette = _Palette(colors, color_name, classes)
    edges = np.array([(each.min(0), each.max(0)) for each in points.values() if len(each)])
    middle, half = (edges.max((0, 1)) + edges.min((0, 1))) / 2, 0.53 * np.ptp(edges, axis=(0, 1)).max()
    for ax, title in zip(axes.flat, titles, strict=False):
        palette.draw(ax, points[title], shown[title])
        ax.set_title(title, fontsize="medium")
        # Alike in all panels, and equally long on both axes: distances are what a map is for.
        (x, y), reach = middle, half or 1.0
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
    for ax in axes.flat[len(titles) :]:
        ax.remove()
    palette.explain(figure, axes)
    how = by.upper() if isinstance(by, str) else type(by).__name__
    told = f", fitted on {titles[-1]}" if len(titles) > 1 else ""
    some = f", {len(titles)} of {len(panels)} epochs" if len(titles) < len(panels) else ""
    figure.suptitle(f"{name} by {how}{told}{some}", fontsize="medium")
    return figure


class _Palette:
    """How values are shown as colours: the same in all panels, with one legend or colour bar."""

    def __init__(self, values: Sequence[np.ndarray] | None, name: str, classes: Sequence[str]) -> None:
        self._name = name
        self._points: Any = None
        self._groups: list[Any] = []  # values that have a colour of their own
        self._range = (0.0, 1.0)
        if values is None:
            return
        found = np.unique(np.concatenate(values))
        if found.dtype.kind == "U" or (found.dtype.kind in "biu" and len(found) <= _MANY):
            places = {value: i for i, value in enumerate(classes)}
            self._groups = sorted(found.tolist(), key=lambda value: (places.get(value, len(places)), value))
        elif len(known := found[np.isfinite(found)]):
            # Without the tails, or a few large ones would leave one colour to all others.
            self._range = tuple(np.quantile(known, [0.01, 0.99]).tolist())

    def draw(self, ax: Axes, points: np.ndarray, values: np.ndarray | None) -> None:
        """Draw points in the colours of their values."""
        from matplotlib import colormaps

        # In an order of no meaning: else one class, or the largest values, would cover all others.
        order = np.random.default_rng(0).permutation(len(points))
        x, y = points[order].T
        style = _dots(len(points))
        if values is None:
            ax.scatter(x, y, color=_BODY, **style)
        elif self._groups:
            places = {value: i for i, value in enumerate(self._groups)}
            each = np.array([places[value] for value in values[order].tolist()], int)
            ax.scatter(x, y, color=self._colors()[each], **style)
        else:
            values = values[order]
            low, high = self._range
            cmap = colormaps["viridis"].with_extremes(bad=_MISSING)
            known = np.where(np.isfinite(values), values, np.nan).astype(float)
            self._points = ax.scatter(x, y, c=known, cmap=cmap, vmin=low, vmax=high, plotnonfinite=True, **style)

    def explain(self, figure: Figure, axes: np.ndarray) -> None:
        """Draw the legend or the colour bar."""
        from matplotlib.lines import Line2D

        if self._points is not None:
            _draw_bar(figure, axes, self._points, self._name, fraction=0.05, extend="both")
        elif self._groups and len(self._groups) <= 3 * _MANY:
            handles = [
                Line2D([], [], color=color, marker="o", ls="", label=str(name))
                for color, name in zip(self._colors(), self._groups, strict=True)
            ]
            figure.legend(
                handles=handles,
                title=self._name,
                loc="outside right upper",
                frameon=False,
                ncols=1 + len(handles) // 21,
            )

    def _colors(self) -> np.ndarray:
        from matplotlib import color_sequences, colormaps
        from matplotlib.colors import to_rgba_array

        n = len(self._groups)
        if n <= 10:
            return to_rgba_array(color_sequences["tab10"][:n])
        if n <= _MANY:
            return to_rgba_array(color_sequences["tab20"][:n])
        return colormaps["turbo"](np.linspace(0, 1, n))


def _dots(n: int) -> dict[str, Any]:
    """Return how to draw n points: smaller and fainter the more there are, so that where many lie can be seen."""
    return {
        "s": float(np.clip(20_000 / max(n, 1), 3, 36)),
        "alpha": float(np.clip(400 / max(n, 1) ** 0.75, 0.25, 0.85)),
        "linewidths": 0,
        "rasterized": True,
    }


def _draw_bar(figure: FigureBase, axes: Any, points: Any, name: str, **options: Any) -> None:
    """Draw a colour bar, without what the points have of transparency."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(points.norm, points.cmap), ax=axes, label=name, aspect=30, **options)
    bar.outline.set_visible(False)


def _outlined(text: Any) -> None:
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=3, foreground="white", alpha=0.85)])


def _fitted(vectors: np.ndarray, name: str, by: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from vectors to points on a plane that was fitted on these."""
    if len(vectors) < 2:
        raise ValueError(f"`{name}` must have two vectors that are finite, got {len(vectors)}; did the run diverge?")
    if not isinstance(by, str):
        if not (callable(getattr(by, "fit", None)) and callable(getattr(by, "transform", None))):
            raise TypeError(f"`by` must be 'pca' or have `fit` and `transform`, got {by!r}.")
        reducer = by.fit(vectors)
        return lambda given: np.asarray(reducer.transform(given))[:, :2]
    if by != "pca":
        raise ValueError(f"`by` must be 'pca' or have `fit` and `transform`, got {by!r}; pass the reducer itself.")
    return _pca(vectors)


def _pca(vectors: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the projection on the first two principal components, their largest loading positive."""
    mean = vectors.mean(0, dtype=np.float64)
    centered = vectors - mean
    n, width = centered.shape
    if width <= n:
        axes = np.linalg.eigh(centered.T @ centered)[1][:, -2:][:, ::-1]  # eigenvalues rise
    else:
        axes = centered.T @ np.linalg.eigh(centered @ centered.T)[1][:, -2:][:, ::-1]
        axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-300)
    axes = axes * np.where(axes[np.abs(axes).argmax(0), range(axes.shape[1])] < 0, -1, 1)
    axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    return lambda given: (given - mean) @ axes
