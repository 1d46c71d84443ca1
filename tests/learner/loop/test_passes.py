"""How a pass begins and ends, and what of its batches counts."""

import pytest
from torch import nn

from callbacks import CheckpointCallback, LambdaCallback
from learner import Callback, CancelBatchException, CancelEpochException, CancelFitException, LearnerError
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


@pytest.mark.parametrize("cancel", [CancelEpochException, CancelFitException])
@pytest.mark.parametrize(("reason", "said"), [("seen enough", "seen enough"), (None, None)])
def test_a_pass_that_a_cancel_ended_keeps_the_means_of_what_it_saw_and_says_why(make_learner, cancel, reason, said):
    losses = []

    class Stops(Callback):
        def after_batch(self, learn):
            if learn.training:
                losses.append((learn.loss.item(), learn.batch_size))
            if learn.training and learn.i == 1:
                raise cancel(*([reason] if reason else []))

    learn = make_learner(Stops())
    learn.fit(1)
    (first, _), _ = losses  # the batch in which the Cancel came does not count
    assert learn.metrics["train"] == {"loss": pytest.approx(first)}
    assert learn.history.rows[0]["train/loss"] == pytest.approx(first)
    assert learn.history.rows[0]["cut_short"] == f"train: {said or cancel.__name__}"
    assert "cut_short" in repr(learn.history)
    learn.history.plot()


def test_a_pass_that_saw_nothing_before_a_cancel_leaves_no_trace(make_learner):
    class Stops(Callback):
        def before_batch(self, learn):
            raise CancelFitException

    learn = make_learner(Stops())
    learn.fit(1)
    assert (learn.metrics, learn.history.to_dict()) == ({}, {})


def test_a_fit_that_is_ended_between_two_passes_is_not_cut_short(make_learner):
    class Stops(Callback):
        def after_epoch(self, learn):
            raise CancelFitException

    learn = make_learner(Stops())
    learn.fit(1)
    assert list(learn.history.rows[0]) == ["epoch", "train/loss"]


class Hidden(Callback):
    """Carry a state from batch to batch, as a recurrent network does."""

    def __init__(self):
        self.seen = []

    def before_batch(self, learn):
        self.seen.append((learn.dl_name, learn.pass_state.get("h", 0)))
        learn.pass_state["h"] = learn.pass_state.get("h", 0) + 1


def test_what_is_carried_from_batch_to_batch_is_new_in_each_pass_and_given_back_after_one_within(make_learner):
    class Looks(Callback):
        def after_batch(self, learn):
            if learn.training and learn.i == 1:
                learn.validate()

    hidden = Hidden()
    learn = make_learner([hidden, Looks()])
    learn.fit(2)
    within = [("valid", 0), ("valid", 1)]
    assert hidden.seen == [("train", 0), ("train", 1), *within, ("train", 2), *within] * 2
    assert learn.pass_state == {}


def test_a_fit_that_goes_on_in_the_middle_of_a_pass_has_what_was_carried(make_learner, tmp_path, capsys):
    def stop(learn):
        if learn.n_steps == 2:
            raise RuntimeError

    def keeper():
        return CheckpointCallback(tmp_path, every=1)

    with pytest.raises(RuntimeError):
        make_learner([Hidden(), keeper()]).fit(1, cbs=LambdaCallback(after_batch=stop))
    hidden = Hidden()
    make_learner([hidden, keeper()]).fit(1, resume=True)
    assert hidden.seen[0] in [("train", 1), ("train", 2)]


def test_a_model_put_in_for_a_pass_runs_in_its_mode_and_gets_its_flags_back(make_learner):
    average, modes = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), []

    class Average(Callback):
        def before_epoch(self, learn):
            if not learn.training:
                self.raw, learn.model = learn.model, average

        def after_predict(self, learn):
            if not learn.training:
                modes.append([module.training for module in average.modules()])

        def cleanup_epoch(self, learn):
            if not learn.training:
                learn.model = self.raw

    learn = make_learner(Average())
    learn.fit(1)
    assert modes == [[False] * 3] * 2
    assert all(module.training for module in (*average.modules(), *learn.model.modules()))
