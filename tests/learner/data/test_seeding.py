"""Code that draws from a seed of its own neither disturbs the global generators nor is disturbed."""

import random

import numpy as np
import torch

from learner.data.seeding import PositionGenerators, iterate_isolated, position_seed
from tests.noise import noise


class Draws:
    """Draws from all global generators and its own, at each step."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __iter__(self):
        for _ in range(4):
            yield torch.cat([noise(), torch.rand(1, generator=self.generator)])


def test_what_draws_apart_neither_disturbs_nor_is_disturbed():
    source = Draws()
    seed, other = position_seed(1), position_seed(2)
    whole = torch.stack(list(iterate_isolated(source, seed)))
    own, drawn = source.generator.get_state(), []
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = [noise() for _ in range(4)]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    for step, noises in zip(iterate_isolated(source, seed), expected, strict=True):
        drawn.append(step)
        assert torch.equal(noise(), noises)
        assert torch.equal(source.generator.get_state(), own)
    assert torch.equal(torch.stack(drawn), whole)
    assert torch.cat([whole, torch.stack(list(iterate_isolated(source, other)))]).unique().numel() == 2 * whole.numel()


def test_a_generator_of_a_position_is_that_of_the_seed_and_the_batch_whatever_was_drawn_before():
    generators, cpu = PositionGenerators(), torch.device("cpu")
    last = 2**64 - 1  # of all seeds: the next batch begins with the first again
    drawn = [
        torch.rand(1, generator=generators.at(seed, i, cpu)).item() for seed, i in ((5, 0), (5, 1), (5, 0), (last, 1))
    ]
    by_hand = [torch.rand(1, generator=torch.Generator().manual_seed(seed)).item() for seed in (5, 6, 5, 0)]
    assert drawn == by_hand
