"""Schedules of torch, against the same schedule in a hand-written loop: learning rates equal to the last bit."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from callbacks import (
    AccumulateCallback,
    BestModelCallback,
    CheckpointCallback,
    EarlyStoppingCallback,
    LambdaCallback,
    MetricsCallback,
    RecorderCallback,
    SchedulerCallback,
    accuracy,
    one_cycle,
    warmup_cosine,
)
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    LearnerError,
)
from learner.checkpoint.snapshot import snapshot
from tests.resuming import (
    StopAt,
    StoppedError,
    assert_equal_runs,
    differing,
    resumed,
    resumed_from_each,
    resumed_from_each_validation,
    seed_all,
    stopped,
    stopped_and_resumed,
    tiny_learner,
    uninterrupted,
)

N = 4  # batches in an epoch
BATCH = (torch.ones(2, 1), torch.ones(2, 1))
MAKES = {
    "OneCycleLR": partial(OneCycleLR, max_lr=0.1),
    "CosineAnnealingLR": partial(CosineAnnealingLR, eta_min=0.001),
    "lambda": lambda opt, total_steps: PolynomialLR(opt, total_iters=total_steps),
    "StepLR": partial(StepLR, step_size=3, gamma=0.5),
    "LambdaLR": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "CyclicLR": partial(CyclicLR, base_lr=0.001, max_lr=0.1, step_size_up=3),
    "SequentialLR": lambda opt, total_steps: SequentialLR(
        opt, [LinearLR(opt, total_iters=2), CosineAnnealingLR(opt, total_steps - 2)], milestones=[2]
    ),
}


class RaiseAt(Callback):
    def __init__(self, signal, batches, error):
        self.batches, self.error = batches, error
        setattr(self, signal, self.hear)

    def hear(self, learn):
        if learn.training and learn.i in self.batches:
            raise self.error


def sgd(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.8)


def make_learner(cbs, train=(BATCH,) * N, opt_func=sgd, **more):
    torch.manual_seed(0)
    return Learner(nn.Linear(1, 1), {"train": train, **more}, nn.functional.mse_loss, 0.02, opt_func, cbs)


def settings(opt):
    """Return all that is in an optimizer's groups besides parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups]


def record():
    group = lambda learn: learn.opt.param_groups[0]
    return RecorderCallback(lr=lambda learn: group(learn)["lr"], momentum=lambda learn: group(learn)["momentum"])


def by_hand(make, n_epochs, each, n=N):
    """Train the network by hand; return it and the learning rate and momentum of each batch."""
    learn = make_learner(None)
    opt = sgd(learn.model.parameters(), lr=0.02)
    names = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "lambda": "total_steps"}
    names["SequentialLR"] = "total_steps"
    count = {names[make]: n_epochs * (n if each == "batch" else 1)} if make in names else {}
    schedule = MAKES[make](opt, **count)
    used = {"lr": [], "momentum": []}
    for _ in range(n_epochs):
        for _ in range(n):
            for name in used:
                used[name].append(opt.param_groups[0][name])
            opt.zero_grad()
            nn.functional.mse_loss(learn.model(BATCH[0]), BATCH[1]).backward()
            opt.step()
            if each == "batch":
                schedule.step()
        if each == "epoch":
            schedule.step()
    return learn.model, used


@pytest.mark.parametrize("each", ["batch", "epoch"])
@pytest.mark.parametrize("make", MAKES)
def test_it_equals_a_hand_written_loop(make, each):
    recorder = record()
    learn = make_learner([SchedulerCallback(MAKES[make], each), recorder], valid=[BATCH])
    learn.fit(4)
    model, used = by_hand(make, 4, each)
    assert recorder.values == used
    assert len(set(used["lr"])) > 1
    assert torch.equal(learn.model.weight, model.weight)


def total_steps(cb):
    return cb.scheduler.total_steps


