"""Tensors that two processes bring together."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from callbacks import DistributedCallback
from callbacks.scale.gradients import average, average_all, by_kind, checksum, copy_from_first, parameters_apart
from learner import Learner
from tests.ranks import TIMEOUT, in_each


def bring_together():
    rank = DistributedCallback(timeout=TIMEOUT).rank
    seen = {}
    single, double = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, dtype=torch.float64))
    one_has, none_has = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    single.grad, double.grad = torch.full((2, 2), 1.0 + rank), torch.full((3,), 10.0 * rank, dtype=torch.float64)
    if rank == 1:
        one_has.grad = torch.ones(2)
    n_before = len(list(by_kind([single.grad, double.grad])))
    average([single, double, one_has, none_has])
    seen["average"] = [single.grad, double.grad, one_has.grad, none_has.grad]
    seen["kinds"] = n_before
    average([])  # of nothing

    tensors = [torch.full((2,), float(rank)), torch.full((1, 2), rank), torch.full((), float(rank))]
    transposed = torch.arange(4.0).view(2, 2).mul(rank).t()  # not contiguous
    copy_from_first([*tensors, transposed])
    copy_from_first([])
    seen["copied"] = [*tensors, transposed]

    learn = apart()
    for p in (*learn.model.parameters(), learn.loss_f.scale):
        p.grad = torch.full_like(p, float(rank))
    average_all(learn)
    seen["all"] = [p.grad for p in learn.model.parameters()] + [learn.loss_f.scale.grad]
    seen["world"] = dist.get_world_size()
    return seen


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, preds, target):
        return ((preds - target) ** 2).mean() * self.scale


def apart():
    """A learner that trains a parameter of its loss, and has a frozen one."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    return Learner(model, {"train": [(torch.ones(2, 2), torch.ones(2, 1))]}, Scaled())


@pytest.fixture(scope="module")
def seen():
    return in_each(2, bring_together)


def test_gradients_are_averaged_and_a_missing_one_is_zero_unless_all_miss_it(seen):
    for each in seen:
        single, double, one_has, none_has = each["average"]
        assert torch.equal(single, torch.full((2, 2), 1.5))
        assert torch.equal(double, torch.full((3,), 5.0, dtype=torch.float64))
        assert torch.equal(one_has, torch.full((2,), 0.5))
        assert none_has is None
        assert each["kinds"] == 2


def test_all_get_what_the_first_has(seen):
    for each in seen:
        assert all(not tensor.any() for tensor in each["copied"])


def test_all_that_is_trained_is_averaged(seen):
    for each in seen:
        first, frozen, *others = each["all"]
        assert all(torch.equal(grad, torch.full_like(grad, 0.5)) for grad in (first, *others))
        assert frozen.unique().tolist() in ([0.0], [1.0])  # each its own


def test_what_is_apart_is_of_the_loss():
    learn = apart()
    assert parameters_apart(learn) == [learn.loss_f.scale]


def test_a_checksum_sees_each_bit_and_parameters_that_change_places():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = checksum(model)
    assert checksum(model) == before
    model[0].weight, model[1].weight = model[1].weight, model[0].weight
    swapped = checksum(model)
    assert swapped != before
    with torch.no_grad():
        model[1].bias.view(torch.int32)[2] ^= 1  # the last bit of one number
    assert checksum(model) != swapped
    assert checksum(nn.Tanh()) == 0
