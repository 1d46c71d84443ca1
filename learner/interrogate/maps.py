"""Samples as points on a plane, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from learner.data.batch import describe
from learner.data.generators import preserved_rng
from learner.data.signature import nearest
from learner.interrogate.features import as_matrix, in_double

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = ("pca", "umap")
# Petroff 2021, "Accessible color sequences for data visualization": ten told apart with any kind of colour vision.
_COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
_MARKERS = "os^DvP"  # shapes go on where the colours are used up
_STYLES = [(color, marker) for marker, color in product(_MARKERS, _COLORS)]


@dataclass(frozen=True, eq=False, repr=False)
class RepresentationMap:
    """Positions of samples on a plane; in a notebook it shows its picture.

    Attributes:
        positions: (N, 2), on the CPU.
        by: how it was made: "pca", "umap" or the name of a function.
        explained: for "pca" the share of the variance along each of the two axes [0-1], else None.
        labels: what `plot` colours by, if not told otherwise.
        names: what `plot` writes beside the points, if not told otherwise.
    """

    positions: Tensor
    by: str
    explained: Tensor | None = None
    labels: Any = None
    names: Sequence[str] | Mapping[int, str] | None = None

    def plot(
        self, labels: Any = None, names: Sequence[str] | Mapping[int, str] | None = None, ax: Axes | None = None
    ) -> Figure:
        """Draw the map; return the figure.

        Args:
            labels: N of them. Whole numbers, words and flags are classes, with a legend; other numbers are values, with
                a colour bar, grey where they are not finite. Default: those of the map, if any.
            names: N words to write beside the points; for some points only, a dict from sample to word. Default: those
                of the map, if any.
            ax: where to draw. Default: a new figure.

        Raises:
            ValueError: if there are not N labels or names, a named sample is not there, or there are more classes than
                can be told apart.
        """
        labels = _checked_labels(self.labels if labels is None else labels, len(self.positions))
        written = _checked_names(self.names if names is None else names, len(self.positions))
        if ax is None:
            from learner.drawing import subplots

            ax = subplots(figsize=(6.4, 4.8), layout="constrained")[1]
        # Smaller and fainter the more there are, so that where many lie can still be seen.
        style = {"s": float(np.clip(20_000 / len(self.positions), 5, 45)), "alpha": 0.75}
        if labels is not None and labels.dtype.kind == "f":
            self._draw_values(ax, labels, style)
        else:
            self._draw_classes(ax, labels, style)
        self._draw_names(ax, written, style)
        shares = [""] * 2 if self.explained is None else [f" ({share:.0%} of the variance)" for share in self.explained]
        title = self.by.upper() if self.by in _KINDS else self.by
        ax.set(xlabel=f"{title} 1{shares[0]}", ylabel=f"{title} 2{shares[1]}")
        ax.set_aspect("equal", adjustable="datalim")  # distances are what a map is for
        ax.margins(0.08)
        ax.spines[["top", "right"]].set_visible(False)
        return ax.figure  # type: ignore[return-value]  # of a subfigure, that

    def _draw_values(self, ax: Axes, values: np.ndarray[Any, Any], style: dict[str, Any]) -> None:
        from matplotlib import colormaps

        colors = colormaps["viridis"].with_extremes(bad="lightgrey")
        x, y = self.positions.T
        points = ax.scatter(x, y, c=values, cmap=colors, plotnonfinite=True, linewidths=0, **style)
        ax.figure.colorbar(points, ax=ax).solids.set_alpha(1)  # type: ignore[union-attr]

    def _draw_classes(self, ax: Axes, labels: np.ndarray[Any, Any] | None, style: dict[str, Any]) -> None:
        if labels is None:
            ax.scatter(self.positions[:, 0], self.positions[:, 1], c=_COLORS[0], linewidths=0, **style)
            return
        values = labels.tolist()
        classes = sorted(set(values), key=lambda value: (type(value).__name__, value))  # None among words is no error
        for value, (color, marker) in zip(classes, _STYLES, strict=False):
            x, y = self.positions[[other == value for other in values]].T
            ax.scatter(x, y, c=color, marker=marker, linewidths=0, label=str(value), **style)
        legend = ax.legend(
            loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + (len(classes) - 1) // 20, frameon=False
        )
        for handle in legend.legend_handles:
            handle.set(alpha=1, sizes=[36])  # type: ignore[union-attr]

    def _draw_names(self, ax: Axes, names: dict[int, str], style: dict[str, Any]) -> None:
        from matplotlib.patheffects import withStroke

        for i, name in names.items():
            x, y = self.positions[i].tolist()
            ax.scatter(x, y, s=style["s"], facecolors="none", edgecolors="black", linewidths=0.8)
            text = ax.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize="small")
            text.set_path_effects([withStroke(linewidth=2, foreground="white", alpha=0.7)])  # read over other points

    def _repr_png_(self) -> bytes:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.8), layout="constrained")  # not pyplot's, which would show it once more
        self.plot(ax=figure.subplots())
        file = BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def __repr__(self) -> str:
        explained = "" if self.explained is None else f", explained={[round(float(e), 4) for e in self.explained]}"
        return f"RepresentationMap({len(self.positions)} samples, by={self.by!r}{explained})"


def representation_map(
    x: Any,
    by: str | Callable[[Tensor], Any] = "pca",
    labels: Any = None,
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> RepresentationMap:
    """Lay samples out on a plane, near each other where their features are alike.

    The same features give the same map, and the random generators are left as they were.

    Args:
        x: features of shape (N, D...), a tensor, an array or nested lists.
        by: "pca", exact, signs chosen so that the largest loading is positive; "umap", which needs umap-learn, in its
            default settings with `random_state=0`; or a function of the features, an (N, D) tensor on the CPU, that
            gives (N, 2), as `TSNE().fit_transform` or `umap.UMAP(n_neighbors=5).fit_transform`.
        labels: a class or a value per sample, to colour by; see `RepresentationMap.plot`.
        names: words to write beside the points; see `RepresentationMap.plot`.

    Raises:
        TypeError: if `x` does not hold real numbers, or `by` is neither a name nor a function.
        ValueError: if `x` is empty or not finite, `by` is no known name, what the function gives is not (N, 2) and
            finite, or labels or names do not fit.
        ImportError: for "umap" without umap-learn.

    Example:
        >>> square = [[0.0, 0.0, 7.0], [4.0, 0.0, 7.0], [0.0, 2.0, 7.0], [4.0, 2.0, 7.0]]
        >>> found = representation_map(square, labels=["left", "right", "left", "right"])
        >>> found
        RepresentationMap(4 samples, by='pca', explained=[0.8, 0.2])
        >>> found.positions.tolist()
        [[-2.0, -1.0], [2.0, -1.0], [-2.0, 1.0], [2.0, 1.0]]
    """
    if isinstance(by, str) and by not in _KINDS:
        raise ValueError(f"`by` must be 'pca', 'umap' or a function, got {by!r}{nearest(by, _KINDS)}.")
    if not isinstance(by, str) and not callable(by):
        raise TypeError(f"`by` must be 'pca', 'umap' or a function, got {by!r}; of a reducer, pass `.fit_transform`.")
    features = as_matrix(x, "x", is_finite=True)
    _checked_labels(labels, len(features))
    _checked_names(names, len(features))
    explained = None
    if by == "pca":
        positions, explained = _pca(in_double(features))
    else:
        function = _umap() if isinstance(by, str) else by
        with preserved_rng():
            positions = _checked_positions(function(features.cpu()), len(features))
    title = by if isinstance(by, str) else getattr(by, "__qualname__", type(by).__name__).removesuffix(".fit_transform")
    return RepresentationMap(positions.to("cpu", features.dtype), title, explained, labels, names)


def _pca(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions along the first two principal components, and the share of the variance of each."""
    x = x - x[0]
    x = x - x.mean(0)
    n, width = x.shape
    if width <= n:
        variances, loadings = torch.linalg.eigh(x.T @ x)  # ascending
        loadings = loadings[:, -2:].flip(1)
        positions = x @ loadings
    else:
        variances, positions = torch.linalg.eigh(x @ x.T)
        positions = positions[:, -2:].flip(1) * variances[-2:].flip(0).clamp(min=0).sqrt()
        loadings = x.T @ positions
    signs = loadings.gather(0, loadings.abs().argmax(0, keepdim=True)).sign()
    positions = torch.nn.functional.pad(positions * signs, (0, 2 - positions.shape[1]))
    total = x.square().sum()
    return positions, (positions.square().sum(0) / total.where(total > 0, 1)).cpu()


