"""What a callback would have recorded, had it been there."""

from functools import partial

import pytest
import torch

from callbacks import (
    AccumulateCallback,
    ActivationStats,
    CheckpointCallback,
    GradientStats,
    MetricsCallback,
    ProgressCallback,
    RecorderCallback,
    SchedulerCallback,
    accuracy,
)
from learner import Callback, LearnerError
from learner.checkpoint.losses import LossFile
from tests.resuming import differing, seed_all, tiny_learner
from tests.rewinding import listing, state_of


def recorder():
    return RecorderCallback(
        loss=lambda learn: learn.loss,
        lr=lambda learn: learn.opt.param_groups[0]["lr"],
        norm=lambda learn: learn.model[0].weight.grad.norm(),
    )


def training(folder, cbs=()):
    schedule = SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05))
    own = [CheckpointCallback(folder), schedule, MetricsCallback(accuracy)]
    return tiny_learner([*own, *cbs])


def test_it_records_what_it_would_have_recorded_and_changes_nothing(tmp_path, capsys):
    """Over an end of an epoch and a validation; every value to the last bit."""
    watch = recorder()
    stats = ActivationStats(), GradientStats()
    with_them = training(tmp_path / "with", [watch, *stats])
    seed_all(5)
    with_them.fit(3)
    learn = training(tmp_path / "run")
    seed_all(5)
    learn.fit(3)
    before, files = state_of(learn), listing(tmp_path)
    late, late_stats = recorder(), (ActivationStats(), GradientStats())
    learn.hindsight(tmp_path / "run", [late, *late_stats], slice(8, 15))
    assert late.values == {name: values[8:15] for name, values in watch.values.items()}
    name = next(iter(late_stats[0].layers))
    means = [each.layer(name, "train").mean for each in (late_stats[0], stats[0])]
    assert torch.equal(means[0], means[1][8:15])
    assert differing(state_of(learn), before) == []
    assert listing(tmp_path) == files
    assert capsys.readouterr().out == ""


def test_without_an_end_it_goes_to_the_end_of_the_fit(tmp_path):
    training(tmp_path).fit(3)
    learn, late = training(tmp_path), recorder()
    learn.hindsight(tmp_path, late, slice(14, None))
    assert len(late.values["loss"]) == 4
    assert learn.n_steps == 0


def test_it_counts_steps_not_batches(tmp_path):
    def learner():
        return tiny_learner([CheckpointCallback(tmp_path, keep="all"), AccumulateCallback(2)])

    learner().fit(3)
    late = RecorderCallback(loss=lambda learn: learn.loss)
    learner().hindsight(tmp_path, late, slice(None, 5))
    assert late.values["loss"] == LossFile(tmp_path).read()[:10].tolist()


def test_callbacks_that_are_called_now_and_then_count_from_the_beginning_of_the_part(tmp_path):
    class Seldom(Callback):
        every, loaders = 3, "train"

        def __init__(self):
            self.steps = []

        def after_batch(self, learn):
            self.steps.append(learn.n_steps)

    training(tmp_path).fit(3)
    seldom = Seldom()
    training(tmp_path).hindsight(tmp_path, [seldom, ProgressCallback()], slice(8, 15))
    assert seldom.steps == [11, 14]


def test_it_says_where_it_differs_from_the_record(tmp_path):
    training(tmp_path).fit(3)
    file = LossFile(tmp_path)
    losses = file.read().tolist()
    losses[10] += 1
    file.write(0, losses)
    training(tmp_path).hindsight(tmp_path, recorder(), slice(12, 14))  # from the checkpoint after it
    losses[13] += 1
    file.write(0, losses)
    with pytest.warns(RuntimeWarning, match="the loss differs from batch 1 of epoch 2 on"):
        training(tmp_path).hindsight(tmp_path, recorder(), slice(13, 15))


@pytest.mark.parametrize(
    ("cbs", "steps", "error", "words"),
    [
        ([], slice(8, 12), ValueError, "`cbs` must hold a callback at least"),
        ([recorder()], (8, 12), TypeError, r"`steps` must be a slice, got \(8, 12\)"),
        ([recorder()], slice(8, 12, 2), ValueError, "`steps` must be one after the other, got every 2"),
        ([recorder()], slice(-4, 12), ValueError, "`steps.start` must be at least 0, got -4"),
        ([recorder()], slice(8, 7.5), TypeError, "`steps.stop` must be a whole number"),
        ([recorder()], slice(8, 8), ValueError, "`steps` must hold a step at least, got 8 to 8"),
        ([recorder()], slice(2, 8), LearnerError, "`steps.start=2` must not be before the first checkpoint"),
        ([recorder()], slice(8, 19), LearnerError, "`steps` must end within the fit, which ends before 19 steps"),
        ([recorder()], slice(50, 60), LearnerError, "`steps.start=50` must be within the fit"),
    ],
)
def test_what_cannot_be_is_one_error(tmp_path, cbs, steps, error, words):
    training(tmp_path).fit(3)
    learn = training(tmp_path)
    before = state_of(learn)
    with pytest.raises(error, match=words):
        learn.hindsight(tmp_path, cbs, steps)
    assert differing(state_of(learn), before) == []
