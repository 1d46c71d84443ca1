"""Measure the outputs of layers: mean, spread and histogram, of one layer or of several small ones together."""

from __future__ import annotations

import torch
from torch import Tensor

from callbacks.watch.histogram import N_BINS, histograms

ROW = (3 + N_BINS,)  # the saturated fraction, the mean, the sum of squared deviations from it, the counts

MOST_SMALL = 2**13  # [numbers]; above it the fixed cost of a kernel is little beside its work
_CAPACITY = 2**16  # [numbers], a quarter of a MB: stays in a processor's cache
_MOST_OUTPUTS = 512  # that `histograms` takes


def measure(flat: Tensor, row: Tensor) -> None:
    """Write mean and sum of squared deviations of a float vector into a row, without waiting for the device."""
    # From the mean, not from zero: of 1000.1² - 1000² little is left in float32.
    mean = flat.mean()
    deviations = flat - mean
    row[1] = mean
    row[2] = torch.dot(deviations, deviations)


class SmallOutputs:
    """A buffer for outputs of small layers on the CPU, which are measured together.

    Layer by layer, the calls would cost more than the work: one histogram with bins for each layer is faster.

    Example:
        >>> outputs, rows = SmallOutputs(), torch.empty(2, 43)
        >>> outputs.add(torch.tensor([-0.1, 0.2, 0.8]), rows[0])
        >>> outputs.add(torch.tensor([10.0, 11.0]), rows[1])
        >>> outputs.write()
        >>> rows[:, 1], rows[:, 3:].nonzero().T
        (tensor([ 0.3000, 10.5000]), tensor([[ 0,  0,  1],
                [ 0,  3, 39]]))
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(_CAPACITY)
        self._n_used = 0
        self._sizes: list[int] = []
        self._rows: list[Tensor] = []

    def takes(self, flat: Tensor) -> bool:
        """Return whether a vector has the size, type and device to be buffered."""
        return flat.is_cpu and flat.dtype == torch.float32 and len(flat) <= MOST_SMALL

    def add(self, flat: Tensor, row: Tensor) -> None:
        """Copy a vector to the buffer; `write` will write its mean, squares and histogram into `row`."""
        n = len(flat)
        if self._n_used + n > _CAPACITY or len(self._rows) == _MOST_OUTPUTS:
            self.write()
        self._buffer[self._n_used : self._n_used + n] = flat
        self._n_used += n
        self._sizes.append(n)
        self._rows.append(row[1:])

    @torch.inference_mode()  # tensors of a frozen part may be made in this mode, and then only it can write to them
    def write(self) -> None:
        """Measure all that is in the buffer, and empty it."""
        if not self._rows:
            return
        values, moments = self._buffer[: self._n_used], []
        for part in torch.split(values, self._sizes):
            mean = part.mean()
            deviations = part - mean
            moments += [mean, torch.dot(deviations, deviations)]
        counts = histograms(values.abs_(), tuple(self._sizes))
        rows = torch.cat([torch.stack(moments).view(-1, 2), counts], dim=1)
        torch._foreach_copy_(self._rows, rows.unbind())
        self._n_used, self._sizes, self._rows = 0, [], []
