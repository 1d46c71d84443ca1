"""The weights of a Learner, bit for bit those of a loop written by hand."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from learner import Callback, Learner, Loaders

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3),
    "adamw": torch.optim.AdamW,
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )  # fmt: skip


def points(n=50):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def shuffled(n=50, generator=None):
    return DataLoader(TensorDataset(*points(n)), batch_size=16, shuffle=True, generator=generator)


def train_by_hand(model, loader, opt, n_epochs, loss_f=cross_entropy, decay=1.0):
    model.train()
    for _ in range(n_epochs):
        for x, y in loader:
            loss = loss_f(model(x), y)
            loss.backward()
            opt.step()
            for group in opt.param_groups:
                group["lr"] *= decay
            opt.zero_grad()


def assert_same(model, other):
    """Compare every parameter and buffer bit by bit."""
    state = other.state_dict()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])] == []


@pytest.mark.parametrize("opt_func", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("is_shuffled", [True, False])
def test_without_validation_the_weights_are_those_of_a_plain_loop(opt_func, is_shuffled):
    loader = shuffled() if is_shuffled else list(shuffled())
    model = network()
    by_hand = copy.deepcopy(model)
    torch.manual_seed(2)
    Learner(model, {"train": loader}, cross_entropy, lr=0.05, opt_func=opt_func).fit(3)
    torch.manual_seed(2)
    train_by_hand(by_hand, loader, opt_func(by_hand.parameters(), lr=0.05), 3)
    assert_same(model, by_hand)


def test_the_learner_draws_no_random_number_of_its_own():
    model = network()
    states = []
    for train in (
        lambda: Learner(model, {"train": shuffled()}, cross_entropy).fit(2),
        lambda: train_by_hand(model, shuffled(), torch.optim.SGD(model.parameters(), lr=0.1), 2),
    ):
        torch.manual_seed(2)
        random.seed(2)
        np.random.seed(2)
        train()
        states.append((torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())))
    assert states[0] == states[1]


def test_the_regression_of_a_first_notebook():
    x = torch.linspace(-1, 1, 1000)[:, None]
    train, valid = random_split(TensorDataset(x, x.sin()), [0.9, 0.1])
    dls = Loaders.from_datasets(train=train, valid=valid, batch_size=64)
    model = nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1))
    by_hand = copy.deepcopy(model)
    torch.manual_seed(2)
    learn = Learner(model, dls, mse_loss, 0.1)
    learn.fit(2)
    torch.manual_seed(2)
    train_by_hand(by_hand, dls.train, torch.optim.SGD(by_hand.parameters(), lr=0.1), 2, mse_loss)
    assert_same(model, by_hand)
    by_hand.eval()
    with torch.no_grad():
        xv, yv = (torch.stack(column) for column in zip(*valid, strict=True))
        expected = mse_loss(by_hand(xv), yv).item()
    assert learn.history[-1]["valid/loss"] == pytest.approx(expected, rel=1e-5)  # float32, summed in other order


@pytest.mark.parametrize("opt_func", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_two_fits_are_one_long_one_since_the_optimizer_keeps_its_state(opt_func):
    loader, model = list(shuffled()), network()
    by_hand = copy.deepcopy(model)
    learn = Learner(model, {"train": loader}, cross_entropy, lr=0.05, opt_func=opt_func)
    torch.manual_seed(2)
    learn.fit(1)
    opt = learn.opt
    learn.fit(2)
    assert learn.opt is opt
    torch.manual_seed(2)
    train_by_hand(by_hand, loader, opt_func(by_hand.parameters(), lr=0.05), 3)
    assert_same(model, by_hand)


class Halve(Callback):
    """Halve the learning rate at each step, as a schedule does."""

    def after_step(self, learn):
        for group in learn.opt.param_groups:
            group["lr"] *= 0.5


def test_each_fit_starts_from_the_learning_rate_asked_for():
    loader, model = list(shuffled()), network()
    by_hand = copy.deepcopy(model)
    learn = Learner(model, {"train": loader}, cross_entropy, lr=0.05, opt_func=OPTIMIZERS["momentum"])
    torch.manual_seed(2)
    learn.fit(1, cbs=Halve())
    learn.fit(1, lr=0.2)
    learn.fit(1)
    torch.manual_seed(2)
    opt = OPTIMIZERS["momentum"](by_hand.parameters(), lr=0.05)
    train_by_hand(by_hand, loader, opt, 1, decay=0.5)
    for lr in (0.2, 0.05):
        opt.param_groups[0]["lr"] = lr
        train_by_hand(by_hand, loader, opt, 1)
    assert_same(model, by_hand)


def test_parameter_groups_with_rates_of_their_own_keep_their_proportion():
    def groups(model, lr):
        body, head = list(model[:4].parameters()), list(model[4].parameters())
        return torch.optim.SGD([{"params": body, "lr": lr / 10}, {"params": head}], lr=lr, momentum=0.9)

    loader, model = list(shuffled()), network()
    by_hand = copy.deepcopy(model)
    learn = Learner(model, {"train": loader}, cross_entropy, 0.1, lambda params, lr: groups(model, lr))
    torch.manual_seed(2)
    learn.fit(1, lr=0.2)
    learn.fit(1, lr=0.4, cbs=Halve())
    learn.fit(1, lr=0.1)
    assert [group["lr"] for group in learn.opt.param_groups] == pytest.approx([0.01, 0.1])
    opt = groups(by_hand, 0.2)
    torch.manual_seed(2)
    for lr, decay in ((0.2, 1.0), (0.4, 0.5), (0.1, 1.0)):
        for group, share in zip(opt.param_groups, (0.1, 1.0), strict=True):
            group["lr"] = lr * share
        train_by_hand(by_hand, loader, opt, 1, decay=decay)
    for name, value in model.state_dict().items():  # 0.4 / 10 and 0.2 / 10 * 2 may differ in the last bit
        torch.testing.assert_close(value, by_hand.state_dict()[name])


def test_a_momentum_learner_that_keeps_gradients():
    class MomentumLearner(Learner):
        def zero_grad(self):
            with torch.no_grad():
                for p in self.model.parameters():
                    p.grad *= 0.85

    loader, model = list(shuffled()), network()
    by_hand = copy.deepcopy(model)
    torch.manual_seed(2)
    MomentumLearner(model, {"train": loader}, cross_entropy, lr=0.05).fit(2)
    torch.manual_seed(2)
    opt = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    by_hand.train()
    for _ in range(2):
        for x, y in loader:
            cross_entropy(by_hand(x), y).backward()
            opt.step()
            with torch.no_grad():
                for p in by_hand.parameters():
                    p.grad *= 0.85
    assert_same(model, by_hand)


# -- looking never changes what is trained ------------------------------------------------------------------------


class Noisy(Dataset):
    """Points with noise from each of the generators that people use."""

    def __init__(self, n):
        self.x, self.y = points(n)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        noise = random.random() + float(np.random.rand()) + torch.rand(()).item()
        return self.x[i] + 0.1 * noise, self.y[i]


class LookOften(Callback):
    """Look at the model in each of the ways there are, in the middle of training."""

    def after_predict(self, learn):
        if learn.training:
            learn.validate()

    def after_step(self, learn):
        learn.get_preds("valid")
        learn.get_preds("train")

    def before_epoch(self, learn):
        if learn.training:
            learn.summary()

    def after_epoch(self, learn):
        if learn.training:
            with learn.sandbox():
                learn.validate("train")


class SwapLoader(Callback):
    """Validate on another loader, which shares its generator with the one that trains."""

    def before_epoch(self, learn):
        if learn.dl_name == "valid":
            learn.dl = DataLoader(Noisy(30), batch_size=8, shuffle=True, generator=learn.dls["train"].generator)


def train_noisy(cbs=None, *, valid, has_generator):
    """Train on noisy data with dropout, from the same seeds each time; return the model."""
    model = network()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(2)
    generator = torch.Generator().manual_seed(3) if has_generator else None

    def loader(n):
        return DataLoader(Noisy(n), batch_size=16, shuffle=True, generator=generator)

    dls = {"train": loader(50)} if not valid else {"train": loader(50), "valid": loader(30)}
    Learner(model, dls, cross_entropy, 0.05, OPTIMIZERS["momentum"], cbs).fit(3)
    return model


@pytest.mark.parametrize("has_generator", [True, False], ids=["own generator", "global generator"])
@pytest.mark.parametrize("cb", [None, LookOften, SwapLoader])
def test_validating_never_changes_what_is_trained(cb, has_generator):
    if cb is SwapLoader and not has_generator:
        cb = None
    looked_at = train_noisy(cb and cb(), valid=True, has_generator=has_generator)
    assert_same(looked_at, train_noisy(valid=False, has_generator=has_generator))


def test_validating_first_never_changes_what_is_trained():
    model = network()
    dls = {"train": list(shuffled()), "valid": list(shuffled())}
    torch.manual_seed(2)
    Learner(model, {"valid": dls["valid"], "train": dls["train"]}, cross_entropy).fit(2)
    by_hand = network()
    torch.manual_seed(2)
    train_by_hand(by_hand, dls["train"], torch.optim.SGD(by_hand.parameters(), lr=0.1), 2)
    assert_same(model, by_hand)
