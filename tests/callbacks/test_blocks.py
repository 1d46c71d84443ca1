"""Rows in blocks that double."""

import torch

from callbacks.blocks import next_row, read

CPU = torch.device("cpu")


def test_rows_are_read_in_the_order_of_writing_and_no_block_ever_grows():
    blocks, first = [], None
    for i in range(300):
        next_row(blocks, i, (2, 3), torch.float64, CPU).fill_(i)
        first = first or blocks[0].data_ptr()
    assert [tuple(block.shape) for block in blocks] == [(64, 2, 3), (128, 2, 3), (256, 2, 3)]
    assert blocks[0].data_ptr() == first
    rows = read(blocks, (2, 3))
    assert rows.dtype == torch.float64
    assert torch.equal(rows[:300], torch.arange(300.0).double()[:, None, None].expand(300, 2, 3))


def test_a_row_that_was_not_counted_is_given_again():
    blocks = []
    next_row(blocks, 0, (1,), torch.int32, CPU).fill_(7)
    next_row(blocks, 0, (1,), torch.int32, CPU).fill_(9)
    assert read(blocks, (1,))[0].item() == 9


def test_a_block_has_the_type_that_is_asked_for_when_it_is_made():
    blocks = []
    for i, dtype in [(0, torch.int32), (1, torch.float32), (64, torch.int64)]:
        next_row(blocks, i, (1,), dtype, CPU)
    assert [block.dtype for block in blocks] == [torch.int32, torch.int64]


def test_nothing_is_read_as_no_rows_of_that_shape():
    assert read([], (2, 3)).shape == (0, 2, 3)
