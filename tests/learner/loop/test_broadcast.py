"""Predictions of shape (n, 1) and a target of shape (n,): refused where they are broadcast, and nowhere else."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from learner import Learner, LearnerError
from learner.loop.broadcast import loss_without_broadcast

N = 6
FLAT = torch.linspace(0, 1, N)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def preds(*shape):
    return torch.full(shape, 0.3, requires_grad=True)


BROADCASTS = {
    "by hand": lambda p, y: (p - y).pow(2).mean(),
    "of what comes of both": lambda p, y: (p.sigmoid() * 2 - y.float().log1p()).abs().sum(),
    "binary cross entropy by hand": lambda p, y: -(y * p.log() + (1 - y) * (1 - p).log()).mean(),
    "mse": functional.mse_loss,
    "l1": nn.L1Loss(),
    "smooth l1": nn.SmoothL1Loss(),
    "huber": nn.HuberLoss(),
    "poisson": nn.PoissonNLLLoss(),
    "kl": lambda p, y: functional.kl_div(input=p, target=y.float(), reduction="batchmean"),
}
RIGHT = {
    "squeezed": lambda p, y: functional.mse_loss(p.squeeze(-1), y),
    "unsqueezed": lambda p, y: (p - y[:, None]).pow(2).mean(),
    "viewed": lambda p, y: (p.view_as(y) - y).abs().mean(),
    "a product of vectors": lambda p, y: (y @ p).sum(),
    "pairs of predictions": lambda p, y: (p - p.squeeze(1)).pow(2).mean() + y.mean(),
    "pairs of targets": lambda p, y: ((y[:, None] >= y) * p).mean(),
}


@pytest.mark.parametrize("target", [FLAT, LABELS], ids=["float", "int"])
@pytest.mark.parametrize("name", BROADCASTS)
def test_what_is_broadcast_is_refused_with_both_shapes(name, target):
    with pytest.raises(LearnerError, match=r"one shape .* got Tensor\(6, 1\) float32 and Tensor\(6,\) .*\(6, 6\)"):
        loss_without_broadcast(BROADCASTS[name], preds(N, 1), target)


def test_so_is_the_reverse():
    with pytest.raises(LearnerError, match=r"got Tensor\(6,\) float32 and Tensor\(6, 1\) float32"):
        loss_without_broadcast(nn.MSELoss(), preds(N), FLAT[:, None])


@pytest.mark.parametrize("name", RIGHT)
def test_a_loss_that_minds_the_shapes_is_left_as_it_is(name):
    loss = loss_without_broadcast(RIGHT[name], preds(N, 1), FLAT)
    assert loss == RIGHT[name](preds(N, 1), FLAT)
    assert loss.requires_grad


@pytest.mark.parametrize(
    ("p", "y", "loss_f"),
    [
        (preds(1, 1), FLAT[:1], lambda p, y: (p - y).mean()),
        (preds(N, 1), FLAT[:, None], nn.MSELoss()),
        (preds(N, 1), torch.zeros(N, dtype=torch.int64), nn.CrossEntropyLoss()),
        (preds(N, 3), LABELS, nn.CrossEntropyLoss()),
        ({"a": preds(N, 1)}, FLAT, lambda p, y: (p["a"][:, 0] - y).mean()),
    ],
    ids=["one sample", "one shape", "labels of one class", "labels", "a mapping"],
)
def test_where_nothing_is_broadcast_nothing_is_said(p, y, loss_f):
    assert loss_without_broadcast(loss_f, p, y).requires_grad


def test_shapes_that_torch_cannot_broadcast_are_its_own_error():
    with pytest.raises(RuntimeError, match="must match the size of tensor b"):
        loss_without_broadcast(lambda p, y: (p - y).mean(), preds(3, 2, 1), torch.zeros(3, 2))


def test_a_fit_looks_at_its_first_batch_alone_and_changes_nothing():
    modes = []

    def loss_f(p, y):
        modes.append(torch._C._len_torch_function_stack())
        return (p.squeeze(-1) - y).pow(2).mean()

    learn = Learner(nn.Linear(2, 1), {"train": [(torch.ones(N, 2), FLAT)] * 3}, loss_f)
    learn.fit(1)
    assert modes == [1, 0, 0]

    learn = Learner(nn.Linear(2, 1), {"train": [(torch.ones(N, 2), FLAT)] * 3}, lambda p, y: (p - y).pow(2).mean())
    with pytest.raises(LearnerError, match="must have one shape where `loss_f` compares them"):
        learn.fit(1)
    assert learn.n_steps == 0
