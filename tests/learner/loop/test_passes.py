"""How a pass begins and ends, and what of its batches counts."""

import pytest

from learner import Callback, CancelBatchException, LearnerError
from learner.loop.passes import PASS_STATE


def test_a_pass_within_a_pass_gives_back_the_state_of_the_one_around_it(make_learner):
    class Looks(Callback):
        def after_loss(self, learn):
            if learn.training and learn.i == 1:
                before = {name: getattr(learn, name) for name in PASS_STATE}
                learn.validate()
                assert all(getattr(learn, name) is before[name] for name in PASS_STATE)

    make_learner(Looks()).fit(1)


def test_means_are_weighted_by_samples_and_leave_out_what_was_cancelled(make_learner):
    class Logs(Callback):
        def after_loss(self, learn):
            learn.log(i=float(learn.i))
            if learn.i == 1:
                raise CancelBatchException

    learn = make_learner(Logs())
    learn.fit(1)
    assert learn.metrics["train"]["i"] == 2 * 8 / (16 + 8)  # batches of 16, 16 (left out) and 8
    assert learn.n_samples == 24


def test_values_outside_of_a_pass_are_refused(make_learner):
    with pytest.raises(LearnerError, match="`log` must be called while a pass runs, and none does"):
        make_learner().log(a=1.0)
