"""Loaders for a pass of their own: what the loader of the training visits, each sample once, in order."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from callbacks.samples.in_order import in_order
from learner import Loaders
from learner.data import ordered
from learner.records import Table

DATA = TensorDataset(torch.arange(10.0), torch.arange(10) % 2)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2)


class Endless(Sampler):
    """Hands out numbers at random, for good; says how many make a pass."""

    def __iter__(self):
        while True:
            yield 3 + int(torch.randint(2, ()))

    def __len__(self):
        return 50


class Unlike(RandomSampler):
    """Hands out what its class does not."""

    def __iter__(self):
        yield from (2, 1, 2)


def visited(loader):
    return torch.cat([batch[0] for batch in in_order("valid", loader)]).long().tolist()


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({}, range(10)),
        ({"shuffle": True}, range(10)),
        ({"sampler": RandomSampler(DATA, num_samples=3)}, range(10)),  # who knows which three
        ({"sampler": SubsetRandomSampler([9, 4, 8])}, [4, 8, 9]),
        ({"sampler": SubsetRandomSampler(torch.tensor([5, 0]))}, [0, 5]),
        ({"sampler": WeightedRandomSampler([0, 1, 0, 0.5, 0, 0, 0, 0, 0, 2], 30)}, [1, 3, 9]),
        ({"sampler": [7, 7, 2]}, [2, 7]),
        ({"sampler": Endless()}, [3, 4]),
        ({"sampler": Unlike(DATA)}, [1, 2]),
        ({"batch_sampler": [[1, 2], [3]]}, [1, 2, 3]),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler([6]), 2, False)}, [6]),
    ],
    ids=lambda value: None,  # numbered: a sampler has no name that is the same in each process
)
def test_it_visits_what_the_sampler_visits(given, numbers):
    loader = DataLoader(DATA, **given)
    assert visited(loader) == list(numbers)
    assert visited(ordered(loader, seed=0)) == list(numbers)
    before = torch.get_rng_state()
    in_order("valid", loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_are_started_and_waited_for_as_by_the_loader():
    given = DataLoader(DATA, num_workers=1, multiprocessing_context="spawn", timeout=5)
    made = in_order("valid", given)
    assert (made.multiprocessing_context.get_start_method(), made.timeout, made.num_workers) == ("spawn", 5, 1)
    assert in_order("valid", DataLoader(DATA)).multiprocessing_context is None


def test_a_loader_in_order_has_all_samples_in_the_form_that_the_model_knows():
    table = Table(DATA).map(lambda row: (row[0] + 100, row[1])).map_collect_metrics(lambda row: row)

    def collate(rows):
        return torch.stack([x for x, _ in rows])

    given = DataLoader(
        table, batch_size=4, shuffle=True, drop_last=True, collate_fn=collate, num_workers=1, worker_init_fn=print
    )
    assert in_order("train", given).num_workers == 1
    assert in_order("train", given).worker_init_fn is print
    given = DataLoader(table, batch_size=4, shuffle=True, drop_last=True, collate_fn=collate)
    assert torch.equal(torch.cat(list(in_order("train", given))), DATA.tensors[0])
    assert [len(batch) for batch in in_order("train", given)] == [4, 4, 2]


def test_it_knows_loaders_that_cut_batches_out_at_once_and_those_with_a_sampler_of_batches():
    x = torch.arange(10.0)
    dls = Loaders.from_arrays(train=x, batch_size=4)
    assert torch.equal(torch.cat(list(in_order("train", dls.train))), x)


@pytest.mark.parametrize(
    "loader",
    [
        [torch.zeros(2)],
        DataLoader(Stream(), batch_size=2),
        DataLoader(DATA, sampler=BatchSampler(SequentialSampler(DATA), 4, False), batch_size=None),
    ],
)
def test_what_has_no_numbered_samples_in_batches_has_no_order(loader):
    with pytest.raises(ValueError, match=r"`source='pass'` must have loaders .*, got a (list|DataLoader) as 'valid2'"):
        in_order("valid2", loader)
