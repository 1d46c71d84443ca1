"""What a batch weighs: the number of its samples, or what somebody says."""

import pytest
import torch
from torch import nn

from learner import Learner
from learner.loop.weight import batch_weight


@pytest.fixture
def learn() -> Learner:
    return Learner(nn.Linear(1, 1), {"train": [(torch.ones(2, 1), torch.ones(2, 1))]}, nn.functional.mse_loss)


def test_the_number_of_samples_where_nothing_is_said(learn):
    learn.batch_size = 5
    assert batch_weight(learn) == 5


def test_a_tensor_stays_one_in_float64(learn):
    learn.weight = torch.tensor([3])
    weight = batch_weight(learn)
    assert weight.shape == ()
    assert weight.dtype is torch.float64
    assert weight == 3


def test_nothing_waits_for_a_device(learn):
    learn.weight = torch.ones((), device="meta")  # whose value nobody can read
    assert batch_weight(learn).device.type == "meta"
