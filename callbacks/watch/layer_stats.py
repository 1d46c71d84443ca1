"""What was recorded of one layer: the calls, and what the numbers of each say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor


class LayerCall(NamedTuple):
    """One call of a layer that was recorded, as it is known without waiting for the device.

    Attributes:
        where: epoch, loader and batch.
        n: how many elements the output had.
        n_hist: how many of them the histogram was taken from; 0 if none was taken.
    """

    where: tuple[int, str | None, int]
    n: int
    n_hist: int


class LayerStats(NamedTuple):
    """What one layer gave, a row for each time it ran; float64, on the CPU.

    Attributes:
        mean, std: of all elements of the output; `std` with n - 1, as `torch.std`.
        hist: counts of |output| in 40 bins over 0..10, as `output.abs().histc(40, 0, 10)`; NaN where not taken.
        dead: fraction of the elements looked at that are in the first bin, |output| < 0.25 [0-1]; NaN where not taken,
            and for outputs that hold a NaN.
    """

    mean: Tensor
    std: Tensor
    hist: Tensor
    dead: Tensor

    @classmethod
    def from_rows(cls, rows: Tensor, calls: Sequence[LayerCall]) -> Self:
        """Work out the statistics from rows as `measure` writes them, one for each call.

        Example:
            >>> row = torch.zeros(1, 43, dtype=torch.float64)
            >>> row[0, 1], row[0, 2], row[0, 3] = 0.1, 0.02, 3  # mean, squared deviations, three outputs near 0
            >>> stats = LayerStats.from_rows(row, [LayerCall((0, "train", 0), n=3, n_hist=3)])
            >>> stats.std, stats.dead
            (tensor([0.1000], dtype=torch.float64), tensor([1.], dtype=torch.float64))
        """
        mean, squares, hist = rows[:, 1], rows[:, 2], rows[:, 3:]
        n, n_hist = torch.tensor([(call.n, call.n_hist) for call in calls], dtype=torch.float64).reshape(-1, 2).T
        hist[n_hist == 0] = math.nan
        dead = torch.where(mean.isnan(), math.nan, hist[:, 0] / n_hist)  # NaN is in no bin, and not dead for that
        return cls(mean, (squares / (n - 1)).sqrt(), hist, dead)


def pack_calls(calls: Sequence[LayerCall], loaders: Sequence[str | None]) -> Tensor:
    """Return calls as one tensor of whole numbers, a row for each, with loaders by their index in `loaders`.

    Example:
        >>> calls = [LayerCall((0, "train", 2), n=8, n_hist=0)]
        >>> unpack_calls(pack_calls(calls, ["train"]), ["train"]) == calls
        True
    """
    indices = {loader: i for i, loader in enumerate(loaders)}
    rows = [(epoch, indices[loader], batch, n, n_hist) for (epoch, loader, batch), n, n_hist in calls]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)


def unpack_calls(packed: Tensor, loaders: Sequence[str | None]) -> list[LayerCall]:
    """Return the calls that `pack_calls` was given."""
    return [LayerCall((epoch, loaders[i], batch), n, n_hist) for epoch, i, batch, n, n_hist in packed.tolist()]
