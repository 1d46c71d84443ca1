"""The nearest neighbours of samples, exact, and how far they are the same in two sets of features."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.data.signature import nearest
from learner.interrogate.features import as_matrix, as_pair, in_double, unit_rows

_METRICS = ("cosine", "euclidean")
_BLOCK = 2**22  # numbers at a time, 32 MiB in float64: larger blocks are no faster


class Neighbours(NamedTuple):
    """The k nearest samples of a bank for each query, nearest first.

    Attributes:
        distances: (Q, k), in float64. For "cosine" it is 1 - cosine [0-2].
        indices: (Q, k), positions in the bank.
    """

    distances: Tensor
    indices: Tensor


def neighbours(bank: Any, queries: Any = None, k: int = 10, metric: str = "cosine") -> Neighbours:
    """Find the `k` nearest samples of a bank, nearest first, equally near ones by their position in it.

    Exact: every distance is computed, in float64. Done in blocks: beside two copies of the features it holds some
    100 MiB at a time, or a few rows of distances where that is more.

    Args:
        bank: features of shape (N, D...), a tensor, an array or nested lists.
        queries: features of shape (Q, D...). None, or the bank itself, asks for each sample of the bank, and leaves
            that sample itself out; a copy of the bank counts as other samples.
        k: how many [samples].
        metric: "cosine" or "euclidean". A row of zeros has cosine 0 with everything.

    Raises:
        TypeError: if `bank` or `queries` does not hold real numbers, or `k` is no whole number.
        ValueError: if one is empty or not finite, if they differ in width, if the bank has fewer than `k` samples to
            give, or if there is no such metric.

    Example:
        >>> bank = [[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]]
        >>> neighbours(bank, k=1).indices.tolist()
        [[1], [0], [0]]
        >>> neighbours(bank, [[0.0, 2.5]], k=2, metric="euclidean").distances
        tensor([[0.5000, 1.5000]], dtype=torch.float64)
    """
    if metric not in _METRICS:
        raise ValueError(f"`metric` must be 'cosine' or 'euclidean', got {metric!r}{nearest(str(metric), _METRICS)}.")
    points = in_double(as_matrix(bank, "bank", is_finite=True))
    is_self = queries is None or queries is bank
    asked = points if is_self else in_double(as_matrix(queries, "queries", is_finite=True)).to(points.device)
    if asked.shape[1] != points.shape[1]:
        raise ValueError(
            f"`queries` must be as wide as `bank`, {points.shape[1]} numbers a sample, got {asked.shape[1]}."
        )
    k = _checked_k(k, len(points), is_self)
    if metric == "cosine":
        points = unit_rows(points)
        asked = points if is_self else unit_rows(asked)
        lengths = points.new_zeros(len(points))
    else:
        # An offset would cost digits. One of whole numbers keeps the distances of whole numbers exact, and so ties.
        offset = points.mean(0).round()
        points = points - offset
        asked = points if is_self else asked - offset
        lengths = torch.einsum("nd,nd->n", points, points)  # no copy of them all, as by `square`
    # Small results kept between the blocks would keep the allocator from using a block's memory again.
    size = (len(asked), k)
    found = Neighbours(asked.new_empty(size), asked.new_empty(size, dtype=torch.long))
    n_rows = max(1, _BLOCK // max(len(points), k * points.shape[1]))
    for start in range(0, len(asked), n_rows):
        block = asked[start : start + n_rows]
        closeness = torch.addmm(lengths, block, points.T, beta=-0.5)  # (|q|² - |q - p|²) / 2, or the cosine
        if is_self:
            closeness.diagonal(start).fill_(-torch.inf)
        distances, indices = _ordered(block, points, _highest(closeness, k), metric)
        found.distances[start : start + n_rows] = distances
        found.indices[start : start + n_rows] = indices
    return found


def _checked_k(k: Any, n: int, is_self: bool) -> int:
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"`k` must be a whole number, got {k!r}.") from None
    if not 1 <= k <= n - is_self:
        reason = ", one of them the sample itself" if is_self else ""
        raise ValueError(f"`k` must be from 1 to {n - is_self}, got {k}; the bank holds {n} samples{reason}.")
    return int(k)


def _highest(values: Tensor, k: int) -> Tensor:
    """Return where the `k` highest values of each row are, in any order; of equal ones the first."""
    top, indices = values.topk(min(k + 1, values.shape[1]))
    indices = indices[:, :k]
    # `topk` takes any of those that are equal, which matters where there are more of them than places.
    is_crowded = (top[:, k:] == top[:, k - 1 : k]).any(1)
    if is_crowded.any():
        indices[is_crowded] = values[is_crowded].argsort(dim=1, descending=True, stable=True)[:, :k]
    return indices


def _ordered(block: Tensor, points: Tensor, indices: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Return distances and indices, nearest first, equal ones by index; each distance from its own two samples."""
    indices = indices.sort(1).values
    found = points[indices]
    if metric == "cosine":
        # What is beyond 14 digits is rounding, and would keep equal directions from being equally near.
        distances = (1 - (found * block[:, None]).sum(2)).round(decimals=14).abs()
    else:
        distances = (found - block[:, None]).norm(dim=2)
    distances, order = distances.sort(dim=1, stable=True)
    return distances, indices.gather(1, order)


def neighbour_overlap(a: Any, b: Any, k: int = 10, metric: str = "cosine") -> Tensor:
    """Return, per sample, the share of its `k` nearest in `a` that are among its `k` nearest in `b` as well [0-1].

    1 where the neighbourhood stayed the same, about `k / (N - 1)` where the two have nothing to do with each other.

    Args:
        a: features of shape (N, D...), a tensor, an array or nested lists.
        b: features of the same samples, of shape (N, E...); as of another layer.
        k: how many neighbours [samples].
        metric: "cosine" or "euclidean".

    Shapes:
        (N, D...) and (N, E...) to (N,).

    Raises:
        TypeError: if one does not hold real numbers, or `k` is no whole number.
        ValueError: if they differ in length, are not finite, have no `k` neighbours, or if there is no such metric.

    Example:
        >>> a = [[0.0], [1.0], [5.0], [6.0]]
        >>> neighbour_overlap(a, [[0.0], [1.0], [2.0], [9.0]], k=1, metric="euclidean")
        tensor([1., 1., 0., 1.])
    """
    a, b = as_pair(a, b, is_finite=True)
    in_a, in_b = neighbours(a, k=k, metric=metric).indices, neighbours(b, k=k, metric=metric).indices
    n_shared = torch.stack([(in_b == column[:, None]).any(1) for column in in_a.T]).sum(0)
    return n_shared / in_a.shape[1]
