"""A learner in words."""

from functools import partial

import torch
from torch import nn

from callbacks import (
    DeviceCallback,
    LambdaCallback,
    MetricsCallback,
    SchedulerCallback,
    accuracy,
    warmup_cosine,
)
from learner import Callback, Learner, Loaders

X, Y = torch.randn(12, 4), torch.tensor([0, 1] * 6)


def test_it_says_what_it_trains_on_what_and_how_far_it_is():
    dls = Loaders.from_arrays(train=(X, Y), valid=(X, Y), batch_size=5)
    learn = Learner(
        nn.Linear(4, 2), dls, nn.functional.cross_entropy, cbs=[DeviceCallback(), MetricsCallback(accuracy)]
    )
    assert repr(learn).splitlines() == [
        "Learner: Linear, 10 parameters",
        "  data: train (3 batches), valid (3 batches)",
        "  loss: cross_entropy",
        "  optimizer: SGD, lr 0.1",
        "  callbacks: DeviceCallback, MetricsCallback",
        "  not trained yet",
    ]
    learn.fit(2, lr=0.025)
    assert repr(learn).splitlines()[3::2] == ["  optimizer: SGD, lr 0.1", "  trained: 2 epochs, 6 steps"]


def test_the_rate_is_that_of_the_next_fit_and_within_one_that_of_now():
    seen = []
    look = LambdaCallback(before_batch=lambda learn: seen.append(repr(learn).splitlines()[3]))
    learn = Learner(
        nn.Linear(4, 2),
        {"train": [(X, Y)] * 4},
        nn.functional.cross_entropy,
        0.1,
        cbs=[look, SchedulerCallback(warmup_cosine(warmup=0))],
    )
    learn.fit(1)
    assert seen[0] == "  optimizer: SGD, lr 0.1"
    assert seen[-1] != seen[0]
    assert learn.opt.param_groups[0]["lr"] == 0
    assert repr(learn).splitlines()[3] == "  optimizer: SGD, lr 0.1"
    learn.lr = 0.5
    assert repr(learn).splitlines()[3] == "  optimizer: SGD, lr 0.5"
    learn.opt.param_groups[0]["lr"] = 0.25  # by hand: kept, but for a rate that the learner was given since
    learn.lr = 0.1
    assert repr(learn).splitlines()[3] == "  optimizer: SGD, lr 0.25"
    assert learn.opt.param_groups[0]["lr"] == 0.25
    seen.clear()
    learn.fit(1)
    assert seen[0] == "  optimizer: SGD, lr 0.25"


def test_odd_ones_have_words_too():
    class Own(Learner):
        pass

    class Stream:
        def __iter__(self):
            return iter([(X, Y)])

    lazy = Own(
        nn.LazyLinear(2), {"train": Stream()}, nn.CrossEntropyLoss(), opt_func=partial(torch.optim.Adam, eps=1e-3)
    )
    assert repr(lazy).splitlines()[:5] == [
        "Own: LazyLinear, parameters not made yet",
        "  data: train (no length)",
        "  loss: CrossEntropyLoss",
        "  optimizer: Adam, lr 0.1",
        "  callbacks: none",
    ]
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1)).requires_grad_(False)
    model[1].requires_grad_(True)
    lines = repr(Learner(model, {"train": [(X, Y)]}, lr=0.5)).splitlines()
    assert lines[0] == "Learner: Sequential, 13 parameters, 10 of them frozen"
    assert lines[1:3] == ["  data: train (1 batch)", "  loss: made by the model"]


def test_it_says_who_makes_the_loss_where_there_is_no_function_for_it():
    class Penalty(Callback):
        def get_loss(self, learn): ...

    class WithLoss(Learner):
        def get_loss(self): ...

    class WithSteps(Learner):
        def step(self): ...

    made = [Learner(nn.Linear(4, 2), {"train": [(X, Y)]}, cbs=Penalty())]
    made += [kind(nn.Linear(4, 2), {"train": [(X, Y)]}) for kind in (WithLoss, WithSteps)]
    lines = [repr(learn).splitlines()[2] for learn in made]
    assert lines == ["  loss: made by Penalty", "  loss: made by WithLoss", "  loss: made by the model"]
