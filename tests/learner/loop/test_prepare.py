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
