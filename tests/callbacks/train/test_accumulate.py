"""Accumulation equals one large batch; the reference is a hand-written loop over joined batches, in float64.

Sums in another order differ by rounding alone, so 1e-10 is far above it and far below any wrong weight.
"""

import copy
import math
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    LearnerError,
)
from tests.resuming import (
    assert_equal_runs,
    resumed,
    resumed_from_each,
    seed_all,
    stopped,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)

OPTIMIZERS = {
    "momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr),
}
SIZES = {
    "equal": [8, 8, 8, 8],
    "short last window": [8, 8, 8, 8, 8],
    "short last batch": [8, 8, 8, 3],
    "both": [8, 8, 3],
    "all unequal": [1, 9, 4, 6, 2, 8, 5],
    "fewer than a window": [5, 2],
}


class NoLength:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class WrongLength(NoLength):
    def __len__(self):
        return 2


class At(Callback):
    """Call a function at a signal, on some calls of it counted from 0."""

    def __init__(self, signal, calls, f, order=0):
        self.n, self.calls, self.f, self.order = 0, calls, f, order
        setattr(self, signal, self.hear)

    def hear(self, learn):
        self.n += 1
        if self.n - 1 in self.calls:
            self.f(learn)


def fail(error):
    def f(learn):
        raise error

    return f


def make_batches(sizes):
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, 4, generator=generator).double(), torch.randint(0, 3, (n,), generator=generator)) for n in sizes
    ]


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def windows_of(batches, n):
    return [batches[i : i + n] for i in range(0, len(batches), n)]


def train_by_hand(windows, opt_func=OPTIMIZERS["momentum"], loss_f=nn.functional.cross_entropy):
    """Make a step for each window, as one batch."""
    model = make_model()
    opt = opt_func(model.parameters(), 0.05)
    for window in windows:
        x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
        loss_f(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    return model


def make(batches, cbs, opt_func=OPTIMIZERS["momentum"], **more):
    return Learner(make_model(), {"train": batches, **more}, nn.functional.cross_entropy, 0.05, opt_func, cbs)


def assert_same_weights(model, reference):
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:loader 'train' must give as many batches as its length says")
@pytest.mark.parametrize("loader", [list, NoLength, WrongLength])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("opt_func", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("n", [1, 3])
def test_it_equals_a_large_batch(n, opt_func, sizes, loader):
    batches = make_batches(sizes)
    learn = make(loader(batches), AccumulateCallback(n), opt_func)
    learn.fit(2)
    windows = windows_of(batches, n) * 2
    assert_same_weights(learn.model, train_by_hand(windows, opt_func))
    assert learn.n_steps == len(windows)


@pytest.mark.filterwarnings("ignore:`loss_f` sums over the samples of a batch")
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, partial(partial, nn.functional.cross_entropy)])
def test_a_loss_that_is_a_sum_is_added_up(kind):
    batches, loss_f = make_batches(SIZES["all unequal"]), kind(reduction="sum")
    learn = make(batches, AccumulateCallback(3))
    learn.loss_f = loss_f
    learn.fit(2)
    assert_same_weights(learn.model, train_by_hand(windows_of(batches, 3) * 2, loss_f=loss_f))


def test_the_logged_loss_is_that_of_the_batches():
    batches = make_batches([8, 8, 3, 5, 8])
    seen = []
    learn = make(batches, [AccumulateCallback(2), At("after_batch", range(5), lambda learn: seen.append(learn.loss))])
    model = copy.deepcopy(learn.model)
    learn.fit(1, lr=0)
    losses = [nn.functional.cross_entropy(model(x), y).item() for x, y in batches]
    assert [loss.item() for loss in seen] == pytest.approx(losses, rel=1e-12)
    mean = sum(loss * len(y) for loss, (_, y) in zip(losses, batches, strict=True)) / 32
    assert learn.history[0]["train/loss"] == pytest.approx(mean, rel=1e-6)  # the engine may average in float32


