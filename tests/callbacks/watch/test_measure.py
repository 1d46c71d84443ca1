"""Outputs that are measured together against those that are measured alone, and against NumPy."""

import math

import numpy as np
import torch

from callbacks.watch import measure as module
from callbacks.watch.histogram import histogram
from callbacks.watch.measure import ROW, SmallOutputs, measure


def alone(flat):
    row = torch.full(ROW, math.nan)
    measure(flat, row)
    row[3:] = histogram(flat)
    return row


def together(parts, outputs):
    rows = [torch.full(ROW, math.nan) for _ in parts]
    for part, row in zip(parts, rows, strict=True):
        assert outputs.takes(part)
        outputs.add(part, row)
        part.zero_()  # as an activation does that works in place
    outputs.write()
    return rows


def test_small_outputs_come_to_the_bits_of_each_alone_whatever_their_sizes():
    generator, outputs = torch.Generator().manual_seed(0), SmallOutputs()
    special = torch.tensor([math.nan, math.inf, -10.0, 10.1, 0.25])
    batches = [(8192, 8192, 640), (8192, 8192, 640), (8192, 100, 640), (8192,) * 20, (1,) * 1500, (5, 8192, 5)]
    for sizes in batches:  # equal, changed, more than there is room for, more than can be told apart at once
        parts = [torch.randn(n, generator=generator) * 4 + 3 for n in sizes]
        if sizes[0] == 5:
            parts[0], parts[2] = special.clone(), special.clone()
        expected = [alone(part) for part in parts]
        counts = [np.histogram(part.abs().numpy(), 40, (0, 10))[0] for part in parts if part.isfinite().all()]
        rows = together(parts, outputs)
        for row, wanted in zip(rows, expected, strict=True):
            torch.testing.assert_close(row, wanted, rtol=0, atol=0, equal_nan=True)
        found = [row[3:].numpy() for row in rows if row[1].isfinite()]
        assert all(np.array_equal(row, wanted) for row, wanted in zip(found, counts, strict=True))


def test_what_is_large_or_of_another_type_or_place_is_measured_alone():
    outputs = SmallOutputs()
    assert outputs.takes(torch.ones(module.MOST_SMALL))
    assert not outputs.takes(torch.ones(module.MOST_SMALL + 1))
    assert not outputs.takes(torch.ones(3, dtype=torch.float64))
    assert not outputs.takes(torch.ones(3, device="meta"))


def test_rows_made_in_inference_mode_are_written_to_outside_of_it():
    with torch.inference_mode():
        part, row = torch.tensor([1.0, 2.0]), torch.empty(ROW)
    outputs = SmallOutputs()
    outputs.add(part, row)
    outputs.write()
    assert row[1] == 1.5
