"""What any service is sent and when, and what happens when it fails."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from callbacks import LoggerCallback, MixedPrecisionCallback, SchedulerCallback, one_cycle
from callbacks.loggers import logger_callback
from learner import Callback, CancelEpochException, Learner, LearnerError
from learner.optim import param_groups
from tests.callbacks.loggers.services import InMemory, series_of
from tests.resuming import tiny_learner


@pytest.fixture
def service():
    return InMemory()


def test_rates_are_those_of_the_step_and_are_named_by_their_group(make_learner, service):
    rates = []

    class Rates(Callback):
        order = 45  # before the schedule moves

        def after_step(self, learn):
            rates.append([group["lr"] for group in learn.opt.param_groups])

    groups = param_groups(torch.optim.SGD, lr={"0.*": 0.5})
    learn = make_learner([LoggerCallback(service), Rates(), SchedulerCallback(one_cycle())], opt_func=groups)
    learn.fit(2)
    series = series_of(service.points)
    assert len(rates) == 6
    for i in range(2):
        assert series[f"lr/{i}"] == [(step + 1, rate[i]) for step, rate in enumerate(rates)]


def test_a_rate_that_is_a_tensor_is_that_of_its_step(make_learner, service):
    def opt(params, lr):
        return torch.optim.SGD(params, lr=torch.tensor(lr))

    class Halves(Callback):
        order = 50

        def after_step(self, learn):
            learn.opt.param_groups[0]["lr"] *= 0.5

    make_learner([LoggerCallback(service), Halves()], opt_func=opt, lr=1.0).fit(1)
    assert series_of(service.points)["lr"] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_a_step_that_is_skipped_has_no_point(make_learner, service):
    learn = make_learner([LoggerCallback(service), MixedPrecisionCallback("fp16", init_scale=2.0**17)])
    learn.fit(5)
    assert learn.n_skipped > 0
    assert [step for step, _ in series_of(service.points)["train/batch_loss"]] == list(range(1, learn.n_steps + 1))


def test_every_leaves_out_batches_and_no_epoch(make_learner, service):
    logger = LoggerCallback(service)
    logger.every = 2
    make_learner(logger).fit(2)
    series = series_of(service.points)
    assert len(series["train/batch_loss"]) < 6
    assert [step for step, _ in series["train/loss"]] == [3, 6]


def test_a_pass_that_was_cut_short_has_its_means_and_the_reason(make_learner, service):
    class Stops(Callback):
        def before_batch(self, learn):
            if learn.epoch == 1 and learn.training and learn.i == 1:
                raise CancelEpochException("seen enough")

    learn = make_learner([LoggerCallback(service), Stops()])
    learn.fit(2)
    assert [value for _, value in series_of(service.points)["train/loss"]] == learn.history.to_dict()["train/loss"]
    assert service.texts["cut_short"] == "epoch 1, train: seen enough"


def test_nothing_is_sent_in_a_sandbox_or_outside_of_a_fit(make_learner, service):
    logger = LoggerCallback(service)
    learn = make_learner(logger)
    learn.validate()
    with learn.sandbox():
        learn.fit(1, cbs=Texts(logger))
    assert service.calls == []
    assert logger.run_id is None
    with pytest.raises(LearnerError, match="`LoggerCallback` must be sent to within a fit"):
        logger.log({"a": 1})


class Texts(Callback):
    order = 200

    def __init__(self, logger):
        self.logger = logger

    def after_epoch(self, learn):
        self.logger.log_text("note", "a")


def test_a_row_is_sent_when_its_epoch_is_over_and_batches_when_it_is_time(make_learner, service, monkeypatch):
    now, sent = [0.0], []
    monkeypatch.setattr(logger_callback, "perf_counter", lambda: now[0])

    class Look(Callback):
        order = 200

        def before_epoch(self, learn):
            if learn.training:
                sent.append(sorted({step for step, _ in service.points}))

        def after_batch(self, learn):
            if learn.epoch == 1 and learn.training and learn.i == 0:
                now[0] += 11.0
            if learn.epoch == 1 and learn.training and learn.i == 1:
                sent.append(sorted({step for step, _ in service.points}))

    make_learner([LoggerCallback(service), Look()]).fit(2)
    assert sent == [[], [1, 2, 3], [1, 2, 3, 4, 5]]


def test_a_service_that_is_slow_takes_a_tenth_of_the_time(make_learner, service, monkeypatch):
    now, n_batches = [0.0], 0
    monkeypatch.setattr(logger_callback, "perf_counter", lambda: now[0])

    def slow(points):
        now[0] += 5.0
        InMemory.scalars(service, points)

    class Takes(Callback):
        def after_batch(self, learn):
            nonlocal n_batches
            n_batches += 1
            now[0] += 1.0

    service.scalars = slow
    learn = make_learner([LoggerCallback(service), Takes()])
    learn.fit(40)
    assert 2 <= service.calls.count("scalars") <= 1 + n_batches * 1.0 / (0.1 * 5.0 * 10) / 10 + 1
    assert [step for step, _ in series_of(service.points)["train/batch_loss"]] == list(range(1, 121))


def test_no_batch_waits_for_the_device(make_learner, service, monkeypatch):
    reads = []
    logger = LoggerCallback(service)
    learn = make_learner(logger)
    item = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(learn.is_in_batch) or item(self))
    learn.fit(2)
    assert reads
    assert not any(reads)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_service_that_cannot_begin_is_an_error_before_anything_is_trained(make_learner):
    learn = make_learner(LoggerCallback(InMemory(fails_at=["start"], error=PermissionError("read-only"))))
    with pytest.raises(
        LearnerError, match="`LoggerCallback` must be able to begin its run, got PermissionError: read-"
    ):
        learn.fit(1)
    assert learn.n_steps == 0


@pytest.mark.parametrize("fails_at", ["scalars", "text", "figure", "file", "end"])
def test_a_service_that_fails_is_said_once_and_training_goes_on(make_learner, tmp_path, fails_at):
    service = InMemory(fails_at=[fails_at])
    logger = LoggerCallback(service)
    (tmp_path / "a.txt").write_text("a")
    alone = make_learner()
    alone.fit(3)
    learn = make_learner([logger, SendsAll(logger, tmp_path / "a.txt")])
    with pytest.warns(RuntimeWarning, match="could not reach its service .*no space left. Training goes on") as caught:
        learn.fit(3)
    assert len(caught) == 1
    assert learn.history.to_dict() == alone.history.to_dict()
    if fails_at != "scalars":
        assert [step for step, _ in series_of(service.points)["train/loss"]] == [3, 6, 9]


class SendsAll(Callback):
    order = 200

    def __init__(self, logger, path):
        self.logger, self.path = logger, path

    def after_epoch(self, learn):
        self.logger.log_text("note", "a")
        self.logger.log_file(self.path)
        self.logger.log_figure("figure", Figure())


def test_what_a_service_missed_comes_as_soon_as_it_works_again(make_learner, service):
    class Repairs(Callback):
        order = 200

        def before_epoch(self, learn):
            service.fails_at = ["scalars"] if learn.epoch < 2 else []

    learn = make_learner([LoggerCallback(service), Repairs()])
    with pytest.warns(RuntimeWarning, match="could not reach its service"):
        learn.fit(3)
    series = series_of(service.points)
    assert [step for step, _ in series["train/batch_loss"]] == list(range(1, 10))
    assert [value for _, value in series["train/loss"]] == learn.history.to_dict()["train/loss"]


class CannotDraw(Callback):
    def figures(self):
        raise ZeroDivisionError("nothing to draw")


class DrawsOdd(Callback):
    def figures(self):
        figure = Figure()
        figure.savefig = lambda *args, **options: 1 / 0
        return {"odd": figure, "fine": Figure()}


def test_a_figure_that_cannot_be_drawn_is_said_once_and_the_others_are_there(make_learner, service):
    with pytest.warns(RuntimeWarning, match="could not draw a figure .*ZeroDivisionError") as caught:
        make_learner([LoggerCallback(service), CannotDraw(), DrawsOdd()]).fit(1)
    assert len(caught) == 1
    assert list(service.figures) == ["fine"]
    assert service.ended == ("finished", None)


def test_a_failing_service_hides_no_error_of_the_training(make_learner):
    class Fails(Callback):
        def after_loss(self, learn):
            raise KeyError("mine")

    learn = make_learner([LoggerCallback(InMemory(fails_at=["text", "scalars", "end"])), Fails()])
    with pytest.warns(RuntimeWarning, match="could not reach its service"), pytest.raises(KeyError, match="mine"):
        learn.fit(1)


def test_values_that_are_not_finite_are_sent_as_they_are(service):
    batch = torch.full((2, 1), math.inf), torch.zeros(2, 1)
    Learner(nn.Linear(1, 1), {"train": [batch]}, nn.functional.mse_loss, cbs=LoggerCallback(service)).fit(1)
    (step, loss), *_ = series_of(service.points)["train/batch_loss"]
    assert step == 1
    assert not math.isfinite(loss)


def test_a_checkpoint_without_a_logger_begins_a_run(tmp_path, service):
    from callbacks import CheckpointCallback

    tiny_learner(CheckpointCallback(tmp_path)).fit(1)
    tiny_learner([CheckpointCallback(tmp_path), LoggerCallback(service)]).fit(2, resume=True)
    assert service.calls[0] == "start"
    series = series_of(service.points)
    assert [step for step, _ in series["train/batch_loss"]] == list(range(7, 13))
    assert series["epoch"] == [(12, 1.0)]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: LoggerCallback(object()), TypeError, "`logger` must have the methods start, scalars"),
        (lambda: LoggerCallback(InMemory(), config=3), TypeError, "`config` must be a mapping, got 3"),
        (lambda: LoggerCallback(InMemory(), config={"f": print}), TypeError, r"`config\['f'\]` must be a number, a st"),
        (lambda: LoggerCallback(InMemory()).log({"a": "b"}), TypeError, "`a` must be a number, got 'b'"),
        (lambda: LoggerCallback(InMemory()).log_text("a", 3), TypeError, "`text` must be a string, got 3"),
        (lambda: LoggerCallback(InMemory()).log_figure("a", 3), TypeError, "`figure` must be a figure of matplotlib"),
        (
            lambda: LoggerCallback(InMemory()).log_file("no/such"),
            FileNotFoundError,
            "`path` must be a file, got 'no/su",
        ),
    ],
)
def test_wrong_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_it_can_be_copied_and_pickled_after_a_fit(make_learner, tmp_path):
    from callbacks import TensorBoardCallback

    logger = TensorBoardCallback(tmp_path, config={"lr": np.float64(0.1)})
    make_learner(logger).fit(1)
    for other in (copy.deepcopy(logger), pickle.loads(pickle.dumps(logger))):
        assert other.run_id == str(tmp_path)


def test_it_says_nothing_where_all_goes_well(make_learner, service, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(LoggerCallback(service)).fit(1)
    assert capsys.readouterr() == ("", "")