def test_the_steps_are_counted_over_all_training_loaders_and_windows():
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1))
    more = {"valid": [BATCH] * 9, "train2": [BATCH] * 7}
    for listed in (1, -1):
        learn = make_learner([schedule, AccumulateCallback(3)][::listed], **more)
        learn.fit(2)
        assert total_steps(schedule) == 2 * (2 + 3) == learn.n_steps == schedule.scheduler.last_epoch
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1), each="epoch")
    make_learner(schedule, **more).fit(5)
    assert total_steps(schedule) == 5 == schedule.scheduler.last_epoch


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (partial(OneCycleLR, max_lr=0.1, total_steps=50), "total_steps", 50),
        (partial(OneCycleLR, max_lr=0.1, epochs=3, steps_per_epoch=20), "total_steps", 60),
        (partial(CosineAnnealingLR, T_max=30), "T_max", 30),
        (lambda opt, total_steps=40: OneCycleLR(opt, 0.1, total_steps), "total_steps", 40),
    ],
)
def test_a_number_of_steps_that_was_given_is_left_alone(make, name, expected):
    schedule = SchedulerCallback(make)
    learn = make_learner(schedule)
    learn.fit(1)
    assert getattr(schedule.scheduler, name) == expected


def test_a_fit_of_no_epochs_is_no_error():
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1))
    make_learner(schedule).fit(0)
    assert total_steps(schedule) == 1


@pytest.mark.parametrize("make", [partial(OneCycleLR, max_lr=0.1), CosineAnnealingLR])
def test_a_loader_without_a_length_asks_for_the_number_of_steps(make):
    class Stream:
        def __iter__(self):
            return iter([BATCH] * 3)

    name = "T_max" if make is CosineAnnealingLR else "total_steps"
    learn = make_learner(SchedulerCallback(make), train=Stream())
    with pytest.raises(
        LearnerError, match=f"`{name}` of the schedule must be given, since loader 'train' has no length"
    ):
        learn.fit(1)
    learn.remove_cb(learn.cbs)
    learn.fit(2, cbs=SchedulerCallback(partial(make, **{name: 6})))
    learn.fit(2, cbs=SchedulerCallback(make, each="epoch"))
    learn.fit(2, cbs=SchedulerCallback(partial(StepLR, step_size=3)))


@pytest.mark.parametrize(
    ("signal", "error"),
    [
        ("after_loss", CancelStepException),
        ("after_backward", CancelStepException),
        ("after_loss", CancelBatchException),
    ],
)
def test_a_skipped_step_does_not_step_the_schedule(signal, error):
    schedule, recorder = SchedulerCallback(partial(StepLR, step_size=1, gamma=0.5)), record()
    learn = make_learner([schedule, recorder, RaiseAt(signal, [0, 2], error())])
    learn.fit(1)
    assert (learn.n_steps, schedule.scheduler.last_epoch) == (2, 2)
    rates = recorder.values["lr"]
    assert rates == ([0.02, 0.02, 0.01, 0.01] if error is CancelStepException else [0.02, 0.01])


def test_a_round_without_a_step_does_not_step_the_schedule():
    """torch would warn of it, and warnings are errors here."""
    schedule = SchedulerCallback(partial(StepLR, step_size=1), each="epoch")
    learn = make_learner([schedule, RaiseAt("after_loss", range(N), CancelStepException())])
    learn.fit(2)
    assert schedule.scheduler.last_epoch == 0
    learn.remove_cb(learn.cbs[1])
    learn.fit(2)
    assert schedule.scheduler.last_epoch == 2


def test_by_the_epoch_it_steps_once_a_round_after_the_last_training_loader():
    rates = []

    class Note(Callback):
        order = 100

        def before_epoch(self, learn):
            rates.append((learn.dl_name, learn.opt.param_groups[0]["lr"]))

    schedule = SchedulerCallback(partial(StepLR, step_size=1, gamma=0.5), each="epoch")
    make_learner([schedule, Note()], valid=[BATCH], train2=[BATCH], valid2=[BATCH]).fit(2)
    names = ["train", "valid", "train2", "valid2"]
    expected = [0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005]
    assert rates == list(zip(names * 2, expected, strict=True))


def test_fewer_steps_than_were_planned_are_fine():
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1))
    make_learner([schedule, RaiseAt("after_batch", [1], CancelEpochException())]).fit(3)
    assert (schedule.scheduler.last_epoch, total_steps(schedule)) == (6, 12)


