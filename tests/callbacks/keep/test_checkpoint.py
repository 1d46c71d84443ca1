"""When checkpoints are written, what befalls their folder, and what a person hears of it."""

import errno
import os
import re
import signal
import threading
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks import AccumulateCallback, CheckpointCallback, OverfitCallback, SchedulerCallback, ValidateCallback
from callbacks.keep.monitor import Best
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Learner,
    LearnerError,
    Loaders,
)
from learner.checkpoint.file import read_checkpoint
from learner.checkpoint.folder import CheckpointFolder
from tests.resuming import (
    StopAt,
    StoppedError,
    assert_equal_runs,
    resumed_from_each,
    seed_all,
    stopped,
    tiny_learner,
    uninterrupted,
)

N_TRAIN, N_VALID = 6, 3  # batches of an epoch


@pytest.fixture
def written(monkeypatch):
    """List what is written, in order: the step, whole epochs, the loader, batches of it, and `best` and `over`."""
    found, save = [], CheckpointFolder.save

    def recording(self, state, step, is_best=False):
        fit = state["fit"]
        marks = ["best"] * is_best + ["over"] * fit["is_over"]
        found.append((step, fit["n_done"], fit["loader"], fit["i"], *marks))
        return save(self, state, step, is_best)

    monkeypatch.setattr(CheckpointFolder, "save", recording)
    return found


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith("step"))


def step_of(path):
    return int(re.search(r"\d{8}", str(path))[0])


class At(Callback):
    """Do something at a signal, at a batch counted over all passes of the fit."""

    order = 1000

    def __init__(self, signal, n, act):
        self.n_seen = 0
        self.n, self.act = n, act
        setattr(self, signal, self.hear)

    def hear(self, learn):
        if learn.is_side_pass:
            return
        self.n_seen += 1
        if self.n_seen == self.n + 1:
            self.act(learn)


def throw(error):
    def act(*_):
        raise error

    return act


# -- every -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("epoch", [6, 12, 18]),
        ("1 epoch", [6, 12, 18]),
        ("2 epochs", [12, 18]),
        ("7 epochs", [18]),
        (1, list(range(1, 19))),
        ("batch", list(range(1, 19))),
        (np.int64(4), [4, 8, 12, 16, 18]),
        ("5 batches", [5, 10, 15, 18]),
        (6, [6, 12, 18]),
        (100, [18]),
    ],
)
def test_it_writes_after_the_batches_or_epochs_asked_for_and_at_the_end(tmp_path, every, steps):
    tiny_learner(CheckpointCallback(tmp_path, every, keep=100)).fit(3)
    assert [step_of(path) for path in names(tmp_path)] == steps


def test_a_checkpoint_says_where_it_is(tmp_path, written):
    tiny_learner(CheckpointCallback(tmp_path, 4)).fit(2)
    assert written == [(4, 0, "train", 4), (8, 1, "train", 2), (12, 1, "train", 6), (12, 2, "train", 0)]


class Seconds(Callback):
    """A clock by which each batch takes a second."""

    def __init__(self, monkeypatch, now):
        self.now = now
        monkeypatch.setattr("learner.loop.frequency.monotonic", lambda: self.now)

    def after_batch(self, learn):
        self.now += 1


def test_by_time_it_writes_after_batches_that_do_not_train_as_well(tmp_path, written, monkeypatch):
    """A batch takes a second: 6 that train and 3 that do not, then 6 and 3 more."""
    tiny_learner([CheckpointCallback(tmp_path, "4 s"), Seconds(monkeypatch, 100.0)]).fit(2)
    assert written == [
        (4, 0, "train", 4),
        (6, 0, "valid", 2),
        (9, 1, "train", 3),
        (12, 1, "valid", 1),
        (12, 2, "train", 0),
    ]


def test_time_goes_on_where_it_was_and_jumps_of_the_wall_clock_do_not_matter(tmp_path, written, monkeypatch):
    """Two of four seconds had gone by; the process that goes on counts from there, by a clock of its own."""
    monkeypatch.setattr("time.time", throw(AssertionError("the wall clock")))
    with pytest.raises(KeyboardInterrupt):
        tiny_learner(
            [CheckpointCallback(tmp_path, "4 s"), Seconds(monkeypatch, 100.0), StopAt(1, by_interrupt=True)]
        ).fit(1)
    written.clear()
    tiny_learner([CheckpointCallback(tmp_path, "4 s"), Seconds(monkeypatch, 7.0)]).fit(1, resume=True)
    assert written == [(4, 0, "train", 4), (6, 0, "valid", 2), (6, 1, "train", 0)]


