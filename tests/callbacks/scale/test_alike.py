"""What must be alike in all processes: each one named that differs."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.scale.alike import (
    require_equal_weights,
    require_one_batch,
    require_own_device,
    say_what_is_read_whole,
)
from learner import LearnerError
from learner.data.limit import BatchLimit
from learner.data.position import SkipLoader, StatefulLoader


def test_weights_that_differ_are_refused_with_rank_and_steps():
    require_equal_weights([(4, 17), (4, 17), (4, 17)])
    with pytest.raises(LearnerError, match=r"those of rank 2 differ.*after 3 and 4 steps"):
        require_equal_weights([(4, 17), (4, 17), (3, 17)])
    with pytest.raises(LearnerError, match=r"those of rank 1 differ.*after 4 and 4 steps"):
        require_equal_weights([(4, 17), (4, 18)])


def test_a_loader_that_gives_each_process_data_of_its_own_is_refused():
    require_one_batch("train", ["a", "a"])
    with pytest.raises(LearnerError, match=r"loader 'train'.*the first one of rank 1 is another"):
        require_one_batch("train", ["a", "b"])


def test_a_model_on_the_cuda_device_of_another_process_is_refused(monkeypatch):
    model = nn.Linear(1, 1)
    require_own_device(model)

    class OnTheFirst(nn.Parameter):
        is_cuda = True

        def get_device(self):
            return 0

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    model.weight = OnTheFirst(model.weight.detach())
    with pytest.raises(LearnerError, match=r"device of its process, cuda:1, got 'weight'"):
        require_own_device(model)


def test_it_is_said_once_that_each_process_reads_all(capsys):
    class Mine(DataLoader):
        def __iter__(self):
            return super().__iter__()

    told, mine = set(), Mine([0, 1])
    there = [], (), SkipLoader([], 0), BatchLimit([0], 1)  # of these nobody reads anything
    for dl in (iter([]), iter([]), *there, StatefulLoader(mine, 0), SkipLoader(mine, 1)):
        say_what_is_read_whole(SimpleNamespace(dl=dl, dl_name="train", job=SimpleNamespace(world=4)), told)
    said = "each of 4 processes reads all of loader 'train' to take its share: it is a"
    assert (
        capsys.readouterr().out
        == f"{said} list_iterator, not a plain DataLoader.\n{said} Mine, not a plain DataLoader.\n"
    )
