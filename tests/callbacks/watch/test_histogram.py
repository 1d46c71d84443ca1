"""The histogram against `histc`, count by count."""

import math

import pytest
import torch

from callbacks.watch.histogram import _counted_histogram, _sorted_histogram, histogram


def awkward(dtype):
    """Return numbers on both sides of every edge of a bin, and those that are no numbers."""
    edges = torch.arange(42, dtype=dtype) / 4
    infinity = torch.tensor(math.inf, dtype=dtype)
    special = [math.nan, math.inf, -math.inf, 1e-40, 1e38, -1e38, 10.1, 10.25, 11.0, torch.finfo(dtype).max]
    near = [edges, -edges, edges.nextafter(infinity), edges.nextafter(-infinity), torch.tensor(special, dtype=dtype)]
    return torch.cat(near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [histogram, _counted_histogram, _sorted_histogram])
def test_histogram_is_that_of_histc_to_the_last_count(count, dtype):
    for values in (awkward(dtype), awkward(dtype).repeat(60), torch.randn(100_000, dtype=dtype) * 4):
        expected = values.abs().histc(40, 0, 10)
        assert torch.equal(count(values).to(dtype), expected)