@pytest.mark.parametrize(
    ("every", "error"),
    [(value, ValueError) for value in (0, -1, "0 epochs", "0 s", "soon", "1.5 epochs", "")]
    + [(value, TypeError) for value in (None, 1.5, True, ["epoch"])],
)
def test_every_must_be_an_interval(tmp_path, every, error):
    with pytest.raises(error, match=r"^`every` must "):
        CheckpointCallback(tmp_path, every)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"path": None}, TypeError, "`path` must be the path of a folder, got None"),
        ({"path": 3}, TypeError, "`path` must be the path of a folder, got 3"),
        ({"keep": 0}, ValueError, "`keep` must be at least 1, got 0"),
        ({"keep": 1.5}, TypeError, "`keep` must be a whole number, 'all' or 'spread', got 1.5"),
        ({"metric": "loss", "mode": "best"}, ValueError, "`mode` must be 'min' or 'max', got 'best'"),
        ({"mode": "min"}, ValueError, "`mode` must have a `metric`, got 'min' alone"),
        ({"metric": 3}, TypeError, "`metric` must be a name"),
        ({"loader": None}, TypeError, "`loader` must be a name"),
    ],
)
def test_arguments_that_mean_nothing(tmp_path, given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        CheckpointCallback(**{"path": tmp_path, **given})
    assert names(tmp_path) == []


def test_batches_that_a_callback_cancels_are_batches(tmp_path, written):
    cancel = At("before_batch", 2, throw(CancelBatchException()))
    tiny_learner([CheckpointCallback(tmp_path, 3), cancel]).fit(1)
    assert written == [(3, 0, "train", 3), (6, 0, "train", 6), (6, 1, "train", 0)]


def test_nothing_is_written_in_the_ruins_of_a_batch(tmp_path, written):
    cancel = At("after_loss", 2, throw(CancelEpochException()))
    learn = tiny_learner([CheckpointCallback(tmp_path, 1), cancel])
    learn.fit(1)
    assert written == [(1, 0, "train", 1), (2, 0, "train", 2), (2, 1, "train", 0)]
    assert len(learn.history) == 1


def test_passes_beside_the_fit_are_none_of_its_business(tmp_path, written):
    """A validation in the middle of an epoch, and one before the fit."""
    learn = tiny_learner([CheckpointCallback(tmp_path, 3), ValidateCallback(every=2)])
    learn.validate()
    learn.fit(1)
    learn.get_preds()
    assert written == [(3, 0, "train", 3), (6, 0, "train", 6), (6, 1, "train", 0)]


def test_a_fit_that_goes_on_in_a_sandbox_has_the_batches_that_are_left_and_writes_nothing(tmp_path):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole")
    stopped(tiny_learner, 2, 4, tmp_path / "stopped")
    there = names(tmp_path / "stopped")
    learn = tiny_learner([CheckpointCallback(tmp_path / "stopped"), StopAt()])
    with learn.sandbox():
        learn.fit(2, resume=True)
        assert_equal_runs(learn, whole)
    assert names(tmp_path / "stopped") == there


@pytest.mark.parametrize(
    ("keep", "steps"), [("all", range(31)), ("spread", [0, 8, 12, 16, 20, 22, 24, 26, 27, 28, 29, 30])]
)
def test_all_checkpoints_and_those_that_are_spread_have_the_beginning_and_go_on_from_each(tmp_path, keep, steps):
    whole = tiny_learner([CheckpointCallback(tmp_path / "run", 1, keep)])
    seed_all(0)
    whole.fit(5)
    assert [step_of(path) for path in names(tmp_path / "run")] == list(steps)
    for step in (0, 12, 28):
        learn = tiny_learner([CheckpointCallback(tmp_path / "on")])
        learn.fit(5, resume=tmp_path / "run" / f"step-{step:08d}.pt")
        assert_equal_runs(learn, whole)


def test_the_beginning_is_kept_once(tmp_path):
    """A second fit, and one that goes on, have the checkpoints of the first before them."""
    learn = tiny_learner(CheckpointCallback(tmp_path, keep="spread"))
    learn.fit(1)
    first = (tmp_path / "step-00000000.pt").read_bytes()
    learn.fit(1)
    tiny_learner(CheckpointCallback(tmp_path, keep="spread")).fit(2, resume=True)
    assert (tmp_path / "step-00000000.pt").read_bytes() == first


def test_a_sandbox_writes_nothing(tmp_path):
    learn = tiny_learner(CheckpointCallback(tmp_path / "run", 1))
    with learn.sandbox():
        learn.fit(2)
    learn.summary()
    learn.lr_find(n=5, plot=False)
    assert not (tmp_path / "run").exists()
    assert learn.cbs[0]._n_batches == 0
    learn.fit(1)
    assert names(tmp_path / "run") == ["step-00000004.pt", "step-00000005.pt", "step-00000006.pt"]


def test_a_callback_of_one_fit_alone(tmp_path):
    whole = uninterrupted(tiny_learner, 2, tmp_path / "whole")
    learn = tiny_learner(None)
    seed_all(0)
    learn.fit(1, cbs=CheckpointCallback(tmp_path / "run"))
    assert learn.cbs == ()
    learn.fit(2, cbs=CheckpointCallback(tmp_path / "run"), resume=True)
    assert_equal_runs(learn, whole)


def test_a_fit_of_no_epochs_writes_nothing(tmp_path):
    learn = tiny_learner(CheckpointCallback(tmp_path, 1))
    learn.fit(0)
    assert names(tmp_path) == []
    learn.fit(0, resume=True)


# -- keep and best -----------------------------------------------------------------------------------------------------


class Plan(Callback):
    """Log values of a plan, one an epoch, so that which epoch is the best is known by hand."""

    def __init__(self, values):
        self.values = values

    def after_epoch(self, learn):
        if not learn.training and not learn.is_side_pass:
            learn.log(score=self.values[learn.epoch])


def test_the_last_few_are_kept(tmp_path):
    tiny_learner(CheckpointCallback(tmp_path, 1, keep=2)).fit(1)
    assert names(tmp_path) == ["step-00000005.pt", "step-00000006.pt"]


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.5, 0.75, 0.25, 0.75, 0.5], 1),
        ("min", [0.5, 0.75, 0.25, 0.75, 0.5], 2),
        ("min", [0.25, 0.5, 0.75, 1.0, 2.0], 0),
        ("max", [float("nan"), 0.25, float("nan"), 0.5, 0.0], 3),
        ("max", [0.0, 1.0, 2.0, 3.0, 4.0], 4),
    ],
)
def test_the_best_epoch_is_kept_besides(tmp_path, mode, values, best):
    keep = CheckpointCallback(tmp_path, keep=2, metric="score", mode=mode)
    tiny_learner([keep, Plan(values)]).fit(5)
    assert keep.best == Best(best, values[best], "valid/score")
    path = tmp_path / f"step-{6 * (best + 1):08d}.best.pt"
    others = [f"step-{6 * (i + 1):08d}.pt" for i in range(5) if i != best][-2:]
    assert names(tmp_path) == sorted([path.name, *others])
    state = read_checkpoint(path)
    assert state["fit"]["n_done"] == best + 1
    assert state["loop"]["history"]["rows"][-1]["valid/score"] == values[best]


