"""The monitor: which values count, and what does not exist."""

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from callbacks import (
    BestModelCallback,
    CheckpointCallback,
    EarlyStoppingCallback,
    LambdaCallback,
    LRFinderCallback,
    MetricsCallback,
    accuracy,
    top_k_accuracy,
)
from callbacks.keep.monitor import Best, Monitor
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Learner,
    LearnerError,
)
from tests.resuming import (
    assert_equal_runs,
    resumed,
    resumed_from_each,
    resumed_from_each_validation,
    stopped,
    tiny_learner,
)

BATCHES = [(torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))]


class Watch(Monitor):
    """Keep what was handed on."""

    def __init__(self, metric="loss", loader="valid", mode="min"):
        super().__init__(metric, loader, mode)
        self.seen = []

    def _see(self, learn, now):
        self.seen.append((now.epoch, now.value, now.metric))


class Batches:
    """A loader that counts how often it was asked for its batches."""

    n = 0

    def __iter__(self):
        self.n += 1
        return iter(BATCHES)


def make(*cbs, names=("train", "valid"), cls=Learner, **kwargs):
    return cls(nn.Linear(2, 2), {name: Batches() for name in names}, nn.functional.cross_entropy, cbs=cbs, **kwargs)


def n_passes(learn):
    return sum(dl.n for dl in learn.dls.values())


class LogScore(Callback):
    """Log a score of 10, 11, ... with each pass over a validation loader."""

    def __init__(self):
        self.n = 9

    def after_batch(self, learn):
        if not learn.training:
            self.n += 1
            learn.log(score=self.n)


class Log(Learner):
    def get_loss(self):
        super().get_loss()
        self.log(loss_2=self.loss * 2)


