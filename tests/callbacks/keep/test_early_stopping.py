"""EarlyStoppingCallback: when it stops, against a loop by hand; what it says; who has seen the last epoch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from callbacks import BestModelCallback, EarlyStoppingCallback, MetricsCallback, ProgressCallback, accuracy
from learner import Callback, Learner
from tests.resuming import (
    assert_equal_runs,
    resumed,
    resumed_from_each,
    resumed_from_each_validation,
    seed_all,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)

BATCH = (torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0]))
VALUES = st.one_of(st.integers(-4, 4).map(lambda n: n / 2), st.sampled_from([math.nan, math.inf, -math.inf]))


class Feed(Callback):
    """Give a loader the scores of a list, one an epoch."""

    def __init__(self, values, loader="valid"):
        self.values, self.loader = values, loader

    def after_epoch(self, learn):
        if learn.dl_name == self.loader:
            learn.metrics[self.loader]["score"] = self.values[learn.epoch]


def make(*cbs, names=("train", "valid")):
    return Learner(nn.Linear(2, 2), {name: [BATCH] for name in names}, nn.functional.cross_entropy, cbs=cbs)


def stop_by_hand(values, mode, patience, min_delta):
    """Return where to stop: the first epoch with `patience` epochs up to it that are no improvement; or None."""
    goal, waited = None, 0
    for epoch, value in enumerate(values):
        waited += 1
        if math.isnan(value):
            pass
        elif goal is None or (mode == "min" and value < goal) or (mode == "max" and value > goal):
            goal, waited = value - min_delta if mode == "min" else value + min_delta, 0
        if waited == patience:
            return epoch
    return None


@given(
    values=st.lists(VALUES, min_size=1, max_size=10),
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(1, 4),
    min_delta=st.sampled_from([0, 0.5, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_it_stops_where_a_loop_by_hand_does(values, mode, patience, min_delta):
    stop = EarlyStoppingCallback("score", mode=mode, patience=patience, min_delta=min_delta)
    learn = make(Feed(values), stop)
    learn.fit(len(values))
    expected = stop_by_hand(values, mode, patience, min_delta)
    assert stop.stopped_epoch == expected
    assert len(learn.history) == (len(values) if expected is None else expected + 1)


@pytest.mark.parametrize("values", [[math.nan] * 5, [math.inf] * 6, [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_patience_is_the_number_of_epochs_without_improvement(values):
    stop = EarlyStoppingCallback("score", mode="min", patience=3)
    learn = make(Feed(values), stop)
    learn.fit(len(values))
    first_is_a_number = not math.isnan(values[0])
    assert stop.stopped_epoch == 2 + first_is_a_number
    assert stop.best == ((0, values[0], "valid/score") if first_is_a_number else None)


def test_small_improvements_add_up():
    """What counts is the distance from the last improvement, not from the epoch before."""
    stop = EarlyStoppingCallback("score", mode="min", patience=2, min_delta=1.0)
    make(Feed([9.0, 8.5, 7.5, 7.0, 6.5, 0.0]), stop).fit(6)
    assert stop.stopped_epoch == 4
    assert stop.best == (2, 7.5, "valid/score")


def test_it_says_where_and_why_it_stopped(capsys):
    make(Feed([0.25, 0.5, 0.5]), EarlyStoppingCallback("score", mode="min", patience=2)).fit(9)
    line = "stopped in epoch 2: valid/score has not improved for 2 epochs, the best was 0.2500 in epoch 0\n"
    assert capsys.readouterr().out == line
    make(Feed([math.nan]), EarlyStoppingCallback("score", mode="min", patience=1)).fit(9)
    assert capsys.readouterr().out == "stopped in epoch 0: valid/score has not improved for 1 epoch, it is NaN\n"


def test_it_says_nothing_if_it_did_not_stop_nor_in_a_sandbox(capsys):
    stop = EarlyStoppingCallback("score", mode="min", patience=2)
    learn = make(Feed([3.0, 2.0, 4.0, 1.0]), stop)
    learn.fit(4)
    assert stop.stopped_epoch is None
    with learn.sandbox():
        learn.fit(4, cbs=EarlyStoppingCallback("score", mode="min", patience=1))
        assert learn.epoch == 2
    assert capsys.readouterr().out == ""


def test_the_line_stands_below_the_table(capsys):
    make(Feed([1.0, 2.0]), EarlyStoppingCallback("score", mode="min", patience=1), ProgressCallback()).fit(5)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["epoch", "0", "1", "stopped"]


def test_the_last_epoch_is_on_record_and_everybody_else_has_seen_it():
    """Also the best-model callback, and metrics and schedules, in whatever order they were given."""
    seen = []

    class Look(Callback):
        order = 59

        def after_epoch(self, learn):
            seen.append((learn.epoch, learn.dl_name, learn.best and learn.best.epoch))

    stop = EarlyStoppingCallback("accuracy", mode="min", patience=1)
    keep = BestModelCallback("score", mode="max", restore=True)
    learn = make(stop, keep, Look(), Feed([0.0, 1.0, 2.0, 3.0]), names=("train", "valid", "valid2"))
    learn.fit(4, lr=0.0, cbs=MetricsCallback(accuracy))  # without a step the accuracy stays
    assert stop.stopped_epoch == 1
    assert seen[-1] == (1, "valid", 1)
    assert learn.best == (1, 1.0, "valid/score")
    assert learn.history.to_dict()["valid/score"] == [0.0, 1.0]
    assert learn.history.to_dict()["valid2/accuracy"][1] is None


def test_best_weights_come_back_after_it_stopped():
    states = []

    class Save(Callback):
        def after_epoch(self, learn):
            if learn.dl_name == "valid":
                states.append({k: v.clone() for k, v in learn.model.state_dict().items()})

    stop = EarlyStoppingCallback("score", mode="min", patience=2)
    learn = make(stop, BestModelCallback("score", mode="min", restore=True), Feed([2.0, 1.0, 3.0, 4.0, 0.0]), Save())
    learn.fit(5)
    assert (stop.stopped_epoch, learn.best.epoch) == (3, 1)
    assert all(torch.equal(v, states[1][k]) for k, v in learn.model.state_dict().items())


def test_two_watch_two_things():
    stops = [
        EarlyStoppingCallback("score", mode="min", patience=4),
        EarlyStoppingCallback("score", "valid2", "min", patience=1),
    ]
    make(Feed(range(9)), Feed([3, 2, 2, 1], "valid2"), *stops, names=("train", "valid", "valid2")).fit(9)
    assert [stop.stopped_epoch for stop in stops] == [None, 2]


def test_a_second_fit_starts_clean_and_counts_on():
    feed, stop = Feed([1.0, 2.0, 3.0]), EarlyStoppingCallback("score", mode="min", patience=2)
    learn = make(feed, stop)
    learn.fit(3)
    assert stop.stopped_epoch == 2
    feed.values = [9.0, 9.0]
    learn.fit(2)
    assert stop.stopped_epoch is None
    assert stop.best == (3, 9.0, "valid/score")
    feed.values = [9.0, 9.0, 9.0]
    learn.fit(3)
    assert stop.stopped_epoch == 7
    for value in (9.0, math.nan, math.nan, math.nan):
        feed.values = [value]
        learn.fit(1)
        assert stop.stopped_epoch is None


def test_a_range_test_runs_to_its_end_and_changes_nothing():
    stop = EarlyStoppingCallback("loss", "train", mode="max", patience=2)
    learn = make(stop)
    learn.fit(2, lr=1e-3)  # the loss falls
    best = stop.best
    result = learn.lr_find(start=1e-6, end=1e-5, n=10, stop_at=100.0, plot=False)
    assert len(result.lrs) == 10
    assert (stop.best, stop.stopped_epoch) == (best, None)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"patience": 0}, ValueError, "`patience` must be at least 1 epoch, got 0"),
        ({"patience": True}, ValueError, "`patience` must be at least 1 epoch, got True"),
        ({"patience": 2.0}, TypeError, r"`patience` must be a whole number of epochs, got 2\.0"),
        ({"min_delta": -0.1}, ValueError, r"`min_delta` must be a finite number of at least 0, got -0\.1"),
        ({"min_delta": math.inf}, ValueError, "`min_delta` must be a finite number"),
        ({"min_delta": math.nan}, ValueError, "`min_delta` must be a finite number"),
        ({"min_delta": "1"}, TypeError, "`min_delta` must be a number, got '1'"),
        ({"mode": "auto"}, ValueError, "`mode` must be 'min' or 'max', got 'auto'"),
    ],
)
def test_bad_arguments(kwargs, error, match):
    with pytest.raises(error, match=match):
        EarlyStoppingCallback(**kwargs)


def test_a_metric_or_loader_that_does_not_exist_is_an_error_before_the_first_batch():
    for kwargs, match in (({"metric": "loess"}, r"\(loss\), got 'loess'"), ({"loader": "vlid"}, "got 'vlid'")):
        learn = make(EarlyStoppingCallback(**kwargs))
        with pytest.raises(ValueError, match=match):
            learn.fit(1)
        assert learn.n_samples == 0


# -- going on from a checkpoint ----------------------------------------------------------------------------------------


def stopping(cbs, values=(3.0, 2.0, 2.5, 2.5, 1.0)):
    """Stops in epoch 3 of 5."""
    return tiny_learner([Feed(values), EarlyStoppingCallback("score", mode="min", patience=2), *cbs])


def test_it_stops_where_it_would_have_from_every_batch(tmp_path, capsys):
    whole, gone_on = resumed_from_each(stopping, 5, tmp_path)
    assert len(gone_on) == 24
    for learn in gone_on + resumed_from_each_validation(stopping, 5, tmp_path, n_whole=4):
        assert_equal_runs(learn, whole)
        assert learn.cbs[1].stopped_epoch == whole.cbs[1].stopped_epoch == 3
        assert learn.cbs[1].best == whole.cbs[1].best == (1, 2.0, "valid/score")
        assert type(learn.cbs[1].best) is type(whole.cbs[1].best)


def test_how_long_it_has_waited_is_not_forgotten(tmp_path):
    learn = stopped_and_resumed(stopping, 3, 25, tmp_path)
    assert (learn.cbs[1].stopped_epoch, learn.cbs[1]._n_waited) == (None, 1)
    assert learn.cbs[1].best.epoch == 1


@pytest.mark.parametrize("n_epochs", [5, 50])
def test_a_fit_that_it_has_ended_stays_ended_and_says_so_again(tmp_path, capsys, n_epochs):
    whole = uninterrupted(stopping, 5, tmp_path, every="epoch")
    for _ in range(2):
        capsys.readouterr()
        learn = resumed(stopping, n_epochs, tmp_path, every="epoch")
        said = capsys.readouterr().out.splitlines()
        assert "a callback has ended in epoch 3; nothing is left" in said[0]
        assert said[1] == (
            "stopped in epoch 3: valid/score has not improved for 2 epochs, the best was 2.0000 in epoch 1"
        )
        assert_equal_runs(learn, whole)
        assert learn.cbs[1].stopped_epoch == 3


def test_between_two_fits_it_is_saved_and_loaded_and_the_next_one_starts_clean(tmp_path):
    saved, other = stopping([]), stopping([])
    saved.fit(5)
    saved.save(tmp_path / "learn.pt")
    other.load(tmp_path / "learn.pt")
    assert (other.cbs[1].stopped_epoch, other.cbs[1].best) == (3, saved.cbs[1].best)
    for learn in (saved, other):
        seed_all(0)
        learn.fit(1)
    assert_equal_runs(other, saved)
    assert other.cbs[1].stopped_epoch is None
    assert other.cbs[1].best == saved.cbs[1].best == (4, 3.0, "valid/score")