def test_the_best_by_what_is_measured_in_training(tmp_path):
    keep = CheckpointCallback(tmp_path, metric="loss", loader="train")
    learn = tiny_learner(keep)
    learn.fit(3)
    column = learn.history.to_dict()["train/loss"]
    assert keep.best == Best(column.index(min(column)), min(column), "train/loss")


def test_the_best_value_survives(tmp_path):
    values = [0.5, 0.9, 0.6, 0.7, 0.8]
    folder = tmp_path / "run"
    make = lambda: tiny_learner([CheckpointCallback(folder, keep=1, metric="score", mode="max"), Plan(values)])
    make().fit(3)
    learn = make()
    learn.fit(5, resume=True)
    assert learn.cbs[0].best == Best(1, 0.9, "valid/score")
    assert names(folder) == ["step-00000012.best.pt", "step-00000030.pt"]


def test_a_best_epoch_that_a_callback_ends_the_fit_in_is_the_best(tmp_path, written):
    """Nothing comes after it, no first loader of a next epoch and no end of the fit."""
    keep = CheckpointCallback(tmp_path, metric="score", mode="min")
    stop = At("after_epoch", 1, throw(CancelFitException()))
    tiny_learner([keep, Plan([0.5]), stop]).fit(3)
    assert keep.best == Best(0, 0.5, "valid/score")
    assert written == [(6, 0, "train", 0, "best", "over")]


def test_of_a_step_that_is_written_twice_the_later_state_is_gone_on_with(tmp_path, written, capsys):
    """By the batch and then as the best epoch; by the name, the first of the two would be the newest."""
    make = lambda: tiny_learner(
        [CheckpointCallback(tmp_path, 3, keep=9, metric="score", mode="min"), Plan([0.5, 0.25])]
    )
    make().fit(2)
    assert written[-2:] == [(12, 1, "train", 6), (12, 2, "train", 0, "best")]
    assert names(tmp_path) == [*(f"step-0000000{n}.pt" for n in (3, 6, 9)), "step-00000012.best.pt"]
    make().fit(2, resume=True)
    assert "has 2 epochs done of 2; nothing is left to train" in capsys.readouterr().out


