"""Rows in blocks that double."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from callbacks import ActivationStats, GradientStats
from callbacks.watch.blocks import next_row, read, room_after, taken
from tests.resuming import leaves, resumed_from_each, resumed_from_each_validation, tiny_learner

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


# -- in a checkpoint, for the callbacks that keep their rows so --------------------------------------------------------

SOME = {"every": 2, "hist_every": 3}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(ActivationStats, {}), (ActivationStats, {**SOME, "on_valid": True}), (GradientStats, {}), (GradientStats, SOME)],
)
def test_a_fit_that_goes_on_has_what_was_recorded_before(tmp_path, kind, options):
    made = []

    def make(cbs):
        made.append(kind(**options))
        return tiny_learner([*cbs, made[-1]])

    _, gone_on = resumed_from_each(make, 2, tmp_path / "train")
    assert len(gone_on) == 12
    gone_on += resumed_from_each_validation(make, 2, tmp_path / "valid")
    for learn in gone_on:
        stats = next(cb for cb in learn.cbs if isinstance(cb, kind))
        pd.testing.assert_frame_equal(stats.to_pandas(), made[0].to_pandas(), check_exact=True)
        assert repr(stats) == repr(made[0])


@pytest.mark.parametrize("kind", [ActivationStats, GradientStats])
def test_it_can_be_read_where_it_was_loaded(tmp_path, kind):
    stats, again = kind(), kind()
    learn = tiny_learner(stats)
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    tiny_learner(again).load(tmp_path / "learn.pt")
    pd.testing.assert_frame_equal(again.to_pandas(), stats.to_pandas(), check_exact=True)
    figures = again.figures(), stats.figures()
    assert figures[0].keys() == figures[1].keys()
    plt.close("all")


@pytest.mark.parametrize("kind", [ActivationStats, GradientStats])
def test_many_rows_go_into_a_checkpoint_as_a_few_tensors(kind):
    """Not as a list of tuples, which takes a second for each 100 000 to be copied."""
    stats = kind()
    tiny_learner(stats).fit(20)
    n_parts = sum(1 for _ in leaves(stats.state_dict()))
    tiny_learner(stats).fit(1)
    assert n_parts < sum(1 for _ in leaves(stats.state_dict())) + 10
