"""How fast a pass is, by a clock that moves when the test says so."""

import copy
import pickle

import pytest
import torch
from torch import nn

from callbacks import ValidateCallback
from learner import Callback, CancelBatchException, CancelEpochException, Learner
from learner.loop import throughput
from learner.loop.throughput import Throughput
from tests.resuming import assert_equal_runs, resumed, stopped, tiny_learner, uninterrupted


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", clock)
    return clock


class Loader:
    """Batches of 5 samples that take a while each, and some more until it is known that there are no more."""

    def __init__(self, clock, n, seconds, last=0.0):
        self.clock, self.n, self.seconds, self.last = clock, n, seconds, last

    def __iter__(self):
        for _ in range(self.n):
            self.clock.now += self.seconds
            yield torch.ones(5, 3), torch.ones(5, 1)
        self.clock.now += self.last


class Works(Callback):
    """Three seconds of work for each batch."""

    def __init__(self, clock):
        self.clock = clock

    def after_predict(self, learn):
        self.clock.now += 3


def make(clock, cbs=(), n=4, seconds=1.0, **more):
    dls = {"train": Loader(clock, n, seconds, **more), "valid": Loader(clock, 2, 0.5)}
    return Learner(nn.Linear(3, 1), dls, nn.functional.mse_loss, cbs=[Works(clock), *cbs])


def test_samples_a_second_and_the_share_of_waiting(clock):
    learn = make(clock, last=2.0)
    assert (learn.throughput.samples_per_s, learn.throughput.waiting, str(learn.throughput)) == (None, None, "")
    learn.side_pass("train", learn.dls["train"], "valid")
    assert (learn.throughput.n_samples, learn.throughput.seconds) == (20, 4 * 1 + 4 * 3 + 2)
    assert learn.throughput.samples_per_s == 20 / 18
    assert learn.throughput.waiting == 6 / 18
    assert repr(learn.throughput) == "Throughput(1.11 samples/s (33% waiting))"
    clock.now += 1000  # after the pass
    assert learn.throughput.seconds == 18


def test_it_is_that_of_the_last_pass_and_of_each_in_the_history(clock):
    learn = make(clock)
    learn.fit(2)
    learn.get_preds()
    assert learn.throughput.samples_per_s == 10 / 7
    train = {"loader": "train", "samples_per_s": 20 / 16, "waiting": 1 / 4}
    valid = {"loader": "valid", "samples_per_s": 10 / 7, "waiting": 1 / 7}
    assert learn.history.throughput == [{"epoch": epoch, **each} for epoch in (0, 1) for each in (train, valid)]
    assert list(learn.history.to_dict()) == ["epoch", "train/loss", "valid/loss"]


def test_while_a_pass_runs_it_is_of_the_batches_that_are_done(clock):
    seen = []

    class Looks(Callback):
        def after_batch(self, learn):
            seen.append((learn.throughput.n_samples, learn.throughput.seconds, learn.throughput.waited))

    make(clock, [Looks()], n=3).side_pass("some", Loader(clock, 3, 1.0))
    seen.clear()
    learn = make(clock, [Looks()])
    learn.side_pass("some", Loader(clock, 3, 1.0))
    assert seen == [(0, 1, 1), (5, 5, 2), (10, 9, 3)]


@pytest.mark.parametrize("every", [1, 2])
def test_a_pass_within_a_pass_is_left_out(clock, every):
    seen = []

    class Looks(Callback):
        order = 100

        def after_batch(self, learn):
            if learn.training:
                seen.append(learn.throughput.seconds)

    learn = make(clock, [ValidateCallback(every=every), Looks()])
    learn.fit(1)
    assert learn.history.throughput[0] == {"epoch": 0, "loader": "train", "samples_per_s": 20 / 16, "waiting": 1 / 4}
    assert seen == [1, 5, 9, 13]


def test_batches_that_are_cancelled_take_time_and_do_not_count(clock):
    class Cancels(Callback):
        def after_loss(self, learn):
            if learn.training and learn.i == 1:
                raise CancelBatchException
            if learn.training and learn.i == 3:
                raise CancelEpochException

    learn = make(clock, [Cancels()], n=9)
    learn.fit(1)
    assert learn.history.throughput[0]["samples_per_s"] == 10 / 16


