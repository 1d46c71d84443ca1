"""RunCallback: what is on record equals the history, at any moment and after any end."""

import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks import (
    AccumulateCallback,
    ActivationStats,
    CheckpointCallback,
    MetricsCallback,
    RunCallback,
    SchedulerCallback,
    SeedCallback,
    accuracy,
)
from learner import Callback, CancelEpochException, CancelFitException, LearnerError
from learner.records.run import Run, log
from learner.records.table import Table
from tests.learner.records.recorded import full_disk
from tests.resuming import resumed, stopped, tiny_learner, uninterrupted

ROOT = Path(__file__).parents[3]


class FillDisk(Callback):
    """Let no file grow any more from the beginning of the fit on, until it ends."""

    order = -101  # among the last to clean up

    def before_fit(self, learn):
        self.disk = full_disk()

    def before_epoch(self, learn):
        if learn.epoch == 0 and learn.dl_name == "train":
            self.disk.__enter__()

    def cleanup_fit(self, learn):
        self.disk.__exit__(None, None, None)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run")


class EndAt(Callback):
    """Raise something in the second epoch, in a loader's first batch."""

    def __init__(self, error, dl_name="valid"):
        self.error, self.dl_name = error, dl_name

    def after_loss(self, learn):
        if learn.epoch == 1 and learn.dl_name == self.dl_name:
            raise self.error


class AtEpoch(Callback):
    """Keep what a function of the learner gives before each pass."""

    order = 200

    def __init__(self, look):
        self.look, self.seen = look, []

    def before_epoch(self, learn):
        self.seen.append(self.look(learn))


def rows_of(run):
    return Run.open(run.path).logged()


def test_the_rows_of_the_history_are_on_record_to_the_last_digit(make_learner, run):
    learn = make_learner([RunCallback(run), MetricsCallback(accuracy=accuracy)])
    learn.fit(3)
    assert rows_of(run) == list(learn.history)
    columns = learn.history.to_dict()
    series = run.scalars()
    assert list(series) == list(columns)[1:]
    for name in series:
        assert series[name] == ("epoch", [0, 1, 2], columns[name])


def test_a_row_is_there_as_soon_as_the_epoch_is_done(make_learner, run):
    look = AtEpoch(lambda learn: len(rows_of(run)))
    make_learner([RunCallback(run), look]).fit(3)
    assert look.seen == [0, 0, 1, 1, 2, 2]  # two passes an epoch
    assert len(rows_of(run)) == 3


def test_what_is_trained_is_put_down(make_learner, run):
    learn = make_learner(
        [RunCallback(run), AccumulateCallback(2)], opt_func=lambda params, lr: torch.optim.AdamW(params, lr=lr / 2)
    )
    learn.model[0].bias.requires_grad_(False)
    learn.fit(2, lr=0.25)
    assert Run.open(run.path).info["learner"] == {
        "model": "Sequential",
        "n_parameters": 4 * 8 + 8 + 8 * 3 + 3,
        "device": "cpu",
        "n_trainable": 4 * 8 + 8 * 3 + 3,
        "loss": "cross_entropy",
        "optimizer": "AdamW",
        "lr": [0.25],
        "n_epochs": 2,
        "steps": None,
        "n_batches": {"train": 3, "valid": 2},
        "callbacks": ["RunCallback", "AccumulateCallback"],
    }


def test_rates_and_time_of_a_fit_are_put_down(make_learner, run):
    schedule = SchedulerCallback(partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5), each="epoch")
    make_learner([RunCallback(run), schedule]).fit(3, lr=0.5)
    assert run.info["learning_rates"] == [[0.5], [0.25], [0.125]]
    assert 0 < run.info["seconds"] < 60
    groups = lambda params, lr: torch.optim.SGD([{"params": [param]} for param in params], lr=lr)
    make_learner([RunCallback(run)], opt_func=groups).fit(1, lr=0.25)
    assert run.info["learning_rates"] == [[0.25] * 4]