def test_later_callbacks_see_the_gradient_of_the_window_once_a_step():
    batches = make_batches([8, 8, 2, 6, 4])
    grads = []

    def note(learn):
        grads.append(learn.model[0].weight.grad.clone())

    learn = make(batches, [AccumulateCallback(2), At("after_backward", range(9), note)])
    model = copy.deepcopy(learn.model)
    learn.fit(1, lr=0)
    assert len(grads) == 3
    for grad, window in zip(grads, windows_of(batches, 2), strict=True):
        x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
        (expected,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), [model[0].weight])
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)


def test_it_tells_how_many_batches_make_a_step():
    seen = []
    learn = make(make_batches([2]), [AccumulateCallback(4), At("before_fit", [0], lambda learn: seen.append(learn))])
    seen_in_fit = At("before_epoch", [0], lambda learn: seen.append(learn.batches_per_step))
    learn.fit(1, cbs=seen_in_fit)
    assert seen[1:] == [4]
    assert learn.batches_per_step == 1


@pytest.mark.parametrize("signal", ["before_batch", "after_loss", "after_batch"])
def test_a_cancelled_batch_takes_its_window_with_it(signal):
    batches = make_batches([8, 8, 4, 6, 8, 2])
    learn = make(batches, [AccumulateCallback(3), At(signal, [1], fail(CancelBatchException()))])
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([batches[2:5], batches[5:]]))


def test_a_cancelled_last_batch_leaves_no_step_to_make():
    batches = make_batches([8, 8, 4])
    learn = make(batches, [AccumulateCallback(2), At("after_batch", [2], fail(CancelBatchException()))])
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([batches[:2]]))
    assert learn.n_steps == 1


@pytest.mark.parametrize(
    ("signal", "call", "order"),
    [
        ("after_batch", 3, 0),
        ("after_epoch", 0, -60),  # outside of a batch, where the learner clears no gradients
    ],
)
def test_a_cancelled_pass_makes_no_step_for_its_open_window(signal, call, order):
    batches = make_batches([8, 8, 4, 6])
    learn = make(batches, [AccumulateCallback(3), At(signal, [call], fail(CancelEpochException()), order)])
    learn.fit(2)
    assert_same_weights(learn.model, train_by_hand([batches[:3], batches[:3], batches[3:]]))


@pytest.mark.parametrize("error", [CancelFitException(), KeyError("on purpose"), KeyboardInterrupt()])
def test_the_next_fit_starts_with_an_empty_window(error):
    batches = make_batches([8, 3, 4, 6])
    learn = make(batches, AccumulateCallback(4))
    with suppress(KeyError, KeyboardInterrupt):
        learn.fit(1, cbs=At("after_batch", [1], fail(error)))
    assert learn.n_steps == 0
    for p in learn.model.parameters():
        p.grad = torch.zeros_like(p)  # as a person may leave them who tried something out
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([batches]))


def test_a_skipped_step_takes_its_window_with_it():
    batches = make_batches([8, 3, 4, 6, 2])
    learn = make(batches, [AccumulateCallback(2), At("after_backward", [0], fail(CancelStepException()))])
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([batches[2:4], batches[4:]]))
    assert (learn.n_steps, learn.n_skipped) == (2, 1)  # batches that only accumulate are no skipped steps


@pytest.mark.parametrize("cancel", [CancelStepException, CancelBatchException])
def test_the_last_step_of_a_pass_may_be_skipped_too(cancel):
    batches = make_batches([8, 3, 4])
    learn = make(batches, [AccumulateCallback(2), At("after_backward", [1], fail(cancel()))])
    learn.fit(2)
    assert_same_weights(learn.model, train_by_hand([batches[:2], batches[:2], batches[2:]]))


def test_the_last_step_of_a_pass_may_end_the_fit():
    learn = make(make_batches([8, 3, 4]), AccumulateCallback(2))
    learn.fit(2, cbs=At("after_backward", [1], fail(CancelFitException())))
    assert (learn.n_steps, learn.epoch) == (1, 0)


def test_a_batch_without_a_backward_is_not_in_the_window():
    batches = make_batches([8, 3, 4, 5])
    learn = make(batches, [AccumulateCallback(2), At("after_loss", [1], fail(CancelStepException()))])
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([[batches[0], batches[2]], batches[3:]]))
    assert learn.n_skipped == 0


