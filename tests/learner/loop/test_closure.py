"""Optimizers that need a closure: they train with nothing said, and metrics are of the first forward."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import AccumulateCallback, ClipGradientCallback, MetricsCallback
from learner import Callback, Learner, LearnerError
from learner.loop.closure import needs_closure
from learner.optim import Optimizers

LBFGS = partial(torch.optim.LBFGS, max_iter=5, line_search_fn="strong_wolfe")
X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
DATA = list(zip(X.split(8), (X.sum(1, keepdim=True) ** 2).split(8), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def by_hand(loss_f=mse_loss, n=3):
    """Train as the documentation of torch does; return the model, and the mean of the first losses of each epoch."""
    model = network()
    opt, means = LBFGS(model.parameters(), lr=0.5), []
    for _ in range(n):
        firsts = []
        for x, y in DATA:
            losses = []

            def closure(x=x, y=y, losses=losses):
                opt.zero_grad()
                loss = loss_f(model(x), y)
                loss.backward()
                losses.append(loss.item())
                return loss

            opt.step(closure)
            firsts.append(losses[0])
        means.append(sum(firsts) / len(firsts))
    return model, means


def same(model: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_lbfgs_equals_the_loop_by_hand_and_history_is_of_the_first_forward():
    model, means = by_hand()
    learn = Learner(network(), {"train": DATA}, mse_loss, 0.5, LBFGS, MetricsCallback(again=mse_loss))
    learn.fit(3)
    assert same(learn.model, model)
    columns = learn.history.to_dict()
    assert columns["train/loss"] == pytest.approx(means, rel=1e-6)
    assert columns["train/again"] == pytest.approx(means, rel=1e-6)  # of the predictions that are left
    assert (learn.n_steps, learn.n_samples) == (9, 72)


def test_what_callbacks_and_subclasses_make_of_the_loss_is_what_is_minimised():
    class Penalty(Callback):
        def after_loss(self, learn: Learner) -> None:
            learn.loss = learn.loss + 0.01 * learn.preds.square().sum()
            learn.log(penalised=learn.loss.detach())

    class Half(Learner):
        def get_loss(self) -> None:
            super().get_loss()
            self.loss = 0.5 * self.loss

    model, means = by_hand(lambda preds, yb: 0.5 * mse_loss(preds, yb) + 0.01 * preds.square().sum())
    learn = Half(network(), {"train": DATA}, mse_loss, 0.5, LBFGS, Penalty())
    learn.fit(3)
    assert same(learn.model, model)
    assert learn.history.to_dict()["train/penalised"] == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("cb", [AccumulateCallback(2), ClipGradientCallback(1.0)])
def test_what_cannot_go_with_a_closure_is_refused_by_name(cb):
    learn = Learner(network(), {"train": DATA}, mse_loss, 0.5, LBFGS, cb)
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(LearnerError, match=f"{type(cb).__name__} must have an optimizer that .*, got LBFGS, which"):
        learn.fit(1)
    assert all(map(torch.equal, before, learn.model.parameters()))


def test_which_optimizers_need_one():
    class Own(torch.optim.SGD):
        def step(self, closure):
            """Ask for the loss."""

    parameters = list(network().parameters())
    assert needs_closure(Own(parameters))
    assert not needs_closure(torch.optim.AdamW(parameters))
    assert not needs_closure(None)


def test_one_of_several_optimizers_is_refused_by_name():
    def both(params, lr):
        a, b, *rest = params
        return Optimizers(a=LBFGS([a, b], lr=lr), b=torch.optim.SGD(rest, lr))

    with pytest.raises(LearnerError, match=r"must be one optimizer .*, got Optimizers\(a=LBFGS, b=SGD\)"):
        Learner(network(), {"train": DATA}, mse_loss, 0.5, both).fit(1)


def test_lr_find_goes_by_the_first_forward():
    learn = Learner(network(), {"train": DATA}, mse_loss, 0.5, LBFGS)
    with learn.sandbox():
        learn.model.train()
        first = mse_loss(learn.model(DATA[0][0]), DATA[0][1]).item()
    torch.manual_seed(0)
    network()  # draws what the model above has drawn
    assert learn.lr_find(n=3, plot=False).losses[0] == pytest.approx(first, rel=1e-6)
