"""What a callback names in `state` is kept by name, and generators within go on in place."""

import random

import pytest
import torch
from torch import nn

from learner import Callback, Learner, LearnerError
from learner.checkpoint.snapshot import snapshot


class Noise(Callback):
    state = ("noise",)

    def __init__(self):
        self.noise = random.Random(1)


def learner(*cbs):
    return Learner(nn.Linear(1, 1), {"train": [(torch.ones(2, 1), torch.ones(2, 1))]}, nn.functional.mse_loss, cbs=cbs)


def test_state_that_is_not_there_is_named():
    class Missing(Callback):
        state = ("nothing",)

    with pytest.raises(LearnerError, match="`state` of Missing must name attributes that it has, got 'nothing'"):
        snapshot(learner(Missing()))


def test_a_generator_in_state_goes_on_and_stays_the_same_object(tmp_path):
    saved, other = learner(Noise()), learner(Noise())
    saved.cbs[0].noise.random()
    saved.save(tmp_path / "a.pt")
    shared = other.cbs[0].noise
    other.load(tmp_path / "a.pt")
    assert shared.random() == saved.cbs[0].noise.random()
