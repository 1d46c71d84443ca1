"""Each fit starts from the rate asked for, whoever made the optimizer."""

import pytest
import torch

from learner import Learner
from learner.loop.rates import BaseRates


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1))


def rates(opt: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in opt.param_groups]


def test_a_rate_in_a_tensor_is_set_in_place():
    lr = torch.tensor(0.1)
    opt = torch.optim.SGD([parameter()], lr=lr)
    BaseRates(opt, float(lr)).start_from(0.25)
    assert opt.param_groups[0]["lr"] is lr
    assert float(lr) == 0.25


def test_a_group_that_came_later_keeps_its_proportion():
    opt = torch.optim.SGD([parameter()], lr=0.1)
    base = BaseRates(opt, 0.1)
    base.start_from(0.2)
    opt.add_param_group({"params": [parameter()], "lr": 0.01})
    base.start_from(0.4)
    assert rates(opt) == pytest.approx([0.4, 0.04])
    del opt.param_groups[1]
    base.start_from(0.1)
    assert rates(opt) == [0.1]


def test_an_optimizer_made_with_rate_zero_gets_the_rate_asked_for():
    opt = torch.optim.SGD([parameter()], lr=0.0)
    BaseRates(opt, 0.0).start_from(0.3)
    assert rates(opt) == [0.3]


def test_an_optimizer_set_by_hand_starts_from_the_rate_asked_for(make_learner):
    learn: Learner = make_learner()
    learn.opt = torch.optim.Adam(learn.model.parameters(), lr=0.5)
    learn.fit(1, lr=0.01)
    assert rates(learn.opt) == [0.01]
    learn.opt = torch.optim.SGD(learn.model.parameters(), lr=0.5)
    learn.fit(1)
    assert rates(learn.opt) == [learn.lr]