def test_a_later_state_of_the_step_of_the_best_does_not_take_its_place(tmp_path, written):
    """The best epoch is followed by an end that a callback makes before the next batch."""

    class Stop(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                raise CancelFitException

    keep = CheckpointCallback(tmp_path, metric="score", mode="min")
    tiny_learner([keep, Plan([0.5, 0.25]), Stop()]).fit(2)
    assert written == [(6, 1, "train", 0, "best"), (6, 1, "train", 0, "over")]
    assert names(tmp_path) == ["step-00000006.best.pt", "step-00000006.pt"]
    assert CheckpointFolder(tmp_path).newest()[1]["fit"]["is_over"] is True


def test_a_loader_or_metric_that_is_not_there_is_named_before_the_first_batch(tmp_path):
    for given, message in [
        ({"metric": "loss", "loader": "test"}, "`loader` must be one of 'train', 'valid', got 'test'"),
        ({"metric": "los"}, "`metric` must be one that is measured on loader 'valid'.*did you mean 'loss'"),
    ]:
        learn = tiny_learner(CheckpointCallback(tmp_path / "run", **given))
        with pytest.raises(ValueError, match=message):
            learn.fit(1)
        assert learn.n_steps == 0
    assert not (tmp_path / "run").exists()


def test_a_metric_that_nobody_measures_is_named_after_the_first_epoch(tmp_path):
    """As for all callbacks that follow a metric: that something of the user's might log it cannot be known before."""
    learn = tiny_learner([CheckpointCallback(tmp_path, metric="accuracy", mode="min"), Plan([0.5, 0.5])])
    with pytest.raises(LearnerError, match=r"measured on loader 'valid' \(loss, score\), got 'accuracy'"):
        learn.fit(2)
    assert learn.n_steps == N_TRAIN


def test_no_epoch_is_the_best_where_nothing_was_measured(tmp_path):
    cancel = At("before_epoch", 1, throw(CancelEpochException()))  # the first validation
    keep = CheckpointCallback(tmp_path, metric="score", mode="min")
    tiny_learner([keep, Plan([0.5, 0.75]), cancel]).fit(2)
    assert keep.best == Best(1, 0.75, "valid/score")


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_fresh_fit_sets_aside_what_there_is_and_says_so(tmp_path, capsys):
    tiny_learner(CheckpointCallback(tmp_path)).fit(2)
    capsys.readouterr()
    learn = tiny_learner(CheckpointCallback(tmp_path))
    learn.fit(1)
    assert capsys.readouterr().out == (
        f"{tmp_path} has 2 checkpoints of another training, from which `resume=True` would have gone on: set aside, "
        f"with `.old` at the end of the name.\n"
    )
    assert names(tmp_path) == ["step-00000006.pt", "step-00000006.pt.old", "step-00000012.pt.old"]


def test_a_second_fit_of_a_learner_counts_on_and_sets_nothing_aside(tmp_path, capsys):
    learn = tiny_learner(CheckpointCallback(tmp_path))
    learn.fit(1)
    learn.fit(2)
    assert names(tmp_path) == ["step-00000006.pt", "step-00000012.pt", "step-00000018.pt"]
    assert capsys.readouterr().out == ""


def test_files_are_set_aside_only_when_a_batch_is_to_come(tmp_path):
    tiny_learner(CheckpointCallback(tmp_path)).fit(1)

    class Failing(Callback):
        def before_fit(self, learn):
            raise StoppedError

    with pytest.raises(StoppedError):
        tiny_learner([CheckpointCallback(tmp_path), Failing()]).fit(1)
    tiny_learner(CheckpointCallback(tmp_path)).fit(0)
    assert names(tmp_path) == ["step-00000006.pt"]


def test_going_back_sets_aside_what_is_later(tmp_path, capsys):
    tiny_learner(CheckpointCallback(tmp_path)).fit(3)
    capsys.readouterr()
    learn = tiny_learner(CheckpointCallback(tmp_path))
    learn.fit(2, resume=tmp_path / "step-00000006.pt")
    assert (
        f"{tmp_path} has 2 checkpoints later than where this fit begins: set aside, with `.old` at the end of the name."
        in capsys.readouterr().out
    )
    assert names(tmp_path) == [
        *(f"step-000000{n}.pt" for n in ("06", "12")),
        "step-00000012.pt.old",
        "step-00000018.pt.old",
    ]


def test_a_stop_before_the_first_training_batch_is_gone_on_with(tmp_path, capsys):
    """Its step is 0, and its own file is none of another training."""

    def make():
        learn = tiny_learner(CheckpointCallback(tmp_path))
        learn.dls = {"valid": learn.dls.valid, "train": learn.dls.train}
        return learn

    learn = make()
    learn.add_cb(StopAt(1, by_interrupt=True))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert names(tmp_path) == ["step-00000000.pt"]
    capsys.readouterr()
    learn = make()
    learn.add_cb(StopAt(0, by_interrupt=True))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, resume=True)
    assert capsys.readouterr().out.startswith("resume: goes on with batch 2 of loader 'valid' in epoch 0 of 1 (")
    assert names(tmp_path) == ["step-00000000.pt"]


