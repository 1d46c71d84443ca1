"""Rows in blocks that double."""

import torch

from callbacks.blocks import next_row, read, room_after, taken

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


def test_the_rows_that_are_taken_can_be_gone_on_with():
    for n in (0, 1, 63, 64, 65, 191, 192, 200):
        blocks = []
        for i in range(n):
            next_row(blocks, i, (2,), torch.float32, CPU).fill_(i)
        rows = taken(blocks, n)
        assert sum(map(len, rows)) == n
        again = room_after(rows)
        assert [block.shape for block in again] == [block.shape for block in blocks]
        for i in range(n, 300):
            next_row(again, i, (2,), torch.float32, CPU).fill_(i)
        assert torch.equal(read(again, (2,))[:300, 1], torch.arange(300.0))


def test_a_block_that_was_put_back_goes_where_rows_are_written():
    meta = torch.device("meta")
    blocks = room_after([torch.ones(64, 2), torch.ones(3, 2)])
    assert next_row(blocks, 67, (2,), torch.float32, meta).device == meta
    assert [block.device.type for block in blocks] == ["cpu", "meta"]
