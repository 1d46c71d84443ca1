"""Each fit starts from the rate asked for, whoever made the optimizer."""

from functools import partial

import pytest
import torch

from learner import Callback, Learner
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


def test_a_group_that_came_later_keeps_its_proportion_to_the_rate_of_its_fit():
    opt = torch.optim.SGD([parameter()], lr=0.1)
    base = BaseRates(opt, 0.1)
    base.start_from(0.2)
    opt.add_param_group({"params": [parameter()], "lr": 0.01})
    base.start_from(0.4)
    assert rates(opt) == pytest.approx([0.4, 0.02])
    del opt.param_groups[1]
    base.start_from(0.1)
    assert rates(opt) == [0.1]


def test_an_optimizer_made_with_rate_zero_gets_the_rate_asked_for():
    opt = torch.optim.SGD([parameter()], lr=0.0)
    BaseRates(opt, 0.0).start_from(0.3)
    assert rates(opt) == [0.3]


def one_group(learn: Learner, lr: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.Adam(learn.model.parameters(), lr=lr)


def two_groups(learn: Learner) -> torch.optim.Optimizer:
    body, head = learn.model[0].parameters(), learn.model[2].parameters()
    return torch.optim.SGD([{"params": body, "lr": 0.5}, {"params": head, "lr": 2.0}])


def test_rates_of_an_optimizer_of_ones_own_are_kept_until_a_fit_asks_for_another(make_learner):
    learn: Learner = make_learner()
    learn.opt = one_group(learn)
    learn.fit(1)
    assert rates(learn.opt) == [0.5]
    learn.fit(1, lr=0.01)
    assert rates(learn.opt) == [0.01]
    learn.opt = two_groups(learn)
    learn.fit(1)
    assert rates(learn.opt) == [0.5, 2.0]
    learn.fit(1, lr=0.25)
    assert rates(learn.opt) == [0.25, 1.0]
    learn.lr = 0.125
    learn.fit(1)
    assert rates(learn.opt) == [0.125, 0.5]


def test_an_opt_func_that_has_its_own_rate_keeps_it(make_learner):
    learn: Learner = make_learner(opt_func=lambda params, lr: torch.optim.Adam(params, lr=1e-3))
    learn.fit(1)
    assert rates(learn.opt) == [1e-3]
    learn.fit(1, lr=1e-2)
    assert rates(learn.opt) == [1e-2]


@pytest.mark.parametrize("first", [0.0, 1e-6, 0.1, 5.0])
def test_proportions_do_not_depend_on_the_rate_of_the_first_fit(make_learner, first):
    def opt_func(params, lr):
        first, *rest = params
        return torch.optim.SGD([{"params": [first], "lr": 0.01}, {"params": rest}], lr=lr)

    learn: Learner = make_learner(opt_func=opt_func, lr=0.1)
    learn.fit(1, lr=first)
    assert rates(learn.opt) == pytest.approx([first / 10, first])
    learn.fit(1)
    assert rates(learn.opt) == pytest.approx([0.01, 0.1])


def test_a_rate_written_between_two_fits_is_kept(make_learner):
    class Halve(Callback):
        def after_step(self, learn):
            learn.opt.param_groups[0]["lr"] *= 0.5

    learn: Learner = make_learner(Halve())
    learn.fit(1)
    learn.remove_cb(learn.cbs[0])
    learn.fit(1)
    assert rates(learn.opt) == [0.1]  # where a schedule has left it was not written by a person
    learn.opt.param_groups[0]["lr"] = 0.02
    learn.fit(1)
    assert rates(learn.opt) == [0.02]
    learn.fit(1, lr=0.3)
    assert rates(learn.opt) == [0.3]


def test_a_rate_in_a_partial_is_refused(make_learner):
    with pytest.raises(ValueError, match=r"`opt_func` must leave the learning rate to the learner.*lr=0\.001"):
        make_learner(opt_func=partial(torch.optim.Adam, lr=1e-3))