def test_values_are_those_of_the_history_numbered_as_there():
    watch = Watch("accuracy", "valid2")
    learn = make(MetricsCallback(accuracy), watch, names=("train", "valid", "valid2"))
    for n_epochs in (2, 1, 1):
        learn.fit(n_epochs)
    rows = [(row["epoch"], row["valid2/accuracy"], "valid2/accuracy") for row in learn.history]
    assert watch.seen == rows
    assert [epoch for epoch, *_ in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("order", [-1000, 0, 49])
def test_a_value_that_a_callback_adds_before_its_turn_is_seen(order):
    class Add(Callback):
        def after_epoch(self, learn):
            learn.metrics[learn.dl_name]["mine"] = torch.tensor(learn.epoch + 0.5)

    add, watch = Add(), Watch("mine")
    add.order = order
    make(watch, add).fit(2)
    assert watch.seen == [(0, 0.5, "valid/mine"), (1, 1.5, "valid/mine")]


@pytest.mark.parametrize("order", [-1, 49, 51, 99])
def test_passes_within_and_beside_the_rounds_do_not_count(order):
    class Ask(Callback):
        def before_fit(self, learn):
            learn.validate("train")
            learn.validate("valid")  # the very loader, before the first pass of the fit
            learn.get_preds("valid")

        def after_batch(self, learn):
            if learn.training:
                learn.validate()

        def after_epoch(self, learn):
            if learn.training:
                learn.validate()

        def after_fit(self, learn):
            learn.validate()

    ask, watches = Ask(), [Watch("score"), Watch("loss", "train")]
    ask.order = order
    learn = make(ask, LogScore(), *watches)
    learn.validate()
    learn.fit(2)
    learn.validate()
    scores = learn.history.to_dict()["valid/score"]
    assert [value for _, value, _ in watches[0].seen] == scores
    assert [value for _, value, _ in watches[1].seen] == learn.history.to_dict()["train/loss"]
    assert len(scores) == 2


def test_a_cancelled_pass_does_not_count_nor_does_one_in_which_nothing_was_measured():
    class Cancel(Callback):
        order = -100

        def before_batch(self, learn):
            if learn.dl_name == "valid" and learn.epoch in (1, 2):
                raise (CancelEpochException if learn.epoch == 1 else CancelBatchException)

    watch = Watch("score")
    make(Cancel(), LogScore(), watch).fit(4)
    assert [(epoch, value) for epoch, value, _ in watch.seen] == [(0, 10.0), (3, 11.0)]


def test_a_cancelled_pass_is_not_replaced_by_one_beside_the_rounds():
    class Cancel(Callback):
        def after_batch(self, learn):
            if learn.dl_name == "valid" and learn.epoch == 1 and not self.is_over:
                raise CancelEpochException

        def before_fit(self, learn):
            self.is_over = False

        def after_fit(self, learn):
            self.is_over = True
            learn.validate()

    watch = Watch()
    make(Cancel(), watch).fit(2)
    assert [epoch for epoch, *_ in watch.seen] == [0]


def test_after_a_fit_that_was_cut_short_nothing_counts():
    class Stop(Callback):
        def after_batch(self, learn):
            if learn.epoch == 1:
                raise CancelFitException

    watch = Watch()
    learn = make(Stop(), watch)
    learn.fit(3)
    learn.remove_cb(learn.cbs[0])
    learn.validate()
    assert [epoch for epoch, *_ in watch.seen] == [0]


def test_a_callback_that_is_added_in_the_middle_of_a_pass_waits_for_the_next_fit():
    class Add(Callback):
        def after_batch(self, learn):
            if watch not in learn.cbs:
                learn.add_cb(watch)

    watch = Watch()
    learn = make(Add())
    learn.fit(2)
    assert watch.seen == []
    learn.fit(1)
    assert [epoch for epoch, *_ in watch.seen] == [2]


def test_a_range_test_is_left_alone():
    watch = Watch("loss", "train")
    learn = make(watch)
    learn.fit(1, cbs=LRFinderCallback(n=5))
    assert watch.seen == []
    learn.fit(1)
    assert len(watch.seen) == 1


@pytest.mark.parametrize("loader", ["valid", "valid2", "trian", "test"])
def test_a_loader_that_does_not_exist_is_an_error_before_the_first_batch(loader):
    learn = make(Watch(loader=loader), names=("train", "valid3"))
    with pytest.raises(ValueError, match=f"`loader` must be one of 'train', 'valid3', got '{loader}'"):
        learn.fit(1)
    assert n_passes(learn) == 0


@pytest.mark.parametrize(
    ("metric", "hint"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ("Accuracy", "did you mean 'accuracy'"),
        ("los", "did you mean 'loss'"),
        ("f1", "add it to a MetricsCallback"),
    ],
)
def test_a_metric_that_does_not_exist_is_an_error_before_the_first_batch(metric, hint):
    learn = make(MetricsCallback(accuracy), BestModelCallback(metric))
    match = rf"`metric` must be one that is measured on loader 'valid' \(loss, accuracy\), got '{metric}'; {hint}"
    with pytest.raises(ValueError, match=match):
        learn.fit(1)
    assert n_passes(learn) == 0


@pytest.mark.parametrize("metric", ["acuracy", "Loss"])
def test_a_typing_error_is_found_at_once_also_where_something_may_log(metric):
    learn = make(MetricsCallback(accuracy), LogScore(), Watch(metric), cls=Log)
    with pytest.raises(ValueError, match=f"got '{metric}'; did you mean"):
        learn.fit(1)
    assert n_passes(learn) == 0


def test_on_an_infer_loader_there_is_no_loss():
    learn = make(LogScore(), MetricsCallback(accuracy), Watch(loader="infer"), names=("train", "infer"))
    with pytest.raises(ValueError, match=r"loader 'infer' \(none\), got 'loss'"):
        learn.fit(1)
    assert n_passes(learn) == 0
    watch = Watch("score", "infer")
    make(LogScore(), watch, names=("train", "infer")).fit(2)
    assert [value for _, value, _ in watch.seen] == [10.0, 11.0]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"cbs": [LogScore()]},
        {"cbs": [LambdaCallback(after_batch=lambda learn: learn.log(score=1.0))]},
        {"cls": Log},
    ],
    ids=["callback", "lambda", "learner"],
)
def test_where_something_may_log_it_is_an_error_at_the_end_of_the_first_pass(kwargs):
    cls, cbs = kwargs.get("cls", Learner), kwargs.get("cbs", [])
    learn = make(*cbs, BestModelCallback("f1", mode="max"), names=("train", "valid", "valid2"), cls=cls)
    name = "loss_2" if cls is Log else "score"
    match = rf"measured on loader 'valid' \((loss, {name}|{name}, loss)\), got 'f1'; add it"
    with pytest.raises(LearnerError, match=match):
        learn.fit(1)
    assert [dl.n for dl in learn.dls.values()] == [1, 1, 0]


