"""The shares of all processes in a batch are the batch, whichever loader it comes from and however many they are."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from learner import LearnerError
from learner.data.order import ordered
from learner.data.position import SkipLoader, StatefulLoader
from learner.data.read_ahead import ReadAhead
from learner.data.sampler import PositionSampler
from learner.data.shares import (
    Shares,
    ShareSampler,
    digest_of,
    n_samples_of,
    rows_of,
    share,
    why_read_whole,
)
from tests.loaders import Counted
from tests.noise import make


@given(st.integers(0, 2000), st.integers(1, 600))
@settings(max_examples=200, deadline=None)
def test_shares_are_contiguous_and_differ_by_one_at_most(n, world):
    bounds = [share(n, rank, world) for rank in range(world)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n
    assert all(stop == start for (_, stop), (start, _) in pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 9), st.integers(0, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_the_union_of_shares_is_the_batch_with_the_place_of_each_sample(n, size, world, epoch, data):
    whole = PositionSampler(BatchSampler(RandomSampler(range(n)), size, False), seed=3)
    whole.set_position(epoch, start := data.draw(st.integers(0, len(whole))))
    batches = list(whole)
    ranks = [list(ShareSampler(whole, Shares(rank, world))) for rank in range(world)]
    for i, batch in enumerate(batches):
        sizes = [stop - start for start, stop in (share(len(batch), rank, world) for rank in range(world))]
        real = [mine[i] for mine, size in zip(ranks, sizes, strict=True) if size]
        assert [number for mine in real for number in mine] == batch
        # What noise is drawn by is the place in the whole batch.
        assert [mine.first + k for mine in real for k in range(len(mine))] == [
            batch.first + k for k in range(len(batch))
        ]
        assert {mine.epoch for mine in real} == {epoch}
        stand_ins = [mine[i] for mine, size in zip(ranks, sizes, strict=True) if not size]
        assert all(mine == batch[:1] and mine.first == batch.first for mine in stand_ins)
    assert all(len(mine) == len(batches) == len(whole) - start for mine in ranks)


def test_512_ranks_see_one_order():
    whole = PositionSampler(BatchSampler(RandomSampler(range(3000)), 904, False), seed=1)
    whole.set_position(4)
    batches, n_stand_ins = list(whole), 0
    seen = [[] for _ in batches]
    for rank in range(512):
        shares = Shares(rank, 512)
        for i, mine in enumerate(ShareSampler(whole, shares)):
            n, n_mine = shares.sizes[i]
            assert (n, n_mine) in ((904, 1), (904, 2), (288, 1), (288, 0))
            seen[i] += mine[:n_mine]
            n_stand_ins += not n_mine
    assert seen == batches
    assert n_stand_ins == 512 - 288


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["shuffle", "weighted", "sequential"])
def test_noise_is_that_of_one_process(kind, workers):
    """Of the samples; the collate function sees the share."""
    loader = make(kind, num_workers=workers, collate_fn=torch.stack)
    loader.batch_sampler.set_position(2, 1)
    whole = list(loader)
    ranks = [(shares := Shares(rank, 3), list(shares.of(loader, 1))) for rank in range(3)]
    for i, batch in enumerate(whole):
        parts = [rows[i][: shares.sizes[i + 1][1]] for shares, rows in ranks]
        assert torch.equal(torch.cat(parts), batch)


def test_a_rank_reads_its_share_alone():
    data = Counted(8)
    list(Shares(1, 2).of(ordered(DataLoader(data, 4), seed=0)))
    assert data.n_read == 4


def test_the_loader_that_is_given_stays_whole_and_where_it_is():
    loader = make()
    loader.batch_sampler.set_position(1, 2)
    shared = Shares(0, 2).of(loader, 2)
    assert len(list(loader)) == len(list(shared)) == 2  # of four
    assert [len(batch) for batch in loader] == [4, 3]  # with a row of the collate function's
    assert type(loader.batch_sampler) is PositionSampler


def test_a_loader_that_reads_ahead_reads_ahead_a_share():
    loader = ReadAhead(make(collate_fn=torch.stack), begin=lambda batch: batch, finish=lambda batch: batch, n=2)
    (whole,) = [next(iter(loader))]
    shares = [next(iter(Shares(rank, 2).of(loader))) for rank in range(2)]
    assert torch.equal(torch.cat(shares), whole)


BATCHES = [(torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 2])), (torch.ones(1, 2), torch.tensor([3]))]


@pytest.mark.parametrize("make_loader", [lambda: BATCHES, lambda: SkipLoader(BATCHES, 0), lambda: iter(BATCHES)])
def test_what_is_not_of_numbered_samples_is_read_whole_and_cut(make_loader):
    seen = []
    for rank in range(3):
        shares = Shares(rank, 3)
        seen.append([x[: shares.sizes[i][1]] for i, (x, _) in enumerate(shares.of(make_loader()))])
        assert shares.sizes == {0: (3, 1), 1: (1, int(rank == 0))}
    for i, (x, _) in enumerate(BATCHES):
        assert torch.equal(torch.cat([mine[i] for mine in seen]), x)


def test_the_first_batch_that_is_read_whole_is_put_down_to_be_compared():
    shares = [Shares(rank, 2) for rank in range(2)]
    for one in shares:
        assert one.digest is None
        list(one.of(BATCHES))
    assert shares[0].digest == shares[1].digest == digest_of(BATCHES[0])
    list((ours := Shares(0, 2)).of(make()))
    assert ours.digest is None  # all have it by the position


def test_why_a_loader_is_read_whole():
    class Mine(DataLoader):
        def __iter__(self):
            return super().__iter__()

    data = list(range(4))
    assert why_read_whole(make()) is None
    assert why_read_whole(SkipLoader(BATCHES, 0)) == "it is a list, not a plain DataLoader"
    assert why_read_whole(Mine(data)) == "it is a Mine, not a plain DataLoader"
    assert why_read_whole(StatefulLoader(Mine(data), 0)) == "it is a Mine, not a plain DataLoader"
    assert why_read_whole(DataLoader(data)) == "its order is its own"
    assert why_read_whole(ordered(DataLoader(data, batch_size=None), 0)) == (
        "its dataset makes whole batches (batch_size=None)"
    )


# -- parts of a batch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "n"),
    [
        (torch.ones(3, 2), 3),
        ((torch.ones(3, 2), torch.ones(3)), 3),
        ([torch.ones(3, 2), torch.ones(3)], 3),
        ({"x": torch.ones(3, 2), "labels": torch.ones(3)}, 3),
        ((np.ones((3, 2)), np.ones(3)), 3),
        ((["a", "b", "c"], torch.ones(3)), 3),
    ],
)
def test_how_many_samples_there_are(batch, n):
    assert n_samples_of(batch) == n


@pytest.mark.parametrize("batch", [1.0, (), torch.tensor(1.0)])
def test_a_batch_whose_samples_cannot_be_counted_is_refused(batch):
    with pytest.raises(LearnerError, match="a batch must have a number of samples to be shared"):
        n_samples_of(batch)


def test_a_part_of_a_batch_keeps_its_form():
    batch = {
        "x": torch.arange(8).view(4, 2),
        "mask": np.arange(4),
        "text": ["a", "b", "c", "d"],
        "boxes": [torch.ones(n, 4) for n in range(1, 5)],
        "pair": (torch.arange(4), torch.arange(4.0)),
        "scale": 2.0,
        "scalar": torch.tensor(1.0),
        "table": torch.ones(7),
    }
    part = rows_of(batch, 4, 1, 3)
    assert part["x"].tolist() == [[2, 3], [4, 5]]
    assert part["mask"].tolist() == [1, 2]
    assert part["text"] == ["b", "c"]
    assert [len(box) for box in part["boxes"]] == [2, 3]
    assert [one.tolist() for one in part["pair"]] == [[1, 2], [1.0, 2.0]]
    assert (part["scale"], part["scalar"].item(), len(part["table"])) == (2.0, 1.0, 7)


def test_as_many_parts_as_samples_are_parts():
    """Two samples of an input and a target: a list of two tensors with two rows each."""
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])
    for batch in ([x, y], (x, y)):
        mine = rows_of(batch, 2, 1, 2)
        assert [one.tolist() for one in mine] == [[[2.0]], [1]]
        assert type(mine) is type(batch)


def test_a_digest_is_of_tensors_bit_by_bit():
    x = torch.tensor([1.0, -0.0])
    assert digest_of((x, x)) == digest_of((x.clone(), x))
    others = [torch.tensor([1.0, 0.0]), torch.tensor([-0.0, 1.0]), x.double()]
    assert len({digest_of((one, x)) for one in [x, *others]}) == 4
    digest_of(
        (x, torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (2,), check_invariants=True))
    )  # not looked into
