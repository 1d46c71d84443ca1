"""Optimizers with weights of their own to evaluate with, against a loop by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from callbacks import BestModelCallback, CheckpointCallback
from learner import Callback, CancelFitException, Learner
from learner.optim import Optimizers
from tests.resuming import (
    assert_equal_runs,
    differing,
    resumed_from_each,
    resumed_from_each_validation,
    tiny_learner,
    uninterrupted,
)


class ScheduleFreeSGD(torch.optim.Optimizer):
    """Defazio et al., The Road Less Scheduled (2024): the model holds y while it trains, and x to evaluate with."""

    def __init__(self, params, lr, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "n": 0, "train_mode": False})

    @torch.no_grad()
    def _move(self, is_training):
        for group in self.param_groups:
            if group["train_mode"] is not is_training:
                group["train_mode"] = is_training
                for p in group["params"]:
                    if "z" in self.state[p]:
                        weight = 1 - group["beta"] if is_training else 1 - 1 / group["beta"]
                        p.lerp_(self.state[p]["z"], weight)

    def train(self):
        self._move(True)

    def eval(self):
        self._move(False)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("the optimizer must be in train mode")
            group["n"] += 1
            beta, c = group["beta"], 1 / group["n"]
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, c)
                p.sub_(p.grad, alpha=group["lr"] * (1 - beta * (1 - c)))
                z.sub_(p.grad, alpha=group["lr"])


def make(cbs):
    return tiny_learner(cbs, ScheduleFreeSGD, 0.3)


def by_hand(n: int) -> Learner:
    """Train without any validation, with the model, data and random numbers of `make`."""
    learn = make(None)
    opt = ScheduleFreeSGD(learn.model.parameters(), 0.3)
    opt.train()
    for _ in range(n):
        for x, y in learn.dls.train:
            cross_entropy(learn.model(x), y).backward()
            opt.step()
            opt.zero_grad()
    opt.eval()
    return learn


def same_weights(one: Learner, other: Learner) -> bool:
    return all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))


def test_it_equals_the_loop_by_hand_and_validation_disturbs_nothing():
    learn = make(None)
    learn.fit(3)
    assert same_weights(learn, by_hand(3))
    assert learn.opt.param_groups[0]["train_mode"] is False
    assert learn.validate()["loss"] == learn.history[-1]["valid/loss"]  # of the weights that are left


def test_a_validation_in_the_middle_and_passes_within_passes_see_the_weights_to_evaluate_with():
    class Look(Callback):
        def after_batch(self, learn):
            if learn.is_side_pass:
                return
            trained = [p.clone() for p in learn.model.parameters()]
            learn.validate()
            assert all(map(torch.equal, trained, learn.model.parameters()))
            assert learn.opt.param_groups[0]["train_mode"] is learn.training

    learn = make(Look())
    learn.fit(2)
    assert same_weights(learn, by_hand(2))


def test_it_goes_on_from_each_batch_bit_for_bit(tmp_path):
    whole, gone_on = resumed_from_each(make, 2, tmp_path)
    for learn in [*gone_on, *resumed_from_each_validation(make, 2, tmp_path)]:
        assert_equal_runs(learn, whole)


def test_a_longer_fit_goes_on_from_the_end_of_a_shorter_one(tmp_path):
    longer = uninterrupted(make, 3, tmp_path / "longer")
    uninterrupted(make, 2, tmp_path / "fit")
    learn = make(CheckpointCallback(tmp_path / "fit"))
    learn.fit(3, resume=True)
    assert differing(learn.opt.state_dict(), longer.opt.state_dict()) == []
    assert same_weights(learn, longer)


def test_save_and_load(tmp_path):
    learn, other = make(None), make(None)
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    for each in (learn, other):
        torch.manual_seed(5)
        each.fit(1)
    assert same_weights(learn, other)


def test_one_of_several_optimizers_may_be_such_a_one():
    def both(params, lr):
        params = list(params)
        sgd = torch.optim.SGD(params[2:], lr)
        return Optimizers(a=ScheduleFreeSGD(params[:2], lr), b=sgd)

    def trained(dls_of):
        learn = tiny_learner(None, both, 0.3)
        learn.dls = dls_of(learn.dls)
        learn.fit(2)
        return learn

    learn, without = trained(lambda dls: dls), trained(lambda dls: {"train": dls.train})
    assert same_weights(learn, without)
    assert learn.opt["a"].param_groups[0]["train_mode"] is False


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_best_model_is_that_of_the_weights_to_evaluate_with(is_cancelled):
    class Stop(Callback):
        order = 200

        def after_epoch(self, learn):
            if is_cancelled and learn.dl_name == "valid" and learn.epoch == 2:
                raise CancelFitException

    best = BestModelCallback(metric="loss", mode="max", restore=True)  # not the last one
    learn = make([best, Stop()])
    learn.fit(3)
    assert best.best.epoch < 2
    assert learn.validate()["loss"] == best.best.value


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("role", ["train", "valid"])
def test_an_error_leaves_the_weights_to_evaluate_with(error, role):
    class Fail(Callback):
        def after_batch(self, learn):
            if learn.role == role and learn.epoch == 1:
                raise error

    learn = make(Fail())
    with pytest.raises(error):
        learn.fit(3)
    assert learn.opt.param_groups[0]["train_mode"] is False
    learn.remove_cb(learn.cbs)
    learn.fit(1)  # trains on


def test_nothing_of_it_leaks_from_lr_find():
    learn = make(None)
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.lr_find(n=4, plot=False)
    assert all(map(torch.equal, before, learn.model.parameters()))
    assert learn.opt is None
