"""Rows of samples from several processes, brought together in the order that one process would have written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]
Batches = Sequence[tuple[int, int]]  # number of the batch, rows of it

_N_ROWS = 8192  # that are written at once


def in_order(shares: Sequence[tuple[Batches, Sequence[Mapping[str, np.ndarray]]]]) -> Columns:
    """Return the columns of all rows, batch after batch, within a batch in order of the processes.

    Args:
        shares: of each process the batches that it took rows of, and these rows, in chunks.

    Example:
        >>> first = [(0, 2), (1, 1)], [{"id": np.array([4, 2, 7])}]
        >>> second = [(0, 1)], [{"id": np.array([9])}]
        >>> in_order([first, second])["id"].tolist()
        [4, 2, 9, 7]
    """
    numbers = [i for batches, _ in shares for i, n in batches for _ in range(n)]
    order = np.argsort(np.array(numbers, np.int64), kind="stable")
    chunks = [chunk for _, each in shares for chunk in each]
    return {name: np.concatenate([chunk[name] for chunk in chunks])[order] for name in (chunks[0] if chunks else ())}


def pieces(columns: Columns) -> Iterator[Columns]:
    """Yield some rows after the other, as a writer takes them."""
    n_rows = len(next(iter(columns.values()), ()))
    for start in range(0, n_rows, _N_ROWS):
        yield {name: column[start : start + _N_ROWS] for name, column in columns.items()}


class JoinedWriter:
    """Take the rows of this process's shares of a pass; write those of all processes when it is done.

    Args:
        writer: what writes the whole.
        job: the processes.

    Attributes:
        batches: number and rows of each batch that was taken so far.
    """

    def __init__(self, writer: Any, job: Any) -> None:
        self._writer, self._job = writer, job
        self.batches: list[tuple[int, int]] = []
        self._chunks: list[Columns] = []

    def add(self, columns: Columns) -> None:
        """Take rows; they are copied."""
        self._chunks.append({name: column.copy() for name, column in columns.items()})

    def finish(self, sums: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        """Write the rows of all, of this process alone if another has failed; return sums and weights of all.

        Args:
            sums: of this process.
        """
        mine = self.batches, self._chunks, sums
        every = self._job.gather(mine, at="the samples of a pass") if self._job.can_agree else [mine]
        for piece in pieces(in_order([(batches, chunks) for batches, chunks, _ in every])):
            self._writer.add(piece)
        return added_up([one for _, _, one in every])


def added_up(every: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Return sums and weights by name, of several."""
    sums: dict[str, tuple[float, float]] = {}
    for one in every:
        for name, (total, weight) in one.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + total, before[1] + weight
    return sums