@pytest.mark.parametrize("where", ["file", "file/run"])
def test_a_path_that_is_no_folder_is_named_before_the_first_batch(tmp_path, where):
    (tmp_path / "file").touch()
    learn = tiny_learner(CheckpointCallback(tmp_path / where))
    with pytest.raises(LearnerError, match=f"`{tmp_path / where}` must be a folder to write to: .*file"):
        learn.fit(1)
    assert learn.n_steps == 0


def refuse_to(monkeypatch, number):
    """Let nothing be opened to be written to in the folder."""

    def fail(path, mode="r", *args, **kwargs):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("learner.checkpoint.lock.FileIO", fail)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_to_is_named_before_the_first_batch(tmp_path, monkeypatch, number):
    learn = tiny_learner(CheckpointCallback(tmp_path))
    refuse_to(monkeypatch, number)
    with pytest.raises(LearnerError, match=f"must be a folder to write to: .*{os.strerror(number)}"):
        learn.fit(1)
    assert learn.n_steps == 0
    monkeypatch.undo()
    learn.fit(1)  # and then it can
    assert names(tmp_path) == ["step-00000006.pt"]


def test_two_on_one_folder_are_refused(tmp_path):
    learn = tiny_learner([CheckpointCallback(tmp_path, 1), CheckpointCallback(tmp_path)])
    with pytest.raises(LearnerError, match="being written to by another part of this program; use one folder each"):
        learn.fit(1)
    assert learn.n_steps == 0
    learn.remove_cb(learn.cbs[1])
    learn.fit(1)
    assert len(names(tmp_path)) == 3


def test_somebody_else_who_writes_there_is_refused_until_he_is_done(tmp_path):
    with CheckpointFolder(tmp_path):
        learn = tiny_learner(CheckpointCallback(tmp_path))
        with pytest.raises(LearnerError, match="is being written to by"):
            learn.fit(1)
    learn.fit(1)


@pytest.mark.parametrize("kind", ["good", "error", "interrupt", "cancel"])
def test_the_folder_is_free_when_the_fit_has_ended_however_it_did(tmp_path, kind):
    acts = {"error": throw(StoppedError()), "cancel": throw(CancelFitException())}
    acts["interrupt"] = lambda learn: os.kill(os.getpid(), signal.SIGINT)
    cbs = [CheckpointCallback(tmp_path, 1)]
    cbs += [] if kind == "good" else [At("after_batch", 2, acts[kind])]
    with suppress(StoppedError, KeyboardInterrupt):
        tiny_learner(cbs).fit(1)
    with CheckpointFolder(tmp_path):
        pass


def test_the_end_of_a_fit_waits_for_the_last_file(tmp_path, monkeypatch):
    save, threads = CheckpointFolder.save, []

    def recording(self, *args, **kwargs):
        threads.append(threading.current_thread())
        return save(self, *args, **kwargs)

    monkeypatch.setattr(CheckpointFolder, "save", recording)
    tiny_learner(CheckpointCallback(tmp_path)).fit(2)
    assert len(threads) == 2
    assert [thread.name for thread in threads] == ["checkpoint"] * 2  # beside the training
    assert not any(thread.is_alive() for thread in threads)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Full:
    """A disk that takes so many files, then some no more, then again."""

    def __init__(self, monkeypatch, n_good, n_bad, number=errno.ENOSPC):
        self.fsync, self.number = os.fsync, number
        self.plan = iter([True, True] * n_good + [False] * n_bad)  # a file, and its folder
        monkeypatch.setattr("learner.checkpoint.atomic.os.fsync", self)

    def __call__(self, handle):
        if not next(self.plan, True):
            raise OSError(self.number, os.strerror(self.number))
        self.fsync(handle)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_takes_no_more_stops_nothing_but_the_checkpoint(tmp_path, monkeypatch, number):
    whole = tiny_learner(CheckpointCallback(tmp_path / "whole", 2))
    whole.fit(2)
    Full(monkeypatch, n_good=2, n_bad=2, number=number)
    learn = tiny_learner(CheckpointCallback(tmp_path / "run", 2, keep=99))
    with pytest.warns(RuntimeWarning, match="a checkpoint was not written") as caught:
        learn.fit(2)
    assert [str(w.message) for w in caught] == [
        f"a checkpoint was not written: `{tmp_path}/run/step-{n:08d}.pt` cannot be written: [Errno {number}] "
        f"{os.strerror(number)}"
        for n in (6, 8)
    ]
    assert names(tmp_path / "run") == [f"step-{n:08d}.pt" for n in (2, 4, 10, 12)]
    assert_equal_runs(learn, whole)


