"""The histogram of a layer's output: the most expensive part of watching it, so each device has its own way."""

from functools import lru_cache

import torch
from torch import Tensor

N_BINS, LARGEST = 40, 10
BINS_PER_UNIT = N_BINS // LARGEST  # a power of two, so that scaling a number to its bin is exact
_N_COUNTED = N_BINS + 2  # also what is exactly 10, and what is beyond it


def histogram(flat: Tensor) -> Tensor:
    """Return `flat.abs().histc(40, 0, 10)` of a float vector, without waiting for the device.

    That is: 10 is in the last bin, what is larger and NaN in none.

    Example:
        >>> histogram(torch.tensor([-0.1, 0.2, 0.3, 10.0, 11.0, float("nan")])).nonzero().T
        tensor([[ 0,  1, 39]])
    """
    if flat.is_cpu and len(flat) > 8192:  # from here on it takes a quarter to a half of the time of histc
        return histograms(flat.abs(), (len(flat),))[0]
    if flat.is_cuda and torch.are_deterministic_algorithms_enabled():  # these refuse histc
        return sorted_histogram(flat)
    return flat.abs().histc(N_BINS, 0, LARGEST)


def histograms(magnitudes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the histogram of each part of a float vector on the CPU, a row for each; the vector is overwritten.

    Args:
        magnitudes: the parts, one after the other; none below zero.
        sizes: how long each is; at most 780 of them.

    Example:
        >>> histograms(torch.tensor([0.1, 0.3, 0.4, 10.0]), (3, 1)).nonzero().T
        tensor([[ 0,  0,  1],
                [ 0,  1, 39]])
    """
    # Negative, because `threshold_` keeps larger values: -40, which stands for 10, stays, and the float below it goes.
    below = magnitudes.mul_(-BINS_PER_UNIT).nan_to_num_(-N_BINS - 1)
    torch.threshold_(below, -N_BINS * (1 + torch.finfo(magnitudes.dtype).eps), -N_BINS - 1)
    bins = _first_bins(sizes) - below.to(torch.int16)
    counts = torch.bincount(bins, minlength=len(sizes) * _N_COUNTED).view(len(sizes), _N_COUNTED)
    counts[:, N_BINS - 1] += counts[:, N_BINS]
    return counts[:, :N_BINS]


@lru_cache(maxsize=4)  # mostly the sizes of the last batch
def _first_bins(sizes: tuple[int, ...]) -> Tensor:
    """Return the first bin of each number's part, or of all of them if there is one part."""
    first_bins = torch.arange(0, len(sizes) * _N_COUNTED, _N_COUNTED, dtype=torch.int16)
    return first_bins if len(sizes) == 1 else first_bins.repeat_interleave(torch.tensor(sizes))


def sorted_histogram(flat: Tensor) -> Tensor:
    """Return what `histogram` does by sorting, which is slower and allowed where algorithms must be deterministic."""
    edges = torch.arange(N_BINS + 1, device=flat.device, dtype=flat.dtype) / BINS_PER_UNIT
    edges[-1] *= 1 + torch.finfo(flat.dtype).eps  # the last bin holds its upper edge
    return torch.searchsorted(flat.abs().sort().values, edges).diff()
