"""What an optimizer step does to parameters, measured in a few kernels for all of them together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from learner import LearnerError

N_BINS, LOWEST = 40, -30  # a bin for each power of two, from 2^-30, about 1e-9, to 2^10, about 1e3


class ParameterCopy:
    """Parameters that have a gradient, and a buffer for a copy: one vector, with a view of the shape of each parameter.

    Args:
        named: parameters by name; all have a gradient, now and at each call.

    Attributes:
        columns: the column of each parameter in the rows that are written, by name.
        flat: the vector, of float64 if a parameter is, else of float32.

    Raises:
        LearnerError: if they are on several devices.

    Example:
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.0, 2.0])
        >>> copy, row, counts = ParameterCopy({"p": p}), torch.empty(3, 1), torch.empty(1, 41, dtype=torch.int32)
        >>> copy.write_before(row, counts)
        >>> torch.optim.SGD([p], lr=0.5).step()
        >>> copy.write_after(row)
        >>> row.T, counts.nonzero()[:, 1]  # a zero, and a 2^1 in the 32nd bin from 2^-30
        (tensor([[2., 5., 1.]]), tensor([ 0, 32]))
    """

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        self.columns = {name: i for i, name in enumerate(named)}
        self.parameters = list(named.values())
        tensors = _dense_real(self.parameters)
        devices = dict.fromkeys(str(t.device) for t in tensors)
        if len(devices) > 1:
            raise LearnerError(
                f"the parameters to watch must be on one device, got {', '.join(devices)}; choose those of one device, "
                f"and use a callback for each."
            )
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        self._sizes = [t.numel() for t in tensors]
        self.flat = torch.empty(sum(self._sizes), dtype=dtype, device=tensors[0].device)
        # With the strides of the parameters (channels last, say), or an accelerator would copy them one by one.
        self._parts = [
            part.as_strided(t.shape, torch.empty_like(t, device="meta").stride(), part.storage_offset())
            for t, part in zip(tensors, torch.split(self.flat, self._sizes), strict=True)
        ]

    @torch.no_grad()
    def write_before(self, row: Tensor, counts: Tensor | None) -> None:
        """Write the norms before a step, and copy the parameters.

        Args:
            row: 3 x parameters; the norms of gradients and parameters are written to it.
            counts: whole numbers, at least parameters x 41; the histograms of |gradient| are written to it: zeros, then
                a bin for each power of two. Nothing is counted if None.
        """
        gradients = _dense_real(p.grad for p in self.parameters)  # type: ignore[misc]  # each has one
        row[0] = torch.stack(torch._foreach_norm(gradients, 2, self.flat.dtype))
        if counts is not None:
            torch._foreach_copy_(self._parts, gradients)
            self._count(counts)
        torch._foreach_copy_(self._parts, _dense_real(self.parameters))
        row[1] = torch.stack(torch._foreach_norm(self._parts))

    @torch.no_grad()
    def write_after(self, row: Tensor) -> None:
        """Write the norms of the differences between the parameters and their copy, which is overwritten."""
        torch._foreach_sub_(self._parts, _dense_real(self.parameters))
        row[2] = torch.stack(torch._foreach_norm(self._parts))

    def _count(self, counts: Tensor) -> None:
        """Count the values in the vector, which are overwritten."""
        # The exponent of a float is its logarithm, at a twentieth of the cost.
        bins = self.flat.abs_().float().view(torch.int32)
        is_some = bins.clamp(max=1)  # whole numbers: five times as fast as a comparison and a mask
        bins.bitwise_right_shift_(23).sub_(127 + LOWEST).clamp_(0, N_BINS - 1).add_(is_some)
        first_bins = range(0, (1 + N_BINS) * len(self._sizes), 1 + N_BINS)
        torch._foreach_add_(torch.split(bins, self._sizes), list(first_bins))
        # Unlike bincount, this need not wait to see what the largest is.
        counts.zero_().view(-1).index_add_(0, bins, torch.ones_like(counts[0, 0]).expand_as(bins))


def _dense_real(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return dense real tensors: sparse ones made dense, complex numbers as pairs."""
    dense = (t if t.layout is torch.strided else t.to_dense() for t in tensors)
    return [torch.view_as_real(t) if t.is_complex() else t for t in dense]