def test_the_last_checkpoint_that_cannot_be_written_is_told_too(tmp_path, monkeypatch):
    Full(monkeypatch, n_good=0, n_bad=1)
    with pytest.warns(RuntimeWarning, match=r"a checkpoint was not written: .*step-00000006.pt.*No space left"):
        tiny_learner(CheckpointCallback(tmp_path)).fit(1)
    assert names(tmp_path) == []


def test_a_disk_that_is_full_when_a_fit_begins_stops_nothing(tmp_path, monkeypatch):
    """There may be room again when the first checkpoint is due."""

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("learner.checkpoint.lock.FileIO", type("NoRoom", (FileIO,), {"write": full}))
    tiny_learner(CheckpointCallback(tmp_path)).fit(1)
    assert names(tmp_path) == ["step-00000006.pt"]
    monkeypatch.undo()
    tiny_learner(CheckpointCallback(tmp_path)).fit(1, resume=True)


def test_weights_that_hold_nan_are_not_written(tmp_path):
    def spoil(learn):
        with torch.no_grad():
            learn.model[0].weight[0, 0] = float("nan")

    learn = tiny_learner([CheckpointCallback(tmp_path, 2), At("after_step", 4, spoil)])
    with pytest.warns(RuntimeWarning, match="the weights hold NaN") as caught:
        learn.fit(1)
    said = "a checkpoint was not written: the weights hold NaN after batch 6; the last one is kept."
    assert str(caught[0].message) == said
    assert names(tmp_path) == ["step-00000002.pt", "step-00000004.pt"]


@pytest.mark.parametrize("signal", ["before_batch", "after_loss", "after_backward", "after_step", "after_batch"])
def test_an_error_in_a_batch_writes_nothing(tmp_path, signal):
    learn = tiny_learner([CheckpointCallback(tmp_path, 2), At(signal, 3, throw(StoppedError("on purpose")))])
    with pytest.raises(StoppedError, match="on purpose"):
        learn.fit(1)
    assert names(tmp_path) == ["step-00000002.pt"]


def test_memory_that_is_used_up_in_a_batch_writes_nothing_and_a_smaller_batch_goes_on(tmp_path):
    error = torch.OutOfMemoryError("CUDA out of memory")
    learn = tiny_learner([CheckpointCallback(tmp_path, 2), At("after_predict", 3, throw(error))])
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        learn.fit(1)
    assert names(tmp_path) == ["step-00000002.pt"]
    learn.dls = Loaders.from_arrays(train=(torch.ones(4, 4), torch.zeros(4, dtype=torch.long)), batch_size=2)
    learn.fit(1)
    assert learn.n_steps == 5


class Odd(Callback):
    state = ("things",)

    def __init__(self, things):
        self.things = things


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (np.float64(1), r"got numpy.float64; do float\(...\)"),
        (len, "got builtin_function_or_method"),
        (Path("a"), r"got pathlib.PosixPath; do str\(...\)"),
        (nn.Identity, "got type"),
        (Best(0, 1.0, "loss"), r"got callbacks.keep.monitor.Best; do list\(...\)|got callbacks.keep.monitor.Best"),
    ],
)
def test_what_is_no_plain_data_is_named_at_the_first_checkpoint(tmp_path, thing, message):
    learn = tiny_learner([CheckpointCallback(tmp_path, 2), Odd({"a": [0, thing]})])
    with pytest.raises(
        TypeError, match=rf"^`state\['callbacks'\]\['Odd'\]\['things'\]\['a'\]\[1\]` must be .*{message}"
    ):
        learn.fit(1)
    assert learn.n_steps == 2
    assert names(tmp_path) == []


def test_an_attribute_that_is_not_there_is_named_at_the_first_checkpoint(tmp_path):
    odd = Odd(0)
    del odd.things
    with pytest.raises(LearnerError, match="`state` of Odd must name attributes that it has, got 'things'"):
        tiny_learner([CheckpointCallback(tmp_path, 2), odd]).fit(1)


