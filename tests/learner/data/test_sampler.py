"""The batches of a pass from any position on, in an order that seed and epoch give."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from learner.data.order import ordered
from learner.data.sampler import PositionSampler
from learner.data.seeding import position_seed
from tests.noise import SIZE, N, Noisy, make, one_pass, same


def test_a_position_set_during_a_pass_is_for_the_next():
    loader = make()
    whole, next_epoch = one_pass(loader, 0), one_pass(loader, 1)
    loader.batch_sampler.set_position(0)
    batches = iter(loader)  # before the first batch, too: nothing is drawn yet
    loader.batch_sampler.set_position(1)
    assert same(list(batches), whole)
    assert same(list(loader), next_epoch)
    assert same(list(loader), next_epoch)  # stays where it is set


@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 10**9), st.data())
@settings(max_examples=60, deadline=None)
def test_indices_are_those_of_the_sampler_cut_into_batches(n, size, drop_last, epoch, data):
    replacement, num_samples = data.draw(st.booleans()), data.draw(st.none() | st.integers(1, 90))
    sampler = RandomSampler(range(n), replacement, num_samples)
    batches = PositionSampler(BatchSampler(sampler, size, drop_last), seed=-1)
    batches.set_position(epoch)
    whole = list(batches)
    generator = torch.Generator().manual_seed(position_seed(-1, epoch, "order"))
    drawn = BatchSampler(RandomSampler(range(n), replacement, num_samples, generator), size, drop_last)
    assert whole == list(drawn)
    assert len(batches) == len(whole) == len(drawn)
    start = data.draw(st.integers(0, len(whole)))
    batches.set_position(epoch, start)
    assert list(batches) == whole[start:]


def test_order_is_drawn_from_seed_and_epoch_alone():
    def order(kind, epoch, seed=7):
        return [int(i) for batch in one_pass(make(kind, seed=seed, collate_fn=torch.stack), epoch) for i in batch[:, 0]]

    def generator(epoch):
        return torch.Generator().manual_seed(position_seed(7, epoch, "order"))

    assert order("shuffle", 5) == torch.randperm(N, generator=generator(5)).tolist()
    weights = torch.arange(1, N + 1, dtype=torch.float64)
    assert order("weighted", 5) == torch.multinomial(weights, N + 2, True, generator=generator(5)).tolist()
    assert order("sequential", 5) == list(range(N))
    orders = {tuple(order("shuffle", epoch, seed)) for epoch, seed in product(range(10), range(10))}
    assert len(orders) == 100
    assert all(sorted(each) == list(range(N)) for each in orders)
    firsts = Counter(each[0] for each in orders)  # 9 times each on average; 25 is over 5 standard deviations
    assert len(firsts) == N
    assert max(firsts.values()) < 25


def test_a_weighted_sampler_keeps_its_weights():
    dataset = TensorDataset(torch.arange(3))
    loader = ordered(DataLoader(dataset, 50, sampler=WeightedRandomSampler([0.0, 1.0, 3.0], 400)), 0)
    counts = Counter(int(i) for epoch in range(10) for (batch,) in one_pass(loader, epoch) for i in batch)
    assert counts[0] == 0
    assert abs(counts[2] / 4000 - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5


class Backwards(Sampler):
    """A sampler of one's own."""

    def __len__(self):
        return N

    def __iter__(self):
        yield from reversed(range(N))


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        ({"batch_size": SIZE, "sampler": Backwards()}, [[10, 9, 8], [7, 6, 5], [4, 3, 2], [1, 0]]),
        ({"batch_size": SIZE, "sampler": Backwards(), "drop_last": True}, [[10, 9, 8], [7, 6, 5], [4, 3, 2]]),
        ({"batch_size": 2, "sampler": [3, 1, 4]}, [[3, 1], [4]]),
        ({"batch_sampler": [[3, 1], [4], [1, 5, 9]]}, [[3, 1], [4], [1, 5, 9]]),
    ],
)
def test_the_batches_of_any_sampler_are_kept_and_its_noise_depends_on_the_position(options, whole):
    loader = make("sequential", **{"batch_size": 1, **options})
    assert [[int(i) for i in batch[:-1, 0]] for batch in one_pass(loader)] == whole
    batches = one_pass(loader, 2)
    noises = torch.cat([batch[:, 1:] for batch in batches])
    assert noises.unique().numel() == noises.numel()
    for start in range(len(whole) + 1):
        for workers in (0, 2) if start == 1 else (0,):
            again = make("sequential", **{"batch_size": 1, "num_workers": workers, **options})
            assert same(one_pass(again, 2, start), batches[start:])


def test_a_sampler_without_a_length_is_taken_as_it_is():
    loader = ordered(DataLoader(Noisy(), batch_sampler=map(list, [[1], [2]]), collate_fn=torch.stack), 0)
    loader.batch_sampler.set_position(0, 1)
    assert [int(batch[0, 0]) for batch in loader] == [2]


@pytest.mark.parametrize(
    ("position", "error", "message"),
    [
        ((-1,), ValueError, "`epoch` must be at least 0, got -1; do"),
        ((1.5,), TypeError, "`epoch` must be a whole number, got 1.5; do"),
        ((0, -1), ValueError, "`start` must be a batch of the pass, from 0 to 4, got -1; if"),
        ((0, 5), ValueError, "`start` must be a batch of the pass, from 0 to 4, got 5; if"),
        ((0, "1"), TypeError, "`start` must be a whole number, got '1'; do"),
    ],
)
def test_a_position_that_is_none_is_refused_and_changes_nothing(position, error, message):
    sampler = make().batch_sampler
    sampler.set_position(np.int64(2), np.int64(1))
    with pytest.raises(error, match=message):
        sampler.set_position(*position)
    assert (sampler.epoch, sampler.start) == (2, 1)
