"""TerminateOnNaNCallback: finds the first bad loss, in bulk."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import CheckpointCallback, TerminateOnNaNCallback
from learner import Callback, CancelEpochException, Learner
from tests.resuming import tiny_learner

GOOD = (torch.ones(4, 2), torch.ones(4, 1))


def bad(value: float = math.nan):
    return (torch.full((4, 2), value), torch.ones(4, 1))


def make(train, *cbs, valid=None, every=32):
    """Return a learner over ready batches, and the callback."""
    stop = TerminateOnNaNCallback(every=every)
    dls = {"train": train} if valid is None else {"train": train, "valid": valid}
    return Learner(nn.Linear(2, 1), dls, nn.functional.mse_loss, lr=1e-3, cbs=[stop, *cbs]), stop


class Count(Callback):
    """Count the training batches that went well, and the fits."""

    n = n_fits = 0

    def after_batch(self, learn):
        self.n += learn.training

    def after_fit(self, learn):
        self.n_fits += 1


def test_it_names_epoch_loader_and_batch_of_the_first_bad_loss():
    count = Count()
    learn, stop = make([GOOD, GOOD, bad(), GOOD, bad()], count)
    with pytest.warns(RuntimeWarning, match=r"loss was nan in epoch 0, loader 'train', batch 2; the fit ends here"):
        learn.fit(3)
    assert (stop.first_bad.epoch, stop.first_bad.dl_name, stop.first_bad.i) == (0, "train", 2)
    assert math.isnan(stop.first_bad.value)
    assert (learn.epoch, count.n, count.n_fits) == (0, 5, 0)  # found at the end of the pass; the fit was cancelled


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_losses_are_bad_too(value):
    learn, stop = make([GOOD])
    learn.loss_f = lambda preds, target: preds.mean() * 0 + value
    with pytest.warns(RuntimeWarning, match=f"loss was {value} in epoch 0"):
        learn.fit(2)
    assert stop.first_bad.value == value


def test_it_looks_every_so_many_batches():
    count = Count()
    learn, stop = make([GOOD, bad()] + [GOOD] * 20, count, every=4)
    with pytest.warns(RuntimeWarning, match="batch 1;"):
        learn.fit(1)
    assert count.n == 3  # the fourth was cancelled when the four losses were looked at
    assert stop.first_bad.i == 1


@pytest.mark.parametrize("every", ["4 batches", 4])
def test_it_counts_from_its_last_look(every):
    """A pass ends with a look, so in passes of three batches there is no other."""
    looks = []

    class Counts(TerminateOnNaNCallback):
        def _check(self, learn):
            if self._losses:
                looks.append(len(self._losses))
            super()._check(learn)

    Learner(nn.Linear(2, 1), {"train": [GOOD] * 3}, nn.functional.mse_loss, lr=1e-3, cbs=Counts(every)).fit(3)
    assert looks == [3, 3, 3]


def test_it_looks_after_so_many_seconds(monkeypatch):
    now, count = [0.0], Count()
    monkeypatch.setattr("learner.loop.frequency.monotonic", lambda: now[0])

    class Slow(Callback):
        def before_batch(self, learn):
            now[0] += 4

    learn, _ = make([bad()] + [GOOD] * 5, count, Slow(), every="10 s")
    now[0] += 100  # before the fit there is nothing to look at
    with pytest.warns(RuntimeWarning, match="batch 0;"):
        learn.fit(1)
    assert count.n == 2  # it looked in the third, twelve seconds in


@pytest.mark.parametrize("every", ["epoch", "2 epochs"])
def test_by_epochs_it_looks_at_the_end_of_each_pass(every):
    count = Count()
    learn, _ = make([bad()] + [GOOD] * 40, count, every=every)
    with pytest.warns(RuntimeWarning, match="batch 0;"):
        learn.fit(3)
    assert (count.n, learn.epoch) == (41, 0)


def test_validation_counts_and_names_its_loader():
    learn, stop = make([GOOD], valid=[GOOD, bad()])
    with pytest.warns(RuntimeWarning, match="loader 'valid', batch 1;"):
        learn.fit(2)
    assert stop.first_bad.dl_name == "valid"
    assert learn.history.to_dict()["epoch"] == [0]


def test_a_later_epoch_is_named():
    learn, stop = make([GOOD])
    learn.loss_f = lambda preds, target: preds.mean() * (math.nan if learn.epoch == 2 else 1.0)
    with pytest.warns(RuntimeWarning, match="epoch 2, loader 'train', batch 0;"):
        learn.fit(5)
    assert stop.first_bad.epoch == 2


def test_a_pass_that_was_cut_short_is_looked_at():
    class Cut(Callback):
        def after_batch(self, learn):
            raise CancelEpochException

    learn, _ = make([bad(), GOOD], Cut())
    with pytest.warns(RuntimeWarning, match="batch 0;"):
        learn.fit(2)
    assert learn.epoch == 0


def test_an_error_is_not_hidden():
    class Fail(Callback):
        def after_batch(self, learn):
            raise KeyError("mine")

    learn, _ = make([bad(), GOOD], Fail())
    with pytest.warns(RuntimeWarning, match="batch 0;"), pytest.raises(KeyError, match="mine"):
        learn.fit(2)


def test_good_losses_pass_and_a_new_fit_starts_clean():
    learn, stop = make([GOOD, bad()])
    with pytest.warns(RuntimeWarning, match="batch 1;"):
        learn.fit(1)
    learn = Learner(nn.Linear(2, 1), {"train": [GOOD] * 70}, nn.functional.mse_loss, lr=1e-3, cbs=stop)
    learn.fit(2)  # a warning would be an error
    assert stop.first_bad is None
    assert len(learn.history) == 2


def test_validate_outside_of_a_fit_is_left_alone():
    learn, stop = make([GOOD], valid=[bad()])
    assert math.isnan(learn.validate()["loss"])
    learn.fit(0)
    assert math.isnan(learn.validate()["loss"])
    assert stop.first_bad is None


def test_validate_inside_of_a_fit_counts():
    class Look(Callback):
        def after_batch(self, learn):
            if learn.training:
                learn.validate("valid2")

    stop = TerminateOnNaNCallback()
    learn = Learner(
        nn.Linear(2, 1), {"train": [GOOD] * 3, "valid2": [bad()]}, nn.functional.mse_loss, cbs=[stop, Look()]
    )
    with pytest.warns(RuntimeWarning, match="loader 'valid2', batch 0;"):
        learn.fit(1)


def test_it_waits_for_the_device_once_every_so_many_batches():
    """On the CPU a wait shows as a read of a 0-d tensor's value."""

    class CountReads(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def reads(*cbs):
        learn = Learner(nn.Linear(2, 1), {"train": [GOOD] * 64}, nn.functional.mse_loss, lr=1e-3, cbs=cbs)
        with CountReads() as count:
            learn.fit(1)
        return count.n

    assert reads(TerminateOnNaNCallback(every=32)) - reads() == 2


def test_it_holds_no_graph_and_nothing_after_the_fit():
    class Look(Callback):
        order = 60

        def after_loss(self, learn):
            assert not any(loss.requires_grad for loss in stop._losses)

    learn, stop = make([GOOD] * 3, Look())
    learn.fit(1)
    assert stop._losses == []


@pytest.mark.parametrize(
    ("every", "error", "match"),
    [(0, ValueError, "`every` must be a number.*got 0"), (2.0, TypeError, r"`every` must be a number.*got 2\.0")],
)
def test_every_is_an_interval(every, error, match):
    with pytest.raises(error, match=match):
        TerminateOnNaNCallback(every=every)


class Spoil(Callback):
    """Have the loss of a batch be infinite, and the weights be spared by it."""

    def after_loss(self, learn):
        if (learn.epoch, learn.dl_name, learn.i) == (1, "train", 1):
            learn.loss = learn.loss + math.inf


@pytest.mark.parametrize("every", [5, "epoch"])
def test_losses_that_wait_to_be_looked_at_are_part_of_a_checkpoint(tmp_path, every):
    """The bad one is before the checkpoint, the look at it after that."""

    def fit(folder, **resume):
        stop = TerminateOnNaNCallback(every)
        learn = tiny_learner([stop, Spoil(), CheckpointCallback(tmp_path / folder, every=1, keep=100)], torch.optim.SGD)
        with pytest.warns(RuntimeWarning, match=r"the loss was inf in epoch 1, loader 'train', batch 1; the fit ends"):
            learn.fit(3, **resume)
        assert stop.first_bad == (1, "train", 1, math.inf)
        return learn.n_steps

    n_steps = fit("whole")
    paths = sorted((tmp_path / "whole").glob("*.pt"))[7 : n_steps - 1]
    assert len(paths) >= 2
    for i, path in enumerate(paths):
        assert fit(str(i), resume=path) == n_steps


def test_what_has_ended_a_fit_is_known_when_it_is_resumed(tmp_path):
    for resume in (False, True):
        stop = TerminateOnNaNCallback()
        learn = tiny_learner([stop, Spoil(), CheckpointCallback(tmp_path)])
        if resume:
            learn.fit(3, resume=True)
        else:
            with pytest.warns(RuntimeWarning, match="the loss was inf"):
                learn.fit(3)
        assert stop.first_bad == (1, "train", 1, math.inf)


def test_losses_of_a_fit_that_is_not_gone_on_with_are_left_alone(tmp_path):
    cbs = [TerminateOnNaNCallback("epoch"), Spoil(), CheckpointCallback(tmp_path, every=1, keep=100)]
    with pytest.warns(RuntimeWarning, match="the loss was inf"):
        tiny_learner(cbs).fit(3)
    learn = tiny_learner([TerminateOnNaNCallback("epoch"), Spoil(), CheckpointCallback(tmp_path)])
    learn.load(sorted(tmp_path.glob("*.pt"))[8])
    learn.validate()
