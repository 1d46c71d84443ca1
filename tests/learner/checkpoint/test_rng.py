"""Generators that are named in `state` give the same numbers again."""

import random

import numpy as np
import pytest
import torch

from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.checkpoint.rng import generator_state, is_generator, put_back_generator

GENERATORS = {
    "torch": (lambda: torch.Generator().manual_seed(1), lambda g: torch.rand(3, generator=g).tolist()),
    "python": (lambda: random.Random(1), lambda g: [g.gauss(0, 1) for _ in range(3)]),
    **{
        kind.__name__: (lambda kind=kind: np.random.Generator(kind(1)), lambda g: g.normal(size=3).tolist())
        for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)
    },
    "RandomState": (lambda: np.random.RandomState(1), lambda g: g.normal(size=3).tolist()),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_goes_on_from_a_file_in_place(tmp_path, kind):
    make, draw = GENERATORS[kind]
    generator = make()
    draw(generator)
    write_checkpoint(tmp_path / "a.pt", {"generator": generator_state(generator)})
    expected = draw(generator)
    put_back_generator(generator, read_checkpoint(tmp_path / "a.pt")["generator"])
    assert draw(generator) == expected
    assert is_generator(generator)


def test_a_number_is_no_generator():
    assert not is_generator(1)
