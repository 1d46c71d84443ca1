"""Random generators: which a loader owns, and that all are put back."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from learner.data.generators import generators_of, preserved_rng


def draw():
    return random.random(), float(np.random.rand()), torch.rand(1).item()


@pytest.mark.parametrize("kind", [None, ValueError, KeyboardInterrupt])
def test_every_generator_is_put_back_however_the_block_ends(kind):
    own = torch.Generator()
    loader = DataLoader(range(9), shuffle=True, generator=own)

    def go():
        with preserved_rng([loader]):
            seen.append((draw(), [batch.item() for batch in loader]))
            if kind:
                raise kind("on purpose")

    seen = []
    for _ in range(2):
        if kind:
            with pytest.raises(kind, match="on purpose"):
                go()
        else:
            go()
    assert seen[0] == seen[1]


def loaders_with(generator):
    sampler = RandomSampler(range(9), generator=generator)
    yield DataLoader(range(9), shuffle=True, generator=generator)
    yield DataLoader(range(9), sampler=sampler)
    yield DataLoader(range(9), batch_sampler=BatchSampler(sampler, 2, drop_last=False))

    class Own:
        def __init__(self):
            self.generator = generator

    yield Own()


@pytest.mark.parametrize("i", range(4))
def test_the_generators_of_a_loader_are_found_wherever_it_keeps_them(i):
    generator = torch.Generator()
    assert generators_of(list(loaders_with(generator))[i]) == [generator]


@pytest.mark.parametrize("loader", [[1, 2], None, DataLoader(range(3)), iter([1])])
def test_a_loader_without_a_generator_has_none(loader):
    assert generators_of(loader) == []
