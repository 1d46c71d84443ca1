"""Saved and loaded, a learner goes on as if nothing had been; what does not fit changes nothing."""

import copy
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from learner import Callback, Learner, LearnerError, Loaders
from learner.checkpoint.file import read_checkpoint
from learner.checkpoint.snapshot import snapshot
from tests.resuming import differing, seed_all, stopped, tiny_learner


class Net(nn.Module):
    """Batch norm, dropout, a buffer that is not saved, tied weights, and a layer that is frozen."""

    def __init__(self, width=8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3))
        self.frozen, self.head = nn.Linear(width, width), nn.Linear(width, 3)
        self.frozen.requires_grad_(False)
        self.again = self.head
        self.register_buffer("n_calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.n_calls += 1
        noise = random.random() + np.random.rand() if self.training else 0.0
        return self.again(self.frozen(self.net(x + 0.01 * noise)))


class Ema(Callback):
    """Keep something that training depends on."""

    state = ("mean", "n")

    def __init__(self):
        self.mean, self.n = torch.zeros(()), 0

    def after_batch(self, learn):
        self.mean = 0.9 * self.mean + 0.1 * learn.loss.detach()
        self.n += 1


class Doubled(Callback):
    """Keep something in a form of its own."""

    def __init__(self):
        self.n = 0

    def after_step(self, learn):
        self.n += 1

    def state_dict(self):
        return {"doubled": 2 * self.n}

    def load_state_dict(self, state):
        self.n = state["doubled"] // 2


OPTIMIZERS = {
    "SGD": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "AdamW": lambda params, lr: torch.optim.AdamW(params, lr=lr, amsgrad=True),
    "two groups": lambda params, lr: torch.optim.Adam(
        [{"params": params[:2], "lr": lr / 10}, {"params": params[2:]}], lr=lr
    ),
}


def learner(opt="AdamW", model=None, cbs=None, seed=0):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=generator)
    y = torch.randint(0, 3, (60,), generator=generator)
    dls = Loaders.from_arrays(train=(x[:40], y[:40]), valid=(x[40:], y[40:]), batch_size=16)
    loss_f = nn.functional.cross_entropy
    return Learner(
        Net() if model is None else model,
        dls,
        loss_f,
        0.01,
        OPTIMIZERS[opt],
        [Ema(), Doubled(), Ema()] if cbs is None else cbs,
    )


# -- it goes on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opt", OPTIMIZERS)
def test_a_fit_after_load_is_the_fit_that_would_have_come_bit_for_bit(tmp_path, opt):
    seed_all(3)
    whole = learner(opt)
    whole.fit(2)
    whole.save(tmp_path / "learn.pt")
    whole.fit(2)
    seed_all(4)  # elsewhere, later
    again = learner(opt, seed=5)
    again.load(tmp_path / "learn.pt")
    again.fit(2)
    assert differing(snapshot(again), snapshot(whole)) == []
    assert len(again.history) == 4
    assert [cb.n for cb in again.cbs] == [cb.n for cb in whole.cbs] == [20, 12, 20]


def test_a_loader_with_a_generator_of_its_own_goes_on_shuffling_where_it_was(tmp_path):
    def make(seed):
        learn = learner()
        data = torch.utils.data.TensorDataset(torch.arange(20.0).reshape(5, 4), torch.zeros(5, dtype=torch.int64))
        generator = torch.Generator().manual_seed(seed)
        learn.dls = {"train": torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=generator)}
        return learn

    def order_of(learn):
        return [x[:, 0].tolist() for x, _ in learn.dls["train"]]

    saved, other = make(1), make(2)
    order_of(saved)  # the generator has moved
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    assert [order_of(other) for _ in range(3)] == [order_of(saved) for _ in range(3)]


def test_a_learner_that_was_used_takes_over_what_was_saved(tmp_path):
    saved, other = learner(), learner(seed=1)
    saved.fit(1)
    saved.save(tmp_path / "learn.pt")
    other.fit(3)
    other.load(tmp_path / "learn.pt")
    assert differing(snapshot(other), snapshot(saved)) == []


def test_before_the_first_fit_there_is_no_optimizer(tmp_path):
    fresh, other = learner(), learner(seed=1)
    fresh.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    assert other.opt is None
    assert differing(snapshot(other), snapshot(fresh)) == []


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_do_not_matter(tmp_path, wrap):
    saved = learner(model=wrap(Net()), seed=2)
    saved.save(tmp_path / "learn.pt")
    plain = learner(seed=1)
    plain.load(tmp_path / "learn.pt")
    assert differing(snapshot(plain), snapshot(saved)) == []


