"""Where pictures begin: every plot method makes its figure here, so that a notebook shows each exactly once.

Jupyter shows what the last line of a cell returns, and the figures that are still open when the cell ends: a figure
that is both would come twice. Import this within the function that draws, for it imports matplotlib.
"""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


class Drawing(Figure):
    """A figure that a notebook shows once: where it is the value of a line, it is not shown again as an open one.

    Example:
        >>> figure, ax = subplots()
        >>> isinstance(figure, Figure), figure.number in plt.get_fignums()
        (True, True)
        >>> plt.close(figure)
    """

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Close it, as Jupyter does with open figures when it has shown them; how to show it, matplotlib says."""
        if "inline" in matplotlib.get_backend().lower():  # in a window it would be gone
            plt.close(self)
        return {}


def new_figure(**options: Any) -> Figure:
    """Return a new figure; options as `plt.figure`."""
    return plt.figure(FigureClass=Drawing, **options)


def subplots(n_rows: int = 1, n_columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a new figure and its axes; options as `plt.subplots`."""
    return plt.subplots(n_rows, n_columns, FigureClass=Drawing, **options)


def panels(n: int) -> tuple[Figure, list[Any]]:
    """Return a figure and n axes of one size, in rows that fit on a page.

    Example:
        >>> figure, axes = panels(5)
        >>> len(axes), figure.get_size_inches().tolist()
        (5, [13.5, 6.4])
        >>> plt.close(figure)
    """
    n_rows = -(-n // 4)
    n_columns = -(-n // n_rows)
    figure, grid = subplots(n_rows, n_columns, figsize=(4.5 * n_columns, 3.2 * n_rows), squeeze=False, layout="tight")
    for ax in grid.flat[n:]:
        ax.remove()
    return figure, list(grid.flat[:n])
