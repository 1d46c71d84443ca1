"""Giving an optimizer what came after it was made."""

import pytest
import torch
from torch import nn

from learner.optim import add_to


def test_moments_of_the_others_are_kept_and_options_are_those_given():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    opt.step()
    moments = opt.state[model[0].weight]["exp_avg"].clone()
    model[1] = nn.Linear(2, 3)
    add_to(opt, model, lr=0.01)
    assert opt.param_groups[1]["params"] == [*model[1].parameters()]
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.01]
    assert torch.equal(opt.state[model[0].weight]["exp_avg"], moments)


def test_a_parameter_or_several_may_be_given_and_frozen_ones_are_left_out():
    layer, opt = nn.Linear(2, 2), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    layer.bias.requires_grad_(False)
    add_to(opt, layer.weight)
    with pytest.raises(ValueError, match="`what` must hold a parameter that can be trained and that `opt` does not"):
        add_to(opt, [*layer.parameters()])


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match="`opt` must be an optimizer, got NoneType; fit first"):
        add_to(None, nn.Linear(1, 1))