def test_an_error_leaves_it_to_be_looked_at(clock):
    class Fails(Callback):
        def after_loss(self, learn):
            if learn.i == 2:
                raise OSError("stop")

    learn = make(clock, [Fails()])
    with pytest.raises(OSError, match="stop"):
        learn.fit(1)
    assert learn.throughput.samples_per_s == 10 / 12
    assert learn.history.throughput == []


def test_two_looks_at_the_clock_a_batch_and_three_a_pass(clock, monkeypatch):
    n_looks = 0

    def look():
        nonlocal n_looks
        n_looks += 1
        return 0.0

    monkeypatch.setattr(throughput, "perf_counter", look)
    make(clock).side_pass("some", Loader(clock, 10, 1.0))
    assert n_looks == 2 * 10 + 3


SAID = (
    "loader 'train': 25% of the pass was waiting for the next batch, at 1.25 samples/s (25% waiting); try more "
    "`num_workers` of its DataLoader, on a GPU `pin_memory=True` with `DeviceCallback(prefetch=1)`, or do less for "
    "each sample.\n"
)


@pytest.mark.parametrize(
    ("n", "seconds", "said"),
    [(4, 1.0, SAID), (4, 0.75, ""), (2, 1.0, "")],
    ids=["much of a long pass", "a fifth", "a short pass"],
)
def test_much_waiting_in_a_long_pass_is_said_once(clock, capsys, n, seconds, said):
    learn = make(clock, n=n, seconds=seconds)
    learn.fit(3)
    learn.fit(1)
    assert capsys.readouterr().out == said


def test_waiting_where_nothing_trains_or_in_a_sandbox_is_not_said(clock, capsys):
    learn = make(clock)
    learn.side_pass("some", Loader(clock, 100, 100.0), "valid")
    with learn.sandbox():
        learn.fit(1)
    assert learn.history.throughput == []
    assert capsys.readouterr().out == ""


def test_runs_that_go_on_are_equal_though_they_take_another_time(clock, tmp_path):
    def make_tiny(cbs):
        return tiny_learner([*cbs, Works(clock)])

    whole = uninterrupted(make_tiny, 3, tmp_path / "whole")
    stopped(make_tiny, 3, 11, tmp_path / "stopped")  # an epoch has 9 batches
    clock.now += 99
    gone_on = resumed(make_tiny, 3, tmp_path / "stopped")
    assert_equal_runs(gone_on, whole)
    assert [one["epoch"] for one in whole.history.throughput] == [0, 0, 1, 1, 2, 2]
    assert [one["epoch"] for one in gone_on.history.throughput] == [1, 1, 2, 2]


def test_what_a_checkpoint_undoes_is_undone(clock, tmp_path):
    learn = make(clock)
    learn.fit(1)
    learn.save(tmp_path / "one.pt")
    learn.fit(1)
    learn.load(tmp_path / "one.pt")
    assert [one["epoch"] for one in learn.history.throughput] == [0, 0]


def test_a_learner_with_it_can_be_copied(clock):
    learn = Learner(nn.Linear(3, 1), {"train": [(torch.ones(5, 3), torch.ones(5, 1))]}, nn.functional.mse_loss)
    learn.fit(1)
    for each in (copy.deepcopy(learn), pickle.loads(pickle.dumps(learn))):
        assert each.throughput.n_samples == 5


def test_words():
    quick = Throughput()
    quick.n_samples, quick.waited = 12345, 0.1
    quick.leave_out(Throughput())
    assert str(quick) == ""  # no time yet
    assert [str(one) for one in measured((2.0, 0.1), (2.0, 0.6), (1000.0, 0.0))] == [
        "6,172 samples/s",
        "6,172 samples/s (30% waiting)",
        "12.3 samples/s",
    ]


def measured(*pairs):
    """Return throughputs of 12345 samples that took so many seconds, of which some were waiting."""
    for seconds, waited in pairs:
        one = Throughput()
        one.n_samples, one.waited, one._until = 12345, waited, seconds
        yield one