def test_a_logged_name_may_be_like_another():
    keep = BestModelCallback("loss_2", mode="min")
    learn = make(keep, cls=Log)
    learn.fit(2)
    assert keep.best.value == min(learn.history.to_dict()["valid/loss_2"])


def test_a_metric_that_a_later_pass_lacks_is_an_error_and_not_the_old_value():
    once = LambdaCallback(after_batch=lambda learn: learn.log(score=1.0) if learn.epoch == 0 else None)
    watch = Watch("score")
    with pytest.raises(LearnerError, match=r"loader 'valid' \(loss\), got 'score'"):
        make(once, watch).fit(2)
    assert len(watch.seen) == 1


@pytest.mark.parametrize("mode", ["max ", "minimum", 1])
def test_a_mode_is_min_or_max(mode):
    with pytest.raises(ValueError, match=r"`mode` must be 'min' or 'max', got"):
        Watch(mode=mode)


@pytest.mark.parametrize("name", ["metric", "loader"])
def test_names_are_strings(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a name, as in `learn.metrics`, got"):
        Watch(**{name: accuracy})


# -- going on from a checkpoint ----------------------------------------------------------------------------------------


class Follow(Monitor):
    """Keep the best, and all that was handed on."""

    def __init__(self, metric="loss", loader="valid", mode="min"):
        super().__init__(metric, loader, mode)
        self.seen = []

    def before_fit(self, learn):
        super().before_fit(learn)
        self.seen = []

    def _see(self, learn, now):
        self.seen.append(list(now))
        if self._is_better(now, self.best):
            self.best = now

    def state_dict(self):
        return {**super().state_dict(), "seen": self.seen}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.seen = state["seen"]


def following(cbs, **kwargs):
    return tiny_learner([Follow(**kwargs), *cbs])


def test_what_is_followed_goes_on_from_every_batch(tmp_path):
    whole, gone_on = resumed_from_each(following, 3, tmp_path)
    for learn in gone_on + resumed_from_each_validation(following, 3, tmp_path):
        assert_equal_runs(learn, whole)
        assert learn.cbs[0].seen == whole.cbs[0].seen
        assert learn.cbs[0].best == whole.cbs[0].best
        assert type(learn.cbs[0].best) is Best
    assert [epoch for epoch, _, _ in whole.cbs[0].seen] == [0, 1, 2]


def test_without_a_best_epoch_there_is_none_to_go_on_from():
    follow = Follow()
    follow.best = Best(0, 1.0, "valid/loss")
    follow.load_state_dict(Follow().state_dict())
    assert follow.best is None


def test_a_checkpoint_that_follows_something_else_is_refused(tmp_path):
    stopped(following, 2, 2, tmp_path)
    match = "`loader` is 'train' here, 'valid' saved of callback Follow; `mode` is 'max' here, 'min' saved of callback"
    with pytest.raises(LearnerError, match=match):
        resumed(lambda cbs: following(cbs, loader="train", mode="max"), 2, tmp_path)


# -- which values are better, and where the metric is ------------------------------------------------------------------


def constant(preds, target):
    return 0.5


def surprise(preds, target):
    return 0.5


surprise.higher_is_better = False

MODES = {
    "loss": ("min", None),
    "accuracy": ("max", accuracy),
    "top_1_accuracy": ("max", top_k_accuracy(1)),
    "MulticlassAccuracy": ("max", MulticlassAccuracy(2)),
    "surprise": ("min", surprise),
}


@pytest.mark.filterwarnings("ignore:loader .* must give the same batches again")
@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("prefix", ["", "valid/"])
def test_the_mode_follows_from_the_metric(name, prefix, tmp_path):
    mode, metric = MODES[name]
    monitors = [Watch(prefix + name, mode=None), BestModelCallback(prefix + name), EarlyStoppingCallback(prefix + name)]
    keep = CheckpointCallback(tmp_path, metric=prefix + name)
    make(MetricsCallback(*[metric] if metric else []), *monitors, keep).fit(1)
    assert {monitor.mode for monitor in monitors} == {mode}
    assert {monitor.best.metric for monitor in (*monitors[1:], keep)} == {f"valid/{name}"}
    assert keep.best_path is not None


@pytest.mark.parametrize("cls", [BestModelCallback, EarlyStoppingCallback, CheckpointCallback])
def test_where_it_does_not_follow_it_is_asked_for_before_the_first_batch(cls, tmp_path):
    args = [tmp_path] if cls is CheckpointCallback else []
    learn = make(MetricsCallback(constant), cls(*args, metric="constant"))
    with pytest.raises(ValueError, match="`mode` must be 'min' or 'max' for 'constant', which does not say which"):
        learn.fit(1)
    assert n_passes(learn) == 0
    assert cls(*args, metric="constant", mode="max").metric == "constant"


def test_a_metric_of_one_loader_and_the_name_of_another_is_an_error():
    learn = make(Watch("valid/loss", "valid2"), names=("train", "valid", "valid2"))
    with pytest.raises(ValueError, match="`metric` must be of loader 'valid2', got 'valid/loss'"):
        learn.fit(1)


def test_a_metric_may_have_a_slash_in_its_name():
    class LogPart(Callback):
        def after_batch(self, learn):
            learn.log(**{"iou/car": 0.5})

    make(LogPart(), watch := Watch("iou/car")).fit(1)
    assert watch.seen == [(0, 0.5, "valid/iou/car")]


def test_the_best_accuracy_is_restored_without_a_mode():
    """Right after the first epoch, wrong after the second: steps of a loss that grows on purpose."""
    keep = BestModelCallback("accuracy", restore=True)
    data = [(torch.ones(4, 2), torch.tensor([1, 1, 1, 0]))]
    learn = Learner(
        nn.Linear(2, 2), (data, data), lambda preds, y: preds[:, 1].mean(), cbs=[MetricsCallback(accuracy), keep]
    )
    with torch.no_grad():
        learn.model.weight.zero_()
        learn.model.bias.copy_(torch.tensor([0.0, 0.5]))
    learn.fit(4)
    assert learn.history.to_dict()["valid/accuracy"] == [0.75, 0.25, 0.25, 0.25]
    assert learn.best == (0, 0.75, "valid/accuracy")
    assert learn.validate()["accuracy"] == 0.75


def test_what_was_derived_is_the_same_before_and_in_a_fit():
    learn = make(BestModelCallback("valid/loss"))
    learn.fit(1)
    fresh = BestModelCallback("valid/loss")
    assert fresh.differences(learn.cbs[0].state_dict()) == []
    assert BestModelCallback("valid/loss", mode="max").differences(learn.cbs[0].state_dict()) != []


@pytest.mark.parametrize(
    ("row", "best", "expected"),
    [
        ({"epoch": 3, "valid/loss": 0.5}, None, Best(3, 0.5, "valid/loss")),
        ({"epoch": 3, "valid/loss": 0.5}, Best(1, 0.6, "valid/loss"), Best(3, 0.5, "valid/loss")),
        ({"epoch": 3, "valid/loss": 0.5}, Best(1, 0.5, "valid/loss"), None),
        ({"epoch": 3, "valid/loss": float("nan")}, None, None),
        ({"epoch": 3, "train/loss": 0.5}, None, None),  # no validation in this epoch
    ],
)
def test_a_row_of_the_history_is_compared_with_the_best(row, best, expected):
    assert Watch().better_in(row, best) == expected


def test_a_row_without_the_metric_names_those_it_has():
    row = {"epoch": 0, "valid/loss": 1.0, "valid/accuracy": 0.5}
    with pytest.raises(LearnerError, match=r"\(loss, accuracy\), got 'acuracy'; did you mean 'accuracy'"):
        Watch("acuracy").better_in(row, None)