@pytest.mark.parametrize(
    ("cbs", "metric"),
    [([], "valid/loss"), ([], "train/loss"), ([], "valid/error"), ([AccumulateCallback(3)], "valid2/loss")],
)
def test_it_gives_a_schedule_the_metric_that_it_watches(cbs, metric):
    class LogError(Callback):
        def after_loss(self, learn):
            learn.log(error=learn.epoch // 2)

    plateau = partial(ReduceLROnPlateau, patience=0, factor=0.5, mode="max")
    recorder, schedule = record(), SchedulerCallback(plateau, metric=metric)
    learn = make_learner([schedule, LogError(), recorder, *cbs], valid=[BATCH], valid2=[BATCH] * 2)
    learn.fit(5)
    reference = plateau(sgd(learn.model.parameters(), lr=0.02))
    expected = []
    for row in learn.history:
        expected += reference.get_last_lr() * N
        reference.step(row[metric])
    assert recorder.values["lr"] == expected
    assert len(set(expected)) > 2


def test_the_metric_may_be_one_that_another_callback_works_out():
    class Metric(Callback):
        order = -10

        def after_epoch(self, learn):
            learn.metrics[learn.dl_name]["mine"] = 1.0

    schedule = SchedulerCallback(partial(ReduceLROnPlateau, patience=0), metric="train/mine")
    make_learner([schedule, Metric()]).fit(3)
    assert (schedule.scheduler.best, schedule.scheduler.last_epoch) == (1.0, 3)


def test_a_metric_that_is_not_a_number_makes_no_trouble():
    schedule = SchedulerCallback(partial(ReduceLROnPlateau, patience=0), metric="valid/loss")
    learn = make_learner(schedule, valid=[(torch.full((1, 1), math.nan), torch.ones(1, 1))])
    learn.fit(3)
    assert schedule.scheduler.num_bad_epochs + schedule.scheduler.last_epoch >= 3
    assert learn.opt.param_groups[0]["lr"] < 0.02


def test_a_validation_beside_the_fit_is_not_the_one_that_is_watched():
    class Validate(Callback):
        def after_batch(self, learn):
            if learn.training:
                learn.validate()
                learn.validate("train")

    schedule = SchedulerCallback(ReduceLROnPlateau, metric="valid/loss")
    learn = make_learner([schedule, Validate()], valid=[BATCH])
    learn.fit(2)
    learn.validate()
    assert schedule.scheduler.last_epoch == 2


@pytest.mark.parametrize(
    ("make", "metric", "error", "match"),
    [
        (ReduceLROnPlateau, None, LearnerError, "`metric` must be given for ReduceLROnPlateau"),
        (ReduceLROnPlateau, "test/loss", LearnerError, r"one of the loaders \['train', 'valid'\], got 'test/loss'"),
        (ReduceLROnPlateau, "valid/los", LearnerError, r"of loader 'valid' \(valid/loss\), got 'valid/los'"),
        (partial(StepLR, step_size=1), "valid/loss", LearnerError, "must be left out for StepLR"),
        (lambda opt: None, None, TypeError, "must return a scheduler with a `step` method, got NoneType"),
    ],
)
def test_what_does_not_fit_is_an_error_in_the_fit_and_leaves_nothing_behind(make, metric, error, match):
    learn = make_learner(None, valid=[BATCH])
    learn.fit(0)
    before = copy.deepcopy(settings(learn.opt))
    with pytest.raises(error, match=match):
        learn.fit(2, cbs=SchedulerCallback(make, metric=metric))
    assert learn.epoch == 0
    assert settings(learn.opt) == before
    assert "step" not in vars(learn.opt)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (
            (StepLR(sgd([nn.Parameter(torch.ones(1))], 1.0), 1),),
            TypeError,
            "must be called as make.opt., got an object of",
        ),
        ((StepLR,), TypeError, r"got StepLR\(optimizer.*: missing a required argument: 'step_size'; give the rest"),
        ((lambda: None,), TypeError, "must be called as make.opt."),
        ((StepLR, "batches"), ValueError, "`each` must be 'batch' or 'epoch', got 'batches'"),
        ((ReduceLROnPlateau, "batch", "valid/loss"), ValueError, "`each` must be 'epoch' for a schedule that watches"),
        ((ReduceLROnPlateau, "epoch", "loss"), ValueError, "`metric` must be written 'loader/metric'"),
        ((ReduceLROnPlateau, "epoch", 1), ValueError, "`metric` must be written 'loader/metric'"),
    ],
)
def test_wrong_arguments_are_found_when_it_is_made(arguments, error, match):
    with pytest.raises(error, match=match):
        SchedulerCallback(*arguments)