def _umap() -> Callable[[Tensor], Any]:
    try:
        import umap
    except ImportError as error:
        raise ImportError(
            "`by='umap'` needs umap-learn; do `pip install umap-learn`, or say `by='pca'`, which needs nothing."
        ) from error  # which may be of something that umap needs in turn
    function: Callable[[Tensor], Any] = umap.UMAP(random_state=0, n_jobs=1).fit_transform
    return function


def _checked_positions(found: Any, n: int) -> Tensor:
    positions = as_matrix(found, "what `by` gives", is_finite=True)
    if tuple(positions.shape) != (n, 2):
        raise ValueError(f"what `by` gives must have shape ({n}, 2), got {describe(found)}.")
    return positions


def _checked_labels(labels: Any, n: int) -> np.ndarray[Any, Any] | None:
    """Return labels as an array, or say why they do not fit."""
    if labels is None:
        return None
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.float() if labels.is_floating_point() else labels  # numpy knows no bfloat16
    array = np.asarray(labels)
    if array.shape != (n,):
        raise ValueError(f"`labels` must be one per sample, shape ({n},), got shape {array.shape}.")
    if array.dtype.kind != "f" and (n_classes := len(set(array.tolist()))) > len(_STYLES):
        raise ValueError(
            f"`labels` must be of at most {len(_STYLES)} classes, got {n_classes}; pass them as floats for "
            f"a colour bar."
        )
    return array


def _checked_names(names: Sequence[str] | Mapping[int, str] | None, n: int) -> dict[int, str]:
    """Return what to write beside which sample, or say why it does not fit."""
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        if isinstance(names, str) or len(names) != n:
            raise ValueError(f"`names` must be {n} words, or a dict from sample to word, got {describe(names)}.")
        names = dict(enumerate(names))
    if unknown := [i for i in names if i not in range(n)]:
        raise ValueError(f"`names` must be of samples from 0 to {n - 1}, got {unknown[0]!r}.")
    return dict(names)
