"""The histogram against `histc`, count by count."""

import math

import numpy as np
import pytest
import torch

from callbacks.watch.histogram import histogram, histograms, sorted_histogram


def awkward(dtype):
    """Return numbers on both sides of every edge of a bin, and those that are not finite."""
    edges = torch.arange(42, dtype=dtype) / 4
    infinity = torch.tensor(math.inf, dtype=dtype)
    special = [math.nan, math.inf, -math.inf, 1e-40, 1e38, -1e38, 10.1, 10.25, 11.0, torch.finfo(dtype).max]
    near = [edges, -edges, edges.nextafter(infinity), edges.nextafter(-infinity), torch.tensor(special, dtype=dtype)]
    return torch.cat(near)


def counted(values):
    return histograms(values.abs(), (len(values),))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [histogram, counted, sorted_histogram])
def test_histogram_is_that_of_histc_to_the_last_count(count, dtype):
    for values in (awkward(dtype), awkward(dtype).repeat(60), torch.randn(100_000, dtype=dtype) * 4):
        expected = values.abs().histc(40, 0, 10)
        assert torch.equal(count(values).to(dtype), expected)


def test_histograms_of_several_parts_are_those_of_each_alone():
    generator = torch.Generator().manual_seed(0)
    for sizes in ((5, 0, 8192, 1), (3,) * 780, (8192,) * 5):
        parts = [torch.randn(n, generator=generator) * 4 for n in sizes]
        counts = histograms(torch.cat(parts).abs(), sizes)
        for part, row in zip(parts, counts, strict=True):
            assert torch.equal(row.float(), part.abs().histc(40, 0, 10))
            assert row.tolist() == np.histogram(part.abs().numpy(), 40, (0, 10))[0].tolist()
    parts = [awkward(torch.float32), torch.tensor([math.nan, 10.0]), awkward(torch.float32)]
    for part, row in zip(parts, histograms(torch.cat(parts).abs(), tuple(map(len, parts))), strict=True):
        assert torch.equal(row.float(), part.abs().histc(40, 0, 10))
