"""A step is run again now and then: what differs is named, and nothing changes by it."""

import random

import pytest
import torch
from torch import nn

from callbacks import (
    AccumulateCallback,
    ClipGradientCallback,
    MetricsCallback,
    MixedPrecisionCallback,
    SAMCallback,
    SelfCheckCallback,
    accuracy,
)
from learner import Callback
from tests.resuming import assert_equal_runs, seed_all, tiny_learner


class Drift(nn.Module):
    """A layer that gives something else in each n-th forward pass of the training, as a broken chip does."""

    def __init__(self, n, in_backward=False):
        super().__init__()
        self.n, self.n_seen, self.in_backward = n, 0, in_backward
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        self.n_seen += self.training
        x = x * self.weight
        if not self.training or self.n_seen != self.n:
            return x
        if self.in_backward:
            x.register_hook(lambda grad: grad * 1.0001)
            return x
        y = x.clone()
        y.data[0, 0] = torch.nextafter(y.data[0, 0], torch.tensor(1e9))  # one bit
        return y


def with_layer(layer, cbs):
    learn = tiny_learner(cbs)
    learn.model.insert(2, layer)
    return learn


@pytest.mark.parametrize(
    "cbs",
    [
        list,
        lambda: [AccumulateCallback(2), ClipGradientCallback(0.1), MetricsCallback(accuracy)],
        lambda: [SAMCallback(0.1)],
        lambda: [MixedPrecisionCallback("bf16")],
    ],
    ids=["plain", "accumulated and clipped", "sam", "bf16"],
)
def test_a_training_is_the_same_with_it_and_nothing_is_found(cbs):
    """With dropout and batch norm, and in the middle of a window: to the last bit."""
    learners = [tiny_learner([*cbs(), *checks]) for checks in ([], [SelfCheckCallback(every=1, repeats=2)])]
    for learn in learners:
        seed_all(3)
        learn.fit(2)
    assert_equal_runs(*learners)
    check = learners[1].cbs[-1]
    assert (check.n_checked, check.faults) == (12, [])


def test_with_lbfgs_too():
    def learner(cbs):
        return tiny_learner(cbs, opt_func=lambda params, lr: torch.optim.LBFGS(params, lr, max_iter=3))

    learners = [learner([]), learner([SelfCheckCallback(every="2 steps")])]
    for learn in learners:
        seed_all(3)
        learn.fit(1)
    assert_equal_runs(*learners)
    assert learners[1].cbs[0].n_checked == 3


def test_one_bit_of_a_module_is_found_and_named():
    """The third forward pass is that of the first checked batch: its second run."""
    check = SelfCheckCallback(every=3)
    learn = with_layer(Drift(4), check)
    with pytest.warns(RuntimeWarning, match="batch 2 of epoch 0 must give the same bits .* the output of `2` differs"):
        learn.fit(1)
    assert [tuple(fault) for fault in check.faults] == [(2, 0, 2, "output of `2`")]
    assert check.n_checked == 2


def test_a_backward_pass_that_differs_is_named_by_the_last_parameter():
    check = SelfCheckCallback(every="3 steps")
    learn = with_layer(Drift(4, in_backward=True), check)
    with pytest.warns(RuntimeWarning, match=r"the gradient of `2.weight` differs"):
        learn.fit(1)
    assert len(check.faults) == 1


def test_the_training_goes_on_with_the_first_run():
    class Off(Drift):
        def forward(self, x):
            y = super().forward(x)
            return y + 1 if self.training and self.n_seen == self.n else y

    plain, checked = tiny_learner([]), tiny_learner(SelfCheckCallback(every=3))
    for learn, layer in ((plain, Drift(0)), (checked, Off(4))):
        learn.model.insert(2, layer)
        seed_all(3)
    with pytest.warns(RuntimeWarning, match="the output of `2` differs"):
        checked.fit(1)
    seed_all(3)
    plain.fit(1)
    assert all(map(torch.equal, plain.model.parameters(), checked.model.parameters()))


def test_generators_of_python_and_numpy_are_put_back_as_well():
    class Draws(nn.Module):
        def forward(self, x):
            return x * random.random()

    learn = tiny_learner(SelfCheckCallback(every=1))
    learn.model.insert(2, Draws())
    learn.fit(1)
    assert learn.cbs[0].faults == []


def test_a_layer_that_draws_from_a_generator_of_its_own_is_found():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator()

        def forward(self, x):
            return x * torch.rand((), generator=self.generator)

    learn = tiny_learner(SelfCheckCallback(every=6))
    learn.model.insert(2, Draws())
    with pytest.warns(RuntimeWarning, match="a layer that draws from a generator of its own"):
        learn.fit(1)


def test_a_validation_of_the_training_data_is_not_checked():
    check = SelfCheckCallback(every=1)
    learn = tiny_learner(check)
    learn.validate("train")
    assert check.n_checked == 0


def test_what_a_batch_logs_counts_once():
    class Log(Callback):
        def after_loss(self, learn):
            learn.log(one=1.0)

    rows = []
    for checks in ([], [SelfCheckCallback(every=1)]):
        learn = tiny_learner([Log(), *checks])
        seed_all(3)
        learn.fit(1)
        rows.append(learn.history.to_dict())
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"repeats": 0}, ValueError, "`repeats` must be at least 1, got 0"),
        ({"repeats": 1.5}, TypeError, "`repeats` must be a whole number"),
    ],
)
def test_arguments_that_cannot_be(arguments, error, words):
    with pytest.raises(error, match=words):
        SelfCheckCallback(**arguments)
