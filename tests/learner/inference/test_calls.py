"""What a learner exports goes by the end of the name, and the first process writes it."""

import pytest
import torch
from torch import nn

from learner import Learner, Loaders
from learner.ranks.job import Job

X, Y = torch.randn(4, 3), torch.arange(4) % 2


def learner():
    return Learner(nn.Linear(3, 2), Loaders.from_arrays(train=(X, Y)), nn.functional.cross_entropy)


def test_the_end_of_the_name_says_what_is_written(tmp_path):
    learn = learner()
    for name in ("model.pt2", "weights.pt"):
        learn.export(tmp_path / name)
    program = torch.export.load(tmp_path / "model.pt2").module()
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert torch.equal(program(X), nn.functional.linear(X, weights["weight"], weights["bias"]))


@pytest.mark.parametrize("name", ["model.pt2", "weights.pt"])
def test_of_several_processes_the_first_one_writes(tmp_path, name):
    class Second(Job):
        rank, world = 1, 2

    learn = learner()
    learn.job = Second()
    learn.export(tmp_path / name)
    assert not list(tmp_path.iterdir())