def test_why_a_pass_was_cut_short_is_put_down(make_learner, run):
    class Stop:
        def after_batch(self, learn):
            if learn.i == 1:
                raise CancelFitException("good enough")

    learn = make_learner([RunCallback(run), Stop()])
    learn.fit(2)
    assert (run.info["status"], run.info["cut_short"]) == ("finished", "epoch 0, train: good enough")
    assert rows_of(run) == [{"epoch": 0, "train/loss": learn.history[0]["train/loss"]}]
    assert "good enough" in run.report().read_text()


def test_losses_are_called_by_their_name(make_learner, run):
    class Own(nn.Sequential):
        def forward(self, x, y):
            preds = super().forward(x)
            return {"preds": preds, "loss": nn.functional.cross_entropy(preds, y)}

    make_learner(RunCallback(run), loss_f=nn.CrossEntropyLoss()).fit(0)
    assert run.info["learner"]["loss"] == "CrossEntropyLoss"
    make_learner(RunCallback(run), model=Own(nn.Linear(4, 3)), loss_f=None).fit(1)
    assert run.info["learner"]["loss"] is None


def test_the_seed_is_the_one_that_it_was_seeded_with(make_learner, run):
    make_learner([RunCallback(run), SeedCallback(42)]).fit(1)
    assert run.info["seed"] == 42


def test_tables_that_are_trained_on_are_put_down(make_learner, run):
    table = Table.from_dict({"x": torch.randn(6, 4), "y": torch.arange(6) % 3}, "six").map(
        lambda row: (row["x"], row["y"])
    )
    loaders = {
        "train": DataLoader(table, batch_size=3),
        "valid": [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))],
    }
    make_learner(RunCallback(run), dls=loaders).fit(1)
    assert run.info["tables"] == {table.fingerprint: {"name": "six", "n_rows": 6}}
    assert run.info["learner"]["n_batches"] == {"train": 2, "valid": 1}


def test_the_run_is_active_for_every_other_callback(make_learner, run):
    class Logs(Callback):
        order = -200

        def before_fit(self, learn):
            assert Run.active() is None

        def before_epoch(self, learn):
            log({"step": learn.n_steps, "own": 1.0})

        def after_fit(self, learn):
            log({"end": 1.0})

    class Cleans(Callback):
        order = 200

        def cleanup_fit(self, learn):
            log({"end": 2.0})

    make_learner([Logs(), Cleans(), RunCallback(run)]).fit(1)
    assert run.scalars()["own"] == ("step", [0, 3], [1.0, 1.0])
    assert run.scalars()["end"].values == [1.0, 2.0]
    assert Run.active() is None


# -- how a fit ends ----------------------------------------------------------------------------------------------------