# -- interrupts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(N_TRAIN + N_VALID))
def test_an_interrupt_writes_a_last_checkpoint_when_the_batch_is_done(tmp_path, written, n):
    learn = stopped(tiny_learner, 1, n, tmp_path, every="epoch", by_interrupt=True)
    expected = (n + 1, 0, "train", n + 1) if n < N_TRAIN else (N_TRAIN, 0, "valid", n + 1 - N_TRAIN)
    assert written == [expected]
    assert len(names(tmp_path)) == 1
    assert learn.n_steps == min(n + 1, N_TRAIN)


def test_the_learner_can_be_looked_at_and_fitted_on_after_an_interrupt(tmp_path):
    whole = tiny_learner(CheckpointCallback(tmp_path / "whole"))
    whole.fit(2)
    learn = tiny_learner([CheckpointCallback(tmp_path / "run"), StopAt(7, by_interrupt=True)])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2)
    learn.validate()
    learn.fit(2, resume=True)
    assert_equal_runs(learn, whole)


# -- loaders -----------------------------------------------------------------------------------------------------------


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from (torch.full((4,), float(i)) for i in range(12))


def stream_learner(cbs):
    loader = torch.utils.data.DataLoader(Stream(), batch_size=2)
    torch.manual_seed(0)
    return Learner(nn.Linear(4, 1), {"train": loader}, lambda preds: preds.square().mean(), 1e-3, cbs=cbs)


def test_of_a_loader_that_may_not_give_the_same_again_it_says_so_once_before_the_first_batch(tmp_path):
    learn = stream_learner([CheckpointCallback(tmp_path), StopAt(0)])
    with (
        pytest.warns(
            RuntimeWarning, match="loader 'train' must give the same batches again .* the rest of a pass may differ"
        ) as caught,
        pytest.raises(StoppedError),
    ):
        learn.fit(2)
    assert len(caught) == 1


def test_where_exactness_was_asked_for_such_a_loader_is_refused(tmp_path):
    learn = stream_learner([CheckpointCallback(tmp_path / "run", exact=True)])
    with pytest.raises(ValueError, match=r"loader 'train' must give the same batches again.*or leave out `exact`"):
        learn.fit(1)
    assert learn.n_steps == 0
    assert not (tmp_path / "run").exists()


class Batches:
    """An iterable of nobody's kind."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.filterwarnings("ignore:loader 'train' must give the same")
def test_two_on_two_folders_each_go_on_exactly(tmp_path, is_ordered):
    """Also where batches are read again: they are dropped once."""

    def make(name):
        learn = tiny_learner(
            [CheckpointCallback(tmp_path / name / "a", 4), CheckpointCallback(tmp_path / name / "b", 1, 99)]
        )
        if not is_ordered:
            learn.dls = {"train": Batches(list(learn.dls.train))}
        return learn

    whole = make("whole")
    whole.fit(1)
    for n in (2, 5):
        learn = make(str(n))
        learn.fit(1, resume=tmp_path / "whole" / "b" / f"step-0000000{n}.pt")
        assert_equal_runs(learn, whole)
    with pytest.raises(LearnerError, match=r"`resume` must have one callback .* got 2 in `cbs`; say which by"):
        make("whole").fit(1, resume=True)


def test_the_order_with_two_of_them_is_that_of_the_seed(tmp_path):
    """The second one leaves alone what the first one has done."""
    runs = []
    for n in (1, 2):
        learn = tiny_learner([CheckpointCallback(tmp_path / f"{n} {i}") for i in range(n)])
        learn.fit(1)
        runs.append(learn)
    assert_equal_runs(*runs)


class Stateful:
    """A loader that goes on from a state of its own, as torchdata's does: where it is, also in the middle."""

    def __init__(self, batches):
        self.batches, self.i = batches, 0

    def __iter__(self):
        while self.i < len(self.batches):
            self.i += 1
            yield self.batches[self.i - 1]
        self.i = 0

    def __len__(self):
        return len(self.batches)

    def state_dict(self):
        return {"i": self.i}

    def load_state_dict(self, state):
        self.i = state["i"]


def test_a_loader_with_a_state_goes_on_from_it_but_a_new_fit_begins_its_pass_anew(tmp_path):
    def make(cbs):
        learn = tiny_learner(cbs)
        learn.dls = {"train": Stateful(list(learn.dls.train))}
        return learn

    whole = make([CheckpointCallback(tmp_path / "whole", 1, keep=99)])
    whole.fit(1)
    path = tmp_path / "whole" / "step-00000004.pt"
    learn = make([CheckpointCallback(tmp_path / "run")])
    learn.fit(1, resume=path)
    assert_equal_runs(learn, whole)
    learn = make([CheckpointCallback(tmp_path / "new")])
    learn.load(path)
    learn.fit(1)
    assert learn.n_steps == 4 + N_TRAIN