@pytest.mark.parametrize("error", [None, KeyError("on purpose"), KeyboardInterrupt("on purpose")])
def test_the_optimizer_is_as_before_but_for_the_learning_rate(error):
    learn = make_learner(SchedulerCallback(partial(OneCycleLR, max_lr=0.1)))
    learn.fit(0)
    before = copy.deepcopy(settings(make_learner(None).opt_func(learn.model.parameters(), lr=0.02)))
    if error is None:
        learn.fit(2)
    else:
        with pytest.raises(type(error), match="on purpose"):
            learn.fit(2, cbs=RaiseAt("after_batch", [2], error))
    after = settings(learn.opt)
    assert [group.pop("lr") for group in after] != [group.pop("lr") for group in before]
    assert after == before
    assert "step" not in vars(learn.opt)
    assert "_opt_called" not in vars(learn.opt)
    pickle.dumps(learn.opt)


def test_every_fit_starts_from_the_learning_rate_asked_for():
    recorder = record()
    learn = make_learner([SchedulerCallback(partial(StepLR, step_size=1, gamma=0.5)), recorder])
    learn.fit(1)
    learn.fit(1, lr=0.4)
    assert recorder.values["lr"] == [0.4, 0.2, 0.1, 0.05]
    learn.fit(1)
    assert recorder.values["lr"][0] == learn.lr


def test_what_was_in_the_optimizer_before_is_put_back():
    """A schedule by hand on the same optimizer has its own keys and its own `step`."""
    learn = make_learner(None)
    learn.fit(0)
    StepLR(learn.opt, step_size=1)
    before, step = copy.deepcopy(settings(learn.opt)), learn.opt.step
    learn.fit(1, cbs=SchedulerCallback(partial(CyclicLR, base_lr=0.01, max_lr=0.1)))
    after = settings(learn.opt)
    assert [group.pop("lr") for group in after] != [group.pop("lr") for group in before]
    assert after == before
    assert learn.opt.step is step


def test_two_schedules_work_together():
    """A warm-up by the batch and a decay by the epoch, both of the factor kind."""
    warm_up = SchedulerCallback(partial(LinearLR, start_factor=0.25, total_iters=3))
    decay = SchedulerCallback(partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda epoch: 0.5), each="epoch")
    recorder = record()
    learn = make_learner([warm_up, decay, recorder])
    learn.fit(2)
    expected = [0.005, 0.01, 0.015, 0.02, 0.01, 0.01, 0.01, 0.01]
    assert recorder.values["lr"] == pytest.approx(expected)
    assert "step" not in vars(learn.opt)
    assert "initial_lr" not in learn.opt.param_groups[0]


def test_groups_and_rates_that_are_tensors():
    def opt_func(params, lr):
        groups = [{"params": params[:1], "lr": torch.tensor(lr)}, {"params": params[1:], "lr": torch.tensor(lr / 10)}]
        return torch.optim.SGD(groups, lr=lr, foreach=False)

    learn = make_learner(SchedulerCallback(partial(StepLR, step_size=2, gamma=0.5)), opt_func=opt_func)
    for _ in range(2):
        learn.fit(1)
        assert [group["lr"].item() for group in learn.opt.param_groups] == pytest.approx([0.005, 0.0005])


def test_in_a_sandbox_the_schedule_is_the_old_one_again():
    schedule = SchedulerCallback(partial(OneCycleLR, max_lr=0.1))
    learn = make_learner(schedule)
    learn.fit(1)
    made, state = schedule.scheduler, copy.deepcopy(schedule.scheduler.state_dict())
    with learn.sandbox():
        learn.fit(3)
        assert total_steps(schedule) == 12
    assert schedule.scheduler is made
    assert made.state_dict() == state


# -- going on from a checkpoint ----------------------------------------------------------------------------------------

SCHEDULES = {
    "OneCycleLR": partial(OneCycleLR, max_lr=0.1),
    "CosineAnnealingLR": partial(CosineAnnealingLR, eta_min=0.001),
    "LambdaLR": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "MultiStepLR": partial(MultiStepLR, milestones=[1, 2, 8, 8, 15], gamma=0.5),
    "CyclicLR": partial(CyclicLR, base_lr=0.001, max_lr=0.1, step_size_up=4, scale_fn=lambda x: 1 / x),
    "CosineAnnealingWarmRestarts": partial(CosineAnnealingWarmRestarts, T_0=5),
    "SequentialLR": lambda opt, total_steps: SequentialLR(
        opt, [LinearLR(opt, total_iters=2), CosineAnnealingLR(opt, total_steps - 2)], milestones=[2]
    ),
    "ChainedScheduler": lambda opt: ChainedScheduler([LinearLR(opt, total_iters=4), StepLR(opt, 3, gamma=0.5)]),
}