def test_clearing_the_gradients_empties_the_window():
    batches = make_batches([8, 3, 4])
    learn = make(batches, [AccumulateCallback(2), At("after_batch", [0], lambda learn: learn.zero_grad())])
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([batches[1:]]))


def test_a_validation_in_the_middle_leaves_the_window_alone():
    batches = make_batches([8, 3, 4, 6, 7])
    cbs = [AccumulateCallback(3), At("after_batch", [0, 3], lambda learn: learn.validate())]
    learn = make(batches, cbs, valid=make_batches([8, 8, 8, 8]))
    learn.fit(2)
    assert_same_weights(learn.model, train_by_hand(windows_of(batches, 3) * 2))


def test_windows_do_not_reach_from_one_loader_into_the_next():
    batches, more = make_batches([8, 3, 4]), make_batches([5, 5])
    learn = make(batches, AccumulateCallback(2), valid=make_batches([4]), train2=more)
    learn.fit(1)
    assert_same_weights(learn.model, train_by_hand([batches[:2], batches[2:], more]))


def test_the_loss_is_itself_again_after_a_failing_backward():
    class Failing(Callback):
        def around_backward(self, learn, action):
            raise KeyError("on purpose")

    learn = make(make_batches([8]), [AccumulateCallback(2), Failing()])
    with pytest.raises(KeyError, match="on purpose"):
        learn.fit(1)
    x, y = learn.batch
    assert learn.loss.item() == nn.functional.cross_entropy(learn.model(x), y).item()


@pytest.mark.parametrize(
    ("n", "error", "match"),
    [
        (0, ValueError, "at least 1 batch, got 0"),
        (-2, ValueError, "at least 1 batch, got -2"),
        (2.0, TypeError, r"whole number of batches, got 2\.0"),
        ("2", TypeError, "whole number of batches, got '2'"),
        (True, ValueError, "got True"),
    ],
)
def test_n_must_be_a_count(n, error, match):
    with pytest.raises(error, match=match):
        AccumulateCallback(n)


# -- going on from a checkpoint ----------------------------------------------------------------------------------------


def accumulating(cbs, n=4):
    """Windows of 4 batches, of which the second of each pass is open at its end, and the last batch is short."""
    return tiny_learner([AccumulateCallback(n), *cbs])


@pytest.mark.parametrize("n", [1, 4, 9])
def test_a_fit_goes_on_in_the_middle_of_a_window(tmp_path, n):
    whole, gone_on = resumed_from_each(partial(accumulating, n=n), 3, tmp_path)
    assert len(gone_on) == 18
    for learn in gone_on:
        assert_equal_runs(learn, whole)
    assert whole.n_steps == 3 * math.ceil(6 / n)


@pytest.mark.parametrize("by_interrupt", [False, True])
def test_a_fit_goes_on_wherever_it_was_stopped(tmp_path, by_interrupt):
    whole = uninterrupted(accumulating, 2, tmp_path / "whole")
    for stop_at in range(18):
        learn = stopped_and_resumed(accumulating, 2, stop_at, tmp_path / str(stop_at), by_interrupt=by_interrupt)
        assert_equal_runs(learn, whole)


def test_a_checkpoint_of_other_windows_is_refused(tmp_path):
    stopped(accumulating, 2, 2, tmp_path)
    with pytest.raises(LearnerError, match="`n` is 3 here, 4 saved of callback AccumulateCallback"):
        resumed(partial(accumulating, n=3), 2, tmp_path)


def test_between_two_fits_it_is_saved_and_loaded(tmp_path):
    saved, other = accumulating([]), accumulating([])
    saved.fit(1)
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    for learn in (saved, other):
        seed_all(0)
        learn.fit(1)
    assert_equal_runs(saved, other)


def test_two_of_them_are_refused():
    learn = make(make_batches([4, 4]), [AccumulateCallback(2), AccumulateCallback(4)])
    with pytest.raises(LearnerError, match="must hold one AccumulateCallback, got several"):
        learn.fit(1)
