"""A step that is not made is said, and so is an optimizer that nobody steps."""

from functools import partial

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback, ClipGradientCallback, SchedulerCallback
from learner import Callback, CancelBatchException, CancelStepException, Learner, LearnerError, PostponeStepException


class Raise(Callback):
    def __init__(self, signal, error, at=range(100)):
        self.error, self.at = error, at
        setattr(self, signal, self.hear)

    def hear(self, learn):
        if learn.training and learn.i in self.at:
            raise self.error


def test_a_pass_whose_steps_are_all_put_off_is_said(make_learner):
    learn = make_learner(Raise("after_backward", PostponeStepException))
    with pytest.warns(RuntimeWarning, match="a pass over 'train' made no optimizer step in 3 batches: it was put off"):
        learn.fit(1)
    assert learn.n_steps == 0


@pytest.mark.parametrize(
    ("signal", "error"), [("after_loss", CancelStepException), ("before_batch", CancelBatchException)]
)
def test_what_a_callback_left_out_is_not_told(make_learner, signal, error):
    make_learner(Raise(signal, error)).fit(1)


def test_who_took_over_an_action_is_named(make_learner):
    class Backward(Callback):
        def backward(self, learn):
            pass

    with pytest.warns(RuntimeWarning, match="made no optimizer step.*AccumulateCallback, Backward"):
        make_learner([Backward(), AccumulateCallback(2)]).fit(1)


def test_a_skipped_step_leaves_no_gradient_and_is_counted(make_learner):
    seen = []

    class Look(Callback):
        def after_batch(self, learn):
            if learn.training:
                seen.append([p.grad is None for p in learn.model.parameters()])

    learn = make_learner([Raise("after_backward", CancelStepException, [1]), Look()])
    learn.fit(1)
    assert (learn.n_steps, learn.n_skipped) == (2, 1)
    assert seen == [[True] * 4] * 3


def test_one_infinite_batch_does_not_spoil_the_others(make_learner):
    class SkipInfinite(Callback):
        def after_backward(self, learn):
            if not all(p.grad.isfinite().all() for p in learn.model.parameters()):
                raise CancelStepException

    x, y = torch.randn(10, 8, 4), torch.zeros(10, 8, dtype=torch.int64)
    x[2, 0, 0] = torch.inf
    learn = make_learner(SkipInfinite(), dls={"train": [*zip(x, y, strict=True)]})
    learn.fit(1)
    assert (learn.n_steps, learn.n_skipped) == (9, 1)


def test_a_cancel_when_the_step_is_made_skips_nothing(make_learner):
    learn = make_learner(Raise("after_step", CancelStepException))
    learn.fit(1)
    assert (learn.n_steps, learn.n_skipped) == (3, 0)


def test_skipped_steps_are_in_files_and_a_sandbox_gives_them_back(make_learner, tmp_path):
    learn = make_learner(Raise("after_backward", CancelStepException, [1]))
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    with learn.sandbox():
        learn.fit(1)
    assert learn.n_skipped == 1
    other = make_learner()
    other.load(tmp_path / "learn.pt")
    assert other.n_skipped == 1


class Own(Callback):
    def before_fit(self, learn):
        self.opt = torch.optim.SGD(learn.model.parameters(), lr=0.01)

    def step(self, learn):
        self.opt.step()


class SteppedBySubclass(Learner):
    def step(self):
        torch.optim.SGD(self.model.parameters(), lr=0.01).step()


def subclass(make_learner, dls, cbs):
    return SteppedBySubclass(nn.Linear(4, 3), dls, nn.functional.cross_entropy, cbs=cbs)


@pytest.mark.parametrize("make", [lambda make, dls, cbs: make([Own(), *cbs]), subclass])
@pytest.mark.parametrize(
    ("cbs", "run", "what"),
    [
        ([], lambda learn: learn.fit(1, lr=0.0), "`lr` of `fit`"),
        ([], lambda learn: learn.lr_find(plot=False), "LRFinderCallback"),
        ([ClipGradientCallback(1.0)], lambda learn: learn.fit(1), "ClipGradientCallback"),
        (
            [SchedulerCallback(partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0))],
            lambda learn: learn.fit(1),
            "SchedulerCallback",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_what_acts_on_an_optimizer_that_nobody_steps_is_refused(make_learner, dls, make, cbs, run, what):
    learn = make(make_learner, dls, cbs)
    with pytest.raises(LearnerError, match=rf"{what} must act on the optimizer that trains.*(Own|SteppedBy\w+) owns"):
        run(learn)


def test_an_owner_that_steps_the_optimizer_of_the_learner_is_no_fault(make_learner):
    class Plain(Callback):
        def step(self, learn):
            learn.opt.step()

    learn = make_learner([Plain(), ClipGradientCallback(1.0)])
    learn.fit(2, lr=0.01)
    assert not learn.opt._optimizer_step_post_hooks
    make_learner(Own()).fit(1)  # nor is one of its own where nothing is asked of the learner's


def test_a_step_set_by_hand_is_wrapped_and_stays_when_callbacks_change(make_learner):
    calls = []

    class Wrap(Callback):
        def around_step(self, learn, action):
            calls.append("around")
            action()

    learn = make_learner(Wrap())
    learn.step = lambda: calls.append("by hand")
    learn.fit(1)
    assert calls == ["around", "by hand"] * 3
    calls.clear()
    learn.remove_cb(learn.cbs[0])
    learn.fit(1)
    assert calls == ["by hand"] * 3
    del learn.step
    learn.fit(1)
    assert len(calls) == 3


def test_a_step_set_by_hand_and_an_owner_are_one_error(make_learner):
    learn = make_learner()
    learn.step = lambda: None
    with pytest.raises(ValueError, match=r"`step` must have one owner, got Own and what was set as `learn\.step"):
        learn.fit(1, cbs=Own())
