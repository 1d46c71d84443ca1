"""A rewind works with other observers than the training had, and with those that it had."""

import pytest
import torch
from torch import nn

from callbacks import (
    ActivationStats,
    CheckpointCallback,
    CollectCallback,
    GradientStats,
    MetricsCallback,
    ProgressCallback,
    RecorderCallback,
    RunCallback,
    SelfCheckCallback,
    accuracy,
)
from learner import Callback, LearnerError
from learner.records import Run
from tests.resuming import tiny_learner


def total_of(batch, output):
    return {"total": batch[0].sum(dim=1).numpy()}


def observers(folder):
    """Return callbacks that only observe, some of them not called always, all but one of which keep something."""
    run = Run.open(folder / "run") if (folder / "run" / "run.json").exists() else Run.create(folder / "run")
    often = GradientStats(every=2)
    cbs = [RunCallback(run), CollectCallback(total_of, run=run), RecorderCallback(loss=lambda learn: learn.loss)]
    cbs += [ActivationStats(), often, MetricsCallback(accuracy), ProgressCallback()]
    return [*cbs, RecorderCallback(lr=lambda learn: learn.opt.param_groups[0]["lr"]), SelfCheckCallback("3 steps")]


class EveryFourth(Callback):
    """No observer: it halves the rate in every fourth batch."""

    every = 4
    n = 0
    state = ("n",)

    def after_batch(self, learn):
        self.n += 1
        learn.opt.param_groups[0]["lr"] *= 0.5


def learner(folder, *cbs):
    return tiny_learner([CheckpointCallback(folder / "c", every=5), EveryFourth(), *cbs])


@pytest.mark.parametrize(("then_are", "now_are"), [(True, False), (False, True), (True, True)])
def test_callbacks_that_only_observe_may_be_there_or_not(tmp_path, then_are, now_are):
    """From the middle of a pass; who trains and is not called always stays in step."""
    whole = learner(tmp_path, *(observers(tmp_path) if then_are else []))
    whole.fit(3)
    learn = learner(tmp_path, *(observers(tmp_path) if now_are else []))
    if now_are:
        learn.remove_cb(learn.cbs[4])  # one is away in any case
    with learn.rewind(tmp_path / "c", step=13) as then:
        then.advance(5)
        assert then.is_over
        assert learn.cbs[1].n == whole.cbs[1].n
        assert all(map(torch.equal, learn.model.parameters(), whole.model.parameters()))


def test_observers_that_are_made_as_they_were_go_on_with_what_they_kept(tmp_path):
    def cbs():
        return [RecorderCallback(loss=lambda learn: learn.loss), MetricsCallback(accuracy)]

    whole = learner(tmp_path, *cbs())
    whole.fit(3)
    learn = learner(tmp_path, *cbs())
    with learn.rewind(tmp_path / "c", step=13) as then:
        then.advance(5)
        assert learn.cbs[2].values == whole.cbs[2].values
        assert learn.history.to_dict() == whole.history.to_dict()


def test_who_trains_at_other_times_is_refused(tmp_path):
    learner(tmp_path, *observers(tmp_path)).fit(3)
    learn = learner(tmp_path)
    learn.cbs[1].every = 3
    with (
        pytest.raises(LearnerError, match=r"callbacks that are not always called are .*EveryFourth every 3 batches"),
        learn.rewind(tmp_path / "c", step=13),
    ):
        raise AssertionError


def test_a_callback_of_another_kind_is_an_observer_if_it_says_so(tmp_path):
    class Norm:
        is_observer = True
        norms = ()

        def after_step(self, learn):
            self.norms = (*self.norms, nn.utils.get_total_norm(learn.model.parameters()))

    learner(tmp_path).fit(3)
    learn = learner(tmp_path, norm := Norm())
    with learn.rewind(tmp_path / "c", step=13) as then:
        then.advance(2)
        assert len(norm.norms) == 3 + 2  # from the checkpoint of step 10 on