def test_it_says_that_it_runs_and_that_it_finished(make_learner, run):
    look = AtEpoch(lambda learn: Run.open(run.path).info["status"])
    make_learner([RunCallback(run), look]).fit(1)
    assert look.seen == ["running", "running"]
    assert Run.open(run.path).info["status"] == "finished"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyError("on purpose"), "failed", "KeyError: 'on purpose'"),
        (KeyboardInterrupt("on purpose"), "interrupted", None),
        (SystemExit(143), "interrupted", None),
        (CancelFitException("on purpose"), "finished", None),
        (CancelEpochException("on purpose"), "finished", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_it_says_how_the_fit_ended_and_keeps_what_there_is(make_learner, run, error, status, told):
    learn = make_learner([RunCallback(run), EndAt(error)])
    with suppress(KeyError, KeyboardInterrupt, SystemExit):
        learn.fit(2)
    info = Run.open(run.path).info
    assert (info["status"], info["error"]) == (status, told)
    assert rows_of(run) == list(learn.history)
    assert [sorted(row) for row in rows_of(run)] == [["epoch", "train/loss", "valid/loss"], ["epoch", "train/loss"]]
    assert Run.active() is None


def test_an_error_in_after_fit_is_a_failure(make_learner, run):
    class Fails(Callback):
        def after_fit(self, learn):
            raise ValueError("at the end")

    with pytest.raises(ValueError, match="at the end"):
        make_learner([RunCallback(run), Fails()]).fit(1)
    assert (run.info["status"], run.info["error"]) == ("failed", "ValueError: at the end")
    make_learner(RunCallback(run)).fit(1)
    assert (run.info["status"], run.info["error"]) == ("finished", None)


def test_a_fit_while_an_error_is_handled_has_not_failed(make_learner, run):
    learn = make_learner(RunCallback(run))
    try:
        raise KeyError("of somebody else")
    except KeyError:
        learn.fit(1)
    assert run.info["status"] == "finished"


def test_a_killed_process_leaves_its_epochs_and_the_status_running(tmp_path):
    script = """if True:
        import os, signal, sys, torch
        from callbacks import LambdaCallback, RunCallback
        from learner import Learner
        from learner.records.run import Run
        kill = LambdaCallback(before_batch=lambda learn: learn.epoch == 2 and os.kill(os.getpid(), signal.SIGKILL))
        batch = torch.zeros(4, 1), torch.zeros(4, 1)
        model, loss = torch.nn.Linear(1, 1), torch.nn.functional.mse_loss
        Learner(model, {"train": [batch]}, loss, cbs=[RunCallback(Run.create(sys.argv[1])), kill]).fit(5)
    """
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], cwd=ROOT, check=False)
    assert process.returncode == -9
    run = Run.open(tmp_path / "run")
    assert (run.scalars()["train/loss"].x, run.info["status"]) == ([0, 1], "running")


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_a_disk_that_is_full_ends_the_fit_with_one_clear_error(make_learner, run, n_epochs):
    """At the end of the fit, or when the first row cannot be written."""
    learn = make_learner(RunCallback(run))
    learn.fit(1)
    with pytest.raises(LearnerError, match=r"scalars\.jsonl` must be a file that can be written.*File too large"):
        learn.fit(n_epochs, cbs=FillDisk())
    assert len(learn.history) == 2
    assert Run.active() is None
    assert run.logged() == [learn.history[0]]


# -- again -------------------------------------------------------------------------------------------------------------


def test_a_second_fit_goes_on(make_learner, run):
    learn = make_learner(RunCallback(run))
    learn.fit(2)
    learn.fit(1)
    learn.fit(1, cbs=[])
    assert run.scalars()["train/loss"] == ("epoch", [0, 1, 2, 3], learn.history.to_dict()["train/loss"])


def test_epochs_before_the_run_was_there_are_not_its_own(make_learner, run):
    learn = make_learner()
    learn.fit(2)
    learn.fit(1, cbs=RunCallback(run))
    assert run.scalars()["train/loss"].x == [2]


def test_epochs_that_are_trained_again_are_on_record_once(make_learner, run):
    """As after a kill: it goes on from what was saved at an epoch before, in a new process."""
    killed = make_learner(RunCallback(run))
    killed.fit(1)
    saved, rng = killed.history.state_dict(), torch.get_rng_state()
    weights = {name: value.clone() for name, value in killed.model.state_dict().items()}
    killed.fit(2)
    before = rows_of(run)
    resumed = make_learner(RunCallback(Run.open(run.path)))
    resumed.model.load_state_dict(weights)
    resumed.history.load_state_dict(saved)
    torch.set_rng_state(rng)
    resumed.fit(3)
    assert resumed.history.to_dict()["epoch"] == [0, 1, 2, 3]
    assert rows_of(run) == [*before, resumed.history[3]] == list(resumed.history)


def test_another_training_in_the_same_run_is_kept_too(make_learner, run):
    make_learner(RunCallback(run)).fit(1)
    make_learner(RunCallback(run), lr=0.3).fit(1)
    series = run.scalars()["train/loss"]
    assert (series.x, len(set(series.values))) == ([0, 0], 2)


def test_nan_rows_are_known_again(make_learner, run):
    for _ in range(2):
        make_learner(RunCallback(run), loss_f=lambda preds, y: preds.sum() * float("nan")).fit(1)
    assert len(rows_of(run)) == 1