def test_every_may_be_another_one_when_a_fit_goes_on(tmp_path, written):
    """Four of a hundred batches were counted, which is more than two."""
    stopped(tiny_learner, 1, 3, tmp_path, every=100, by_interrupt=True)
    written.clear()
    tiny_learner(CheckpointCallback(tmp_path, 3)).fit(2, resume=True)
    assert [step for step, *_ in written] == [7, 10, 12]


def test_what_it_keeps_is_in_the_doc_and_what_it_counts_is_in_the_state(tmp_path):
    keep = CheckpointCallback(tmp_path, 4)
    tiny_learner([keep]).fit(1)
    state = keep.state_dict()
    assert (state["n_batches"], state["n_done"], state["best"], state["seeds"].keys()) == (
        6,
        1,
        None,
        {"train", "valid"},
    )


@pytest.mark.parametrize("n", [3, 5])
def test_open_windows_and_schedules_go_along(tmp_path, n):
    """Two callbacks with the most to lose, together; each has tests of its own."""
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    cbs = lambda: [AccumulateCallback(4), SchedulerCallback(one_cycle)]
    whole = tiny_learner([CheckpointCallback(tmp_path / "whole", 1, keep=99), *cbs()])
    whole.fit(2)
    learn = tiny_learner([CheckpointCallback(tmp_path / "run"), *cbs()])
    learn.fit(2, resume=tmp_path / "whole" / f"step-0000000{n}.pt")
    assert_equal_runs(learn, whole)


def test_state_that_is_no_plain_data_stops_no_interrupt(tmp_path):
    class Keeps(Callback):
        state = ("kept",)
        kept = object()

        def after_batch(self, learn):
            learn.interrupt = KeyboardInterrupt()

    learn = tiny_learner([CheckpointCallback(tmp_path), Keeps()])
    with (
        pytest.warns(
            RuntimeWarning, match=r"a checkpoint was not written: .*\['Keeps'\]\['kept'\]` must be plain data"
        ),
        pytest.raises(KeyboardInterrupt),
    ):
        learn.fit(1)
    assert not list(tmp_path.glob("*.pt"))


def test_a_validation_before_the_first_of_its_own_passes_sees_the_same_limited_batches_when_it_goes_on(tmp_path):
    made = []

    def make(cbs):
        made.append(ValidateCallback(every=2))
        learn = tiny_learner([*cbs, OverfitCallback(train=3, valid=1), made[-1]])
        valid = DataLoader(learn.dls["valid"].dataset, 4, shuffle=True, collate_fn=learn.dls["valid"].collate_fn)
        learn.dls = Loaders({"train": learn.dls["train"], "valid": valid})
        return learn

    resumed_from_each(make, 2, tmp_path)
    whole, *gone_on = [validate.rows for validate in made]
    assert len(gone_on) == 6
    assert all(rows == whole for rows in gone_on)


def test_the_file_of_the_best_epoch_has_a_name(tmp_path):
    keep = CheckpointCallback(tmp_path, metric="loss", loader="train")
    assert keep.best_path is None
    learn = tiny_learner(keep)
    learn.fit(2)
    assert keep.best_path == tmp_path / f"step-{6 * (keep.best.epoch + 1):08d}.best.pt"
    with pytest.raises(LearnerError, match=r"For the weights alone: .*read_checkpoint\(path\)\['model'\]\['state'\]"):
        tiny_learner(None).load(keep.best_path)
    model = tiny_learner(None).model
    model.load_state_dict(read_checkpoint(keep.best_path)["model"]["state"])


def test_an_interrupt_says_where_the_checkpoint_is(tmp_path, capsys):
    stopped(tiny_learner, 1, 2, tmp_path, by_interrupt=True)
    said = f"a checkpoint is in {tmp_path}; `fit(n, resume=True)` goes on from it."
    assert said in capsys.readouterr().err
    stopped(tiny_learner, {"steps": 9}, 2, tmp_path / "steps", by_interrupt=True)
    assert "`fit(steps=n, resume=True)` goes on from it." in capsys.readouterr().err


def test_a_tilde_is_the_home_of_a_person(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_learner(CheckpointCallback("~/checkpoints")).fit(1)
    assert names(tmp_path / "checkpoints") == ["step-00000006.pt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": ""}, "`path` must be the path of a folder, got ''"),
        ({"mode": "max"}, "`mode` must have a `metric`, got 'max' alone"),
        ({"every": "5 m"}, "'epoch', .* got '5 m'; leave it out for 'epoch'"),
    ],
)
def test_what_was_not_meant_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        CheckpointCallback(**{"path": "checkpoints", **given})
