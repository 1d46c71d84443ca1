"""What the recorded numbers of a layer say, against torch; calls as a tensor, and back."""

import math

import pytest
import torch

from callbacks.watch.histogram import histogram
from callbacks.watch.layer_stats import LayerCall, LayerStats, pack_calls, unpack_calls
from callbacks.watch.measure import ROW, measure

OUTPUTS = [torch.tensor([0.1, -0.2, 3.0, 11.0]), torch.tensor([1.0, math.nan])]


def recorded(outputs, n_hist):
    rows = torch.zeros(len(outputs), *ROW)
    for row, output in zip(rows, outputs, strict=True):
        measure(output, row)
        row[3:] = histogram(output)
    return rows.double(), [LayerCall((0, "train", i), len(o), n_hist(o)) for i, o in enumerate(outputs)]


def test_statistics_are_those_of_the_outputs():
    stats = LayerStats.from_rows(*recorded(OUTPUTS, n_hist=len))
    first = OUTPUTS[0]
    torch.testing.assert_close(stats.mean[0], first.mean().double())
    torch.testing.assert_close(stats.std[0], first.std().double())
    assert torch.equal(stats.hist[0], first.abs().histc(40, 0, 10).double())
    assert stats.dead[0] == 0.5
    assert stats.dead[1].isnan()  # of an output that holds a NaN nothing is known


def test_without_a_histogram_nothing_is_known_of_it():
    stats = LayerStats.from_rows(*recorded(OUTPUTS[:1], n_hist=lambda output: 0))
    assert stats.hist.isnan().all()
    assert stats.dead.isnan().all()
    torch.testing.assert_close(stats.mean[0], OUTPUTS[0].mean().double())


@pytest.mark.parametrize("n", [0, 3])
def test_calls_come_back_from_a_tensor(n):
    loaders = ["train", None, "valid"]
    calls = [LayerCall((i, loaders[i], 7 + i), 2**40 + i, i) for i in range(n)]
    packed = pack_calls(calls, loaders)
    assert (packed.shape, packed.dtype) == ((n, 5), torch.int64)
    assert unpack_calls(packed, loaders) == calls
