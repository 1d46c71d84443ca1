"""What has to be there before a fit begins."""

import pytest
import torch
from torch import nn

from learner import Learner, LearnerError


def test_a_loader_to_train_on_must_be_there(dls):
    learn = Learner(nn.Linear(4, 3), {"valid": dls["valid"]}, nn.functional.cross_entropy)
    with pytest.raises(LearnerError, match=r"a loader whose name starts with 'train', got \['valid'\]; add one"):
        learn.fit(1)
    assert learn.opt is None


def test_the_optimizer_is_made_once_and_each_fit_starts_from_its_rate(make_learner):
    made = []

    def opt_func(params, lr):
        made.append(lr)
        return torch.optim.SGD(params, lr=lr)

    learn = make_learner(opt_func=opt_func, lr=0.5)
    learn.fit(1)
    learn.fit(1, lr=0.25)
    assert made == [0.5]
    assert learn.opt.param_groups[0]["lr"] == 0.25


def test_no_stale_gradient_meets_a_fit_of_the_model_or_of_what_the_optimizer_holds_besides(make_learner):
    beside = nn.Parameter(torch.zeros(2))
    learn = make_learner(opt_func=lambda params, lr: torch.optim.SGD([*params, beside], lr=lr))
    learn.fit(1)
    for parameter in (beside, *learn.model.parameters()):
        parameter.grad = torch.ones_like(parameter)
    before = nn.utils.parameters_to_vector(learn.model.parameters()).clone()
    learn.loss_f = lambda preds, y: preds.sum() * 0
    learn.fit(1)
    assert torch.equal(beside, torch.zeros(2))
    assert torch.equal(nn.utils.parameters_to_vector(learn.model.parameters()), before)