class Rates(Callback):
    """Keep all that a schedule may set, for each batch."""

    state = ("used",)

    def __init__(self):
        self.used = []

    def before_batch(self, learn):
        if learn.training:
            groups = settings(learn.opt)
            self.used.append([float(group[key]) for group in groups for key in ("lr", "momentum")])


def scheduled(cbs, make, each=None, metric=None):
    schedule = SchedulerCallback(make, each, metric)
    return tiny_learner([schedule, Rates(), *cbs], opt_func=sgd, lr=0.02)


@pytest.mark.parametrize(("each", "n_epochs"), [("batch", 2), ("epoch", 3)], ids=["batch", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_from_every_batch(tmp_path, name, each, n_epochs):
    whole, gone_on = resumed_from_each(partial(scheduled, make=SCHEDULES[name], each=each), n_epochs, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)
        assert learn.cbs[1].used == whole.cbs[1].used
        assert differing(learn.cbs[0].scheduler.state_dict(), whole.cbs[0].scheduler.state_dict()) == []
    assert len(gone_on) == len(whole.cbs[1].used) == 6 * n_epochs
    assert len({lr for lr, _ in whole.cbs[1].used}) > 2


@pytest.mark.parametrize("metric", ["train/loss", "valid/loss"])
def test_a_schedule_that_watches_a_metric_goes_on_from_every_batch(tmp_path, metric):
    make = partial(scheduled, make=partial(ReduceLROnPlateau, patience=0, factor=0.5, mode="max"), metric=metric)
    whole, gone_on = resumed_from_each(make, 3, tmp_path)
    for learn in gone_on + resumed_from_each_validation(make, 3, tmp_path):
        assert_equal_runs(learn, whole)
        assert learn.cbs[1].used == whole.cbs[1].used
        assert learn.cbs[0].scheduler.state_dict() == whole.cbs[0].scheduler.state_dict()
    assert whole.opt.param_groups[0]["lr"] < 0.02


def test_two_schedules_go_on_and_put_the_optimizer_back(tmp_path):
    def make(cbs):
        rising = partial(LinearLR, total_iters=20)
        decay = SchedulerCallback(partial(StepLR, step_size=1), each="epoch")
        return tiny_learner([SchedulerCallback(rising), decay, *cbs], opt_func=sgd, lr=0.02)

    whole, gone_on = resumed_from_each(make, 2, tmp_path)
    for learn in gone_on:
        assert_equal_runs(learn, whole)
        assert settings(learn.opt) == settings(whole.opt)
        assert learn.opt.param_groups[0].keys() == sgd(learn.model.parameters(), 0.1).param_groups[0].keys()
        assert "step" not in vars(learn.opt)
        assert learn.opt.param_groups[0]["momentum"] == 0.8


def test_what_is_put_back_is_what_there_was_when_the_fit_began_and_not_when_it_went_on(tmp_path):
    """The momentum of a learner that had another one set by hand."""
    one_cycle = partial(scheduled, make=SCHEDULES["OneCycleLR"])
    learn = one_cycle([CheckpointCallback(tmp_path, 1), stop := StopAt(4)])
    learn.fit(0)
    learn.opt.param_groups[0]["momentum"] = 0.5
    with pytest.raises(StoppedError):
        learn.fit(1)
    assert stop.n_seen == 4
    again = resumed(one_cycle, 1, tmp_path)
    assert again.opt.param_groups[0]["momentum"] == 0.5


def test_a_fit_that_a_callback_has_ended_stays_as_it_was(tmp_path):
    def make(cbs):
        return scheduled([RaiseAt("after_batch", [4], CancelFitException()), *cbs], SCHEDULES["OneCycleLR"])

    ended = make([CheckpointCallback(tmp_path), StopAt()])
    ended.fit(0)
    ended.opt.param_groups[0]["momentum"] = 0.5
    ended.fit(2)
    again = resumed(make, 2, tmp_path)
    assert settings(again.opt) == settings(ended.opt)
    assert again.opt.param_groups[0]["momentum"] == 0.5
    assert "step" not in vars(again.opt)


@pytest.mark.parametrize(
    ("saved", "other", "n_epochs", "match"),
    [
        ("OneCycleLR", {"make": SCHEDULES["CosineAnnealingLR"]}, 2, "schedule is CosineAnnealingLR here, OneCycleLR s"),
        ("OneCycleLR", {}, 3, "the number of steps is 18 here, 12 saved of callback SchedulerCallback"),
        (
            "CosineAnnealingLR",
            {"each": "epoch"},
            2,
            "number of steps is 2 here, 12 saved .*`each` is epoch here, batch",
        ),
        (
            "ChainedScheduler",
            {"make": lambda opt: ChainedScheduler([LinearLR(opt)])},
            2,
            r"ChainedScheduler\(LinearLR\) here, ChainedScheduler\(LinearLR, StepLR\) saved",
        ),
        (
            "LambdaLR",
            {"make": ReduceLROnPlateau, "metric": "valid/loss"},
            2,
            "`metric` is valid/loss here, None saved",
        ),
    ],
)
def test_another_schedule_is_refused(tmp_path, saved, other, n_epochs, match):
    make = partial(scheduled, make=SCHEDULES[saved])
    stopped(make, 2, 2, tmp_path)
    with pytest.raises(LearnerError, match=match):
        resumed(partial(make, **other), n_epochs, tmp_path)


def test_a_fit_may_become_longer_where_the_schedule_was_not_told_how_long_it_is(tmp_path):
    make = partial(scheduled, make=SCHEDULES["LambdaLR"])
    longer = uninterrupted(make, 3, tmp_path / "longer")
    uninterrupted(make, 2, tmp_path / "shorter")
    assert_equal_runs(resumed(make, 3, tmp_path / "shorter"), longer)


def test_a_schedule_without_a_state_is_named_at_the_first_checkpoint(tmp_path):
    class Bare:
        def __init__(self, opt):
            pass

        def step(self):
            pass

    with pytest.raises(TypeError, match="`make` must return a schedule with `state_dict` and `load_state_dict` for a"):
        scheduled([CheckpointCallback(tmp_path)], Bare).fit(1)
    learn = scheduled([], Bare)
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")  # between two fits there is nothing of it to keep


@pytest.mark.parametrize("is_in_a_fit", [False, True])
def test_after_load_the_next_fit_is_the_one_that_would_have_come(tmp_path, is_in_a_fit):
    """A checkpoint of the middle of a fit holds an optimizer in the hands of a schedule; the next one begins afresh."""
    make = partial(scheduled, make=SCHEDULES["OneCycleLR"])
    saved = make([])
    if is_in_a_fit:
        saved = stopped(make, 2, 5, tmp_path)
        (path,) = tmp_path.glob("*5.pt")
        saved.remove_cb(saved.cbs[2:])
        for cb in saved.cbs[1:]:
            cb.used = []
    else:
        path = tmp_path / "learn.pt"
        saved.fit(1)
        saved.save(path)
    other = make([CheckpointCallback(tmp_path / "other"), StopAt(99)] if is_in_a_fit else [])
    other.load(path)
    other.remove_cb(other.cbs[2:])
    other.save(tmp_path / "again.pt")
    third = make([])
    third.load(tmp_path / "again.pt")
    for learn in (saved, other, third):
        seed_all(1)
        learn.cbs[1].used = []
        learn.fit(1)
        learn.history.rows.clear()
    for learn in (other, third):
        assert learn.cbs[1].used == saved.cbs[1].used
        assert settings(learn.opt) == settings(saved.opt)
        assert differing(snapshot(learn)["model"], snapshot(saved)["model"]) == []


@pytest.mark.parametrize("every", ["epoch", 4])
def test_a_schedule_goes_on_with_all_that_it_depends_on(tmp_path, every):
    """Windows count its steps, and what follows a metric may end it."""

    def make(cbs):
        cbs = [BestModelCallback("accuracy", mode="max", restore=True), MetricsCallback(accuracy), *cbs]
        cbs = [EarlyStoppingCallback(loader="train", patience=2, min_delta=0.1), AccumulateCallback(4), *cbs]
        return scheduled(cbs, SCHEDULES["OneCycleLR"])

    whole = uninterrupted(make, 5, tmp_path / "whole", every)
    assert 2 <= len(whole.history) < 5
    for stop_at in range(0, 9 * len(whole.history) - 3, 5):
        learn = stopped_and_resumed(make, 5, stop_at, tmp_path / str(stop_at), every)
        assert_equal_runs(learn, whole)
        assert learn.cbs[1].used == whole.cbs[1].used


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (
            partial(StepLR, step_size=20, gamma=0.9),
            partial(StepLR, step_size=5, gamma=0.9),
            "`step_size` of the schedule",
        ),
        (partial(OneCycleLR, max_lr=0.1), partial(OneCycleLR, max_lr=0.2), "what the schedule has .*"),
        (
            lambda opt: SequentialLR(opt, [StepLR(opt, 2), StepLR(opt, 3)], [4]),
            lambda opt: SequentialLR(opt, [StepLR(opt, 2), StepLR(opt, 4)], [4]),
            "`_schedulers` of the schedule",
        ),
    ],
)
def test_a_schedule_with_other_settings_is_refused(tmp_path, then, now, message):
    stopped(lambda cbs: tiny_learner([*cbs, SchedulerCallback(then)]), 2, 3, tmp_path)
    with pytest.raises(LearnerError, match=f"but {message} is .* here, .* saved of callback SchedulerCallback"):
        resumed(lambda cbs: tiny_learner([*cbs, SchedulerCallback(now)]), 2, tmp_path)
    resumed(lambda cbs: tiny_learner([*cbs, SchedulerCallback(then)]), 2, tmp_path)


