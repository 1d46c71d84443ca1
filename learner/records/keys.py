"""Rows by what they are of: laid out as samples by epochs, or matched with the rows of another recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Pivot(NamedTuple):
    """A column as a matrix of samples by epochs.

    Attributes:
        example_ids: (N,), rising.
        epochs: (E,), rising.
        values: (N, E), NaN where there is none.
    """

    example_ids: np.ndarray
    epochs: np.ndarray
    values: np.ndarray


class Cells(NamedTuple):
    """Columns as matrices of samples by epochs.

    Attributes:
        example_ids: (N,), rising.
        epochs: (E,), rising.
        counts: (N, E), how often the sample came in the epoch.
        values: (N, E) by column, the mean; NaN where the sample did not come.
    """

    example_ids: np.ndarray
    epochs: np.ndarray
    counts: np.ndarray
    values: dict[str, np.ndarray]


def cells_of(example_id: np.ndarray, epoch: np.ndarray, columns: Mapping[str, np.ndarray]) -> Cells:
    """Lay out columns of numbers as matrices of samples by epochs.

    Shapes: all are (n_rows,).

    Example:
        >>> cells = cells_of(np.array([7, 3, 7, 7]), np.array([0, 0, 1, 1]), {"loss": np.array([4.0, 3.0, 2.0, 1.0])})
        >>> cells.example_ids, cells.counts.tolist(), cells.values["loss"].tolist()
        (array([3, 7]), [[1, 0], [1, 2]], [[3.0, nan], [4.0, 1.5]])
    """
    example_ids, rows = np.unique(example_id, return_inverse=True)
    epochs, places = np.unique(epoch, return_inverse=True)
    shape = len(example_ids), len(epochs)
    cells = rows * len(epochs) + places
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    values = {}
    for name, column in columns.items():
        sums = np.bincount(cells, column.astype(np.float64), minlength=len(counts))
        values[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).reshape(shape)
    return Cells(example_ids, epochs, counts.reshape(shape), values)


def matched(mine: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return for each of my rows which of theirs has the same keys, -1 if none has.

    Args:
        mine: the keys by name, one per row.
        theirs: the same keys of the other rows.

    Raises:
        ValueError: if several of theirs have the keys of one of mine.

    Example:
        >>> matched({"example_id": np.array([5, 8, 5])}, {"example_id": np.array([9, 5])})
        array([ 1, -1,  1])
    """
    n = len(next(iter(mine.values())))
    codes = np.zeros(n + len(next(iter(theirs.values()))), np.int64)  # one number for all keys of a row
    for name in mine:
        values, places = np.unique(np.concatenate([mine[name], theirs[name]]), return_inverse=True)
        codes = codes * len(values) + places
    order = np.argsort(codes[n:], kind="stable")
    ordered = codes[n:][order]
    first = np.searchsorted(ordered, codes[:n])
    n_found = np.searchsorted(ordered, codes[:n], side="right") - first
    if (n_found > 1).any():
        i = int(np.argmax(n_found > 1))
        one = ", ".join(f"{name} {values[i]}" for name, values in mine.items())
        raise ValueError(
            f"`other` must have one row for each {' and '.join(mine)}, got {n_found[i]} for {one}; choose, as by "
            f"`other.where(epoch=..., split=...)`."
        )
    return np.where(n_found == 1, np.append(order, -1)[first], -1)
