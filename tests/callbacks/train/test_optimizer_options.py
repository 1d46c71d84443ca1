"""What a schedule of torch changes in an optimizer, put back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from callbacks.train.optimizer_options import OptimizerOptions


def options_in(opt):
    return [{key: value for key, value in group.items() if key not in ("params", "lr")} for group in opt.param_groups]


@pytest.fixture
def opt():
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)


def test_all_but_the_learning_rate_is_as_before(opt):
    before, attributes = copy.deepcopy(options_in(opt)), set(vars(opt))
    options = OptimizerOptions.of(opt)
    schedule = OneCycleLR(opt, max_lr=0.5, total_steps=10)
    for _ in range(3):
        opt.step()
        schedule.step()
    rate = opt.param_groups[0]["lr"]
    assert options_in(opt) != before
    options.put_back()
    assert options_in(opt) == before
    assert set(vars(opt)) == attributes
    assert opt.param_groups[0]["lr"] == rate != 0.1
    pickle.dumps(opt)


def test_what_an_earlier_schedule_has_left_stays(opt):
    OneCycleLR(opt, max_lr=0.5, total_steps=10)
    step, before = opt.step, copy.deepcopy(options_in(opt))
    options = OptimizerOptions.of(opt)
    OneCycleLR(opt, max_lr=0.2, total_steps=5)
    options.put_back()
    assert opt.step is step
    assert options_in(opt) == before


def test_a_group_that_was_added_since_keeps_all_but_a_base_rate(opt):
    options = OptimizerOptions.of(opt)
    opt.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.01, "initial_lr": 0.01, "momentum": 0.5})
    options.put_back()
    group = opt.param_groups[1]
    assert (group["lr"], group["momentum"], "initial_lr" in group) == (0.01, 0.5, False)