def test_nothing_is_written_in_a_sandbox(make_learner, run):
    learn = make_learner(RunCallback(run))
    before = {path: path.read_bytes() for path in run.path.rglob("*")}
    look = AtEpoch(lambda learn: Run.active())
    with learn.sandbox():
        learn.fit(1, cbs=look)
    learn.validate()
    assert look.seen == [None, None]
    assert {path: path.read_bytes() for path in run.path.rglob("*")} == before


def test_a_run_is_needed(tmp_path):
    with pytest.raises(TypeError, match=r"`run` must be a Run, got .*; do `Run\.create\(path\)`"):
        RunCallback(tmp_path)


def test_pictures_of_callbacks_are_kept_and_closed(make_learner, tmp_path):
    run = Run.create(tmp_path / "run")
    make_learner([RunCallback(run), ActivationStats()]).fit(1)
    names = sorted(path.name for path in (run.path / "figures").iterdir())
    assert names == ["activation_histograms.png", "activations.png", "dead_activations.png"]
    assert plt.get_fignums() == []


def test_a_fit_that_fails_is_not_held_up_by_pictures(make_learner, tmp_path):
    class Fail(Callback):
        def after_step(self, learn):
            raise ValueError("mine")

    run = Run.create(tmp_path / "run")
    with pytest.raises(ValueError, match="mine"):
        make_learner([RunCallback(run), ActivationStats(), Fail()]).fit(1)
    assert not list(run.path.glob("figures/*"))


# -- from a checkpoint -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, "epoch"])
@pytest.mark.parametrize("by_interrupt", [False, True])
def test_a_fit_that_was_stopped_leaves_the_same_series(make_learner, tmp_path, by_interrupt, every):
    """Epochs are of 3 + 2 batches. No row is there twice, nor a part of one."""

    def run_in(folder):
        path = folder / "run"
        run = Run.open(path) if path.exists() else Run.create(path)
        return lambda cbs: make_learner([RunCallback(run), MetricsCallback(accuracy=accuracy), *cbs])

    uninterrupted(run_in(tmp_path / "whole"), 3, tmp_path / "whole" / "kept", every)
    whole = Run.open(tmp_path / "whole" / "run")
    for n in (1, 4, 6, 9, 11):
        folder = tmp_path / str(n)
        stopped(run_in(folder), 3, n, folder / "kept", every, by_interrupt)
        status = Run.open(folder / "run").info["status"]
        resumed(run_in(folder), 3, folder / "kept", every)
        run = Run.open(folder / "run")
        assert (status, run.info["status"]) == ("interrupted" if by_interrupt else "failed", "finished")
        assert (run.info["error"], run.info["learner"]) == (None, whole.info["learner"])
        assert run.scalars() == whole.scalars(), n
        assert run.info["learning_rates"] == whole.info["learning_rates"], n


def test_what_was_not_on_record_yet_is_written_by_the_fit_that_goes_on(tmp_path, run):
    """The checkpoint of an epoch is there before its row; and here the run is another one."""

    def learner(run):
        return tiny_learner([RunCallback(run), CheckpointCallback(tmp_path / "kept")])

    learner(Run.create(tmp_path / "other")).fit(2)
    learn = learner(run)
    learn.fit(3, resume=True)
    assert rows_of(run) == list(learn.history)


def test_a_fit_that_cannot_go_on_puts_no_row_on_record(tmp_path, run):
    tiny_learner([RunCallback(run), CheckpointCallback(tmp_path / "kept")]).fit(2)
    before = rows_of(run)
    learn = tiny_learner(None)
    learn.fit(4)
    with pytest.raises(LearnerError, match="the learning rate is 7"):
        learn.fit(3, lr=7.0, cbs=[RunCallback(run), CheckpointCallback(tmp_path / "kept")], resume=True)
    assert rows_of(run) == before
    assert run.info["status"] == "failed"