def test_modes_and_frozen_layers_come_along(tmp_path):
    saved, other = learner(), learner(seed=1)
    saved.model.net[1].eval()
    saved.model.head.requires_grad_(False)
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    assert not other.model.net[1].training
    assert other.model.training
    assert [p.requires_grad for p in other.model.parameters()] == [p.requires_grad for p in saved.model.parameters()]


def test_saving_changes_nothing(tmp_path):
    plain, saving = learner(), learner()
    for learn in (plain, saving):
        seed_all(0)
        learn.fit(1)
        if learn is saving:
            learn.save(tmp_path / "learn.pt")
        learn.fit(1)
    assert differing(snapshot(plain), snapshot(saving)) == []


# -- what does not fit -------------------------------------------------------------------------------------------------


def saved_file(path, **kwargs):
    learn = learner(**kwargs)
    learn.fit(1)
    learn.save(path / "learn.pt")
    return path / "learn.pt"


class Renamed(Ema):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: learner(model=Net(9)),
            r"model: 'net\.0\.weight' is torch.float32 \(9, 4\) here, torch.float32 \(8, 4\)",
        ),
        (lambda: learner(model=nn.Linear(4, 3)), "model: 'net.0.weight' is missing here.*and .* more"),
        (lambda: learner(model=Net().double()), r"model: 'net\.0\.weight' is torch.float64 .* here, torch.float32"),
        (lambda: learner("SGD"), "the optimizer is SGD here, AdamW saved"),
        (lambda: learner(cbs=[Ema(), Doubled()]), "callback Ema_2 is missing here"),
        (
            lambda: learner(cbs=[Ema(), Doubled(), Renamed()]),
            "callback Ema_2 is missing here; callback Renamed is not in",
        ),
        (lambda: learner(cbs=[Ema(), Doubled(), Ema(), Ema()]), "callback Ema_3 is not in the file"),
    ],
)
def test_another_learner_is_told_what_differs_and_is_left_as_it_was(tmp_path, make, message):
    path = saved_file(tmp_path)
    other = make()
    before = copy.deepcopy(snapshot(other))
    with pytest.raises(LearnerError, match=f"must be made as the saved one was, but .*{message}.*Nothing was changed"):
        other.load(path)
    assert differing(snapshot(other), before) == []


class Unused(Callback):
    """Keeps nothing between two fits."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        raise AssertionError("nothing was kept")


@pytest.mark.parametrize(("there", "here"), [([Unused()], []), ([], [Unused()])])
def test_a_callback_that_keeps_nothing_now_is_not_missed(tmp_path, there, here):
    path = saved_file(tmp_path, cbs=there)
    other = learner(cbs=here)
    other.load(path)
    assert other.n_steps > 0


def test_other_parameter_groups_are_told_by_name(tmp_path):
    path = saved_file(tmp_path, opt="two groups")
    other = learner()
    other.opt_func = lambda params, lr: torch.optim.Adam([{"params": params[:3]}, {"params": params[3:]}], lr=lr)
    with pytest.raises(LearnerError, match=r"parameter groups differ: \['net\.1\.weight'\] here, .* saved"):
        other.load(path)


def test_weights_that_stand_in_for_the_trained_ones_are_not_saved(tmp_path):
    """A callback that has others in the model for a while gives the trained ones back while a checkpoint is taken."""

    class Zeros(Callback):
        trained = None

        def before_epoch(self, learn):
            if not learn.training:
                self.trained = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
                self.write(learn, {name: torch.zeros_like(p) for name, p in self.trained.items()})

        def cleanup_epoch(self, learn):
            if not learn.training:
                self.write(learn, self.trained)

        def write(self, learn, values):
            with torch.no_grad():
                for name, p in learn.model.named_parameters():
                    p.copy_(values[name])

        @contextmanager
        def trained_weights(self, learn):
            self.write(learn, self.trained)
            yield
            self.write(learn, {name: torch.zeros_like(p) for name, p in self.trained.items()})

    learn = stopped(lambda cbs: tiny_learner([*cbs, Zeros()]), 1, 7, tmp_path, "epoch", by_interrupt=True)
    state = read_checkpoint(next(tmp_path.glob("*.pt")))
    assert (state["fit"]["loader"], state["fit"]["i"]) == ("valid", 2)
    assert differing(state["model"]["state"], dict(learn.model.state_dict())) == []
