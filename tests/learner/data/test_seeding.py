"""Code that draws from a seed of its own neither disturbs the global generators nor is disturbed."""

import random

import numpy as np
import torch

from learner.data.seeding import iterate_isolated, position_seed
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
