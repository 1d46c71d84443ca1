"""Datasets that draw random numbers, loaders over them, and what tests of order and noise compare."""

import random

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from learner.data.order import ordered

N, SIZE = 11, 3  # an uneven last batch


def noise():
    """Draw from all three generators, also the normal numbers of which two are made at once and one is kept."""
    python, numpy, cpu = (random.random(), random.gauss(0, 1)), np.random.rand(), torch.rand(1, dtype=torch.float64)
    return torch.cat([torch.tensor([*python, numpy, np.random.randn()]), cpu, torch.randn(1, dtype=torch.float64)])


class Noisy(Dataset):
    """Sample i: its number, then six random ones."""

    classes = ("cat", "dog")

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.cat([torch.tensor([float(i)]), noise()]).double()


class NoisyTogether(Noisy):
    def __getitems__(self, indices):
        assert type(indices) is list
        return [torch.cat([torch.tensor([float(i)]), noise()]).double() for i in indices]


def noisy_collate(samples):
    return torch.stack([*samples, torch.cat([torch.zeros(1), noise()])])


KINDS = {
    "shuffle": lambda: {"batch_size": SIZE, "shuffle": True},
    "sequential": lambda: {"batch_size": SIZE},
    "drop_last": lambda: {"batch_size": SIZE, "shuffle": True, "drop_last": True},
    "weighted": lambda: {"batch_size": SIZE, "sampler": WeightedRandomSampler(range(1, N + 1), N + 2)},
    "weighted once": lambda: {"batch_size": SIZE, "sampler": WeightedRandomSampler(range(1, N + 1), 7, False)},
    "subset": lambda: {"batch_size": SIZE, "sampler": SubsetRandomSampler([8, 1, 5, 9, 2, 0, 3])},
    "replacement": lambda: {"batch_size": SIZE, "sampler": RandomSampler(range(N), True, 40)},
    "twice": lambda: {"batch_size": SIZE, "sampler": RandomSampler(range(N), num_samples=2 * N + 1)},
    "batch sampler": lambda: {"batch_sampler": BatchSampler(SequentialSampler(range(N)), SIZE, False)},
}


def make(kind="shuffle", dataset=None, seed=7, **options):
    options = {"collate_fn": noisy_collate, **KINDS[kind](), **options}
    return ordered(DataLoader(Noisy() if dataset is None else dataset, **options), seed)


def one_pass(loader, epoch=0, start=0):
    loader.batch_sampler.set_position(epoch, start)
    return list(loader)


def same(batches, others):
    return len(batches) == len(others) and all(map(torch.equal, batches, others))


def generator_states():
    python, (_, keys, *rest) = random.getstate(), np.random.get_state()
    return python, keys.tolist(), rest, torch.get_rng_state().tolist()


class Stream(IterableDataset):
    def __iter__(self):
        yield 1
