"""Sharpness-aware minimization, against a loop by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import AccumulateCallback, ClipGradientCallback, MetricsCallback, SAMCallback
from learner import Callback, Learner, LearnerError

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
DATA = list(zip(X.split(8), (X.sum(1, keepdim=True) ** 2).split(8), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def momentum(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def learner(*cbs) -> Learner:
    return Learner(network(), {"train": DATA, "valid": DATA[:1]}, mse_loss, 0.05, momentum, list(cbs))


def by_hand(rho: float, max_norm: float | None, n: int = 3) -> tuple[nn.Module, list[float]]:
    model = network()
    norm = model[1]
    opt, means = momentum(model.parameters(), 0.05), []
    for _ in range(n):
        losses = []
        for x, y in DATA:
            loss = mse_loss(model(x), y)
            loss.backward()
            losses.append(loss.item())
            old = {p: p.detach().clone() for p in model.parameters()}
            length = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(p.grad * (rho / (length + 1e-12)))
            opt.zero_grad()
            statistics = {name: b.clone() for name, b in norm.named_buffers()}
            mse_loss(model(x), y).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(old[p])
                for name, b in norm.named_buffers():
                    b.copy_(statistics[name])
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            opt.step()
            opt.zero_grad()
        means.append(sum(losses) / len(losses))
    return model, means


@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_it_equals_the_loop_by_hand(max_norm):
    model, means = by_hand(0.1, max_norm)
    learn = learner(SAMCallback(0.1, max_norm), MetricsCallback(again=mse_loss))
    learn.dls = {"train": DATA}
    learn.fit(3)
    assert all(map(torch.equal, learn.model.state_dict().values(), model.state_dict().values()))
    assert learn.history.to_dict()["train/loss"] == pytest.approx(means, rel=1e-6)
    assert learn.history.to_dict()["train/again"] == pytest.approx(means, rel=1e-6)


def test_validation_changes_nothing():
    with_validation = learner(SAMCallback())
    with_validation.fit(2)
    without = learner(SAMCallback())
    without.dls = {"train": DATA}
    without.fit(2)
    assert all(map(torch.equal, with_validation.model.parameters(), without.model.parameters()))


def test_an_error_in_the_second_forward_leaves_the_weights_as_they_were():
    class Fail(Callback):
        n = 0

        def after_predict(self, learn: Learner) -> None:
            self.n += 1
            if self.n == 2:
                raise RuntimeError("second forward")

    learn = learner(SAMCallback(10.0), Fail())
    before = {name: value.clone() for name, value in learn.model.named_parameters()}
    with pytest.raises(RuntimeError, match="second forward"):
        learn.fit(1)
    assert all(torch.equal(value, before[name]) for name, value in learn.model.named_parameters())


@pytest.mark.parametrize(
    ("cb", "error"),
    [
        (AccumulateCallback(2), "must have one batch for each step, got 2"),
        (ClipGradientCallback(1.0), "must clip the second gradient itself, got a ClipGradientCallback"),
    ],
)
def test_what_it_does_not_go_with(cb, error):
    with pytest.raises(LearnerError, match=f"SAMCallback {error}"):
        learner(cb, SAMCallback()).fit(1)


def test_it_does_not_go_with_a_closure():
    learn = Learner(network(), {"train": DATA}, mse_loss, 0.1, torch.optim.LBFGS, SAMCallback())
    with pytest.raises(LearnerError, match=r"SAMCallback must have an optimizer that .*, got LBFGS"):
        learn.fit(1)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, "x", True])
def test_bad_arguments(bad):
    with pytest.raises((TypeError, ValueError), match="`rho` must be"):
        SAMCallback(bad)
    with pytest.raises((TypeError, ValueError), match="`max_norm` must be"):
        SAMCallback(0.1, bad)