class Put(Callback):
    """Put something in place of an attribute of the learner."""

    def __init__(self, signal, name, make, epoch=0):
        setattr(self, signal, lambda learn: learn.epoch == epoch and setattr(learn, name, make(learn)))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("opt", lambda learn: torch.optim.SGD(learn.model.parameters(), lr=0.1)),
        ("epochs", lambda learn: range(7)),
    ],
)
def test_what_the_schedule_was_made_for_may_not_be_replaced_later(make_learner, name, make):
    learn = make_learner([Put("before_epoch", name, make, epoch=1), SchedulerCallback(CosineAnnealingLR)])
    with pytest.raises(LearnerError, match=rf"`learn\.{name}` must stay as it was when the schedule was made.*epoch 1"):
        learn.fit(3)


def test_a_group_that_is_added_within_a_fit_is_scheduled_from_its_own_rate_and_has_it_in_the_next(make_learner):
    def add(learn):
        if learn.epoch == 1 and len(learn.opt.param_groups) == 1:
            learn.opt.add_param_group({"params": [*learn.model[0].parameters()], "lr": 0.01})

    def opt_func(params, lr):
        return torch.optim.SGD([*params][2:], lr=lr)

    schedule = SchedulerCallback(CosineAnnealingLR, each="epoch")
    learn = make_learner(opt_func=opt_func, lr=0.1)
    with pytest.warns(RuntimeWarning, match="leaves out"):
        learn.fit(4, cbs=[LambdaCallback(before_epoch=add), schedule])
    assert schedule.scheduler.base_lrs == [0.1, 0.01]
    learn.fit(1)
    assert [group["lr"] for group in learn.opt.param_groups] == pytest.approx([0.1, 0.01])
    assert "initial_lr" not in learn.opt.param_groups[1]


def test_a_schedule_that_makes_all_groups_equal_says_so(make_learner):
    def opt_func(params, lr):
        first, *rest = params
        return torch.optim.SGD([{"params": [first], "lr": lr / 10}, {"params": rest}], lr=lr)

    with pytest.warns(RuntimeWarning, match=r"gives all parameter groups one rate.*max_lr=\[\.\.\.\]"):
        make_learner(SchedulerCallback(partial(OneCycleLR, max_lr=0.1)), opt_func=opt_func).fit(1)
    make_learner(SchedulerCallback(partial(OneCycleLR, max_lr=[0.01, 0.1])), opt_func=opt_func).fit(1)
    make_learner(SchedulerCallback(CosineAnnealingLR), opt_func=opt_func).fit(1)


@pytest.mark.parametrize("make", [one_cycle, warmup_cosine])
def test_what_makes_a_schedule_has_to_be_called(make):
    with pytest.raises(TypeError, match=rf"`make` must be what `{make.__name__}\(\)` returns"):
        SchedulerCallback(make)
