"""The number of steps that a schedule asks for, against what a fit makes of its loaders, windows and epochs."""

from functools import partial

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from callbacks import AccumulateCallback, LambdaCallback, SchedulerCallback
from callbacks.train.schedule_length import count_steps, open_count
from learner import LearnerError


def linear(optimizer, num_warmup_steps, num_training_steps, last_epoch=-1):  # as Hugging Face's
    return LambdaLR(optimizer, lambda step: 1 - step / num_training_steps)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (CosineAnnealingLR, "T_max"),
        (partial(CosineAnnealingLR, T_max=3), None),
        (partial(OneCycleLR, max_lr=0.1), "total_steps"),
        (partial(OneCycleLR, max_lr=0.1, total_steps=3), None),
        (partial(OneCycleLR, max_lr=0.1, epochs=3, steps_per_epoch=4), None),
        (partial(linear, num_warmup_steps=2), "num_training_steps"),
        (partial(StepLR, step_size=3), None),
        (lambda opt, total_steps=5: None, None),
    ],
)
def test_a_count_without_a_value_is_found(make, name):
    assert open_count(make) == name


def test_what_cannot_be_called_with_an_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"called as make\(opt\), got StepLR\(optimizer.*'step_size'; give the rest"):
        open_count(StepLR)


class Counts(LambdaCallback):
    """Count the steps of a schedule when a fit begins."""

    def __init__(self):
        self.n_steps = {}
        super().__init__(before_fit=self.count)

    def count(self, learn):
        self.n_steps = {each: count_steps(learn, each, "total_steps") for each in ("batch", "epoch")}


@pytest.mark.parametrize(
    ("n_epochs", "batches_per_step", "expected"),
    [
        (2, 1, {"batch": 2 * 3, "epoch": 2}),
        (2, 2, {"batch": 2 * 2, "epoch": 2}),  # the last step of a pass has one batch
        (0, 1, {"batch": 1, "epoch": 1}),  # no schedule is made for 0 steps
    ],
)
def test_the_steps_of_a_fit_are_counted(make_learner, n_epochs, batches_per_step, expected):
    counts = Counts()
    learn = make_learner([AccumulateCallback(batches_per_step), counts])
    learn.fit(n_epochs)
    assert counts.n_steps == expected
    assert n_epochs == 0 or learn.n_steps == expected["batch"]


def replace_epochs(make):
    return LambdaCallback(before_fit=lambda learn: setattr(learn, "epochs", make()))


@pytest.mark.parametrize("n", [1, 4])
def test_epochs_that_a_callback_has_replaced_are_counted(make_learner, n):
    schedule = SchedulerCallback(CosineAnnealingLR)
    make_learner([replace_epochs(lambda: range(n)), schedule]).fit(2)
    assert schedule.scheduler.T_max == n * 3


def test_epochs_without_a_length_ask_for_the_count(make_learner):
    learn = make_learner([replace_epochs(lambda: iter(range(2))), SchedulerCallback(CosineAnnealingLR)])
    with pytest.raises(LearnerError, match=r"`T_max` of the schedule must be given, since `learn\.epochs` has no"):
        learn.fit(2)


def test_the_count_of_hugging_face_is_filled_in(make_learner):
    learn = make_learner(SchedulerCallback(partial(linear, num_warmup_steps=2)))
    learn.fit(2)
    assert learn.opt.param_groups[0]["lr"] == 0  # after as many steps as it was told
