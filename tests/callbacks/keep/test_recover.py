"""A fit that goes back by itself where the loss jumps, and leaves out what made it jump."""

import html

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback, CheckpointCallback, ClipGradientCallback, RecoverCallback, RunCallback
from learner import Callback, CancelBatchException, Learner, LearnerError, Loaders
from learner.checkpoint.losses import LossFile
from learner.records import Run
from learner.replay import lr
from tests.resuming import assert_equal_runs, seed_all


def learner(cbs, bad=(), value=1e3):
    """Return a learner with 30 batches of 2 an epoch in their order; of some the label is far out."""
    seed_all(0)
    x = torch.linspace(-1, 1, 60)[:, None]
    y = 2 * x
    for i in bad:
        y[2 * i] = value
    dls = Loaders.from_arrays(valid=(x, y), batch_size=2)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 1))
    return Learner(model, {"train": dls["valid"]}, nn.functional.mse_loss, 0.02, torch.optim.Adam, cbs)


class LeaveOut(Callback):
    """Leave batches out, by their number over all epochs."""

    order = 50

    def __init__(self, batches):
        self.batches, self.n = batches, -1

    def before_batch(self, learn):
        self.n += 1
        if self.n in self.batches:
            raise CancelBatchException


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_ends_as_a_fit_that_never_saw_the_batch(tmp_path, accumulate, capsys):
    """In each epoch batch 27 jumps: three times back, to the last bit."""
    more = [AccumulateCallback(accumulate)] if accumulate > 1 else []
    recover = RecoverCallback(spike=10)
    learn = learner([CheckpointCallback(tmp_path / "run", every=4), recover, *more], bad=[27])
    seed_all(1)
    learn.fit(3)
    plain = learner([CheckpointCallback(tmp_path / "plain"), LeaveOut([27, 57, 87]), *more], bad=[27])
    seed_all(1)
    plain.fit(3)
    texts = [row.pop("recovered") for row in learn.history.rows]
    assert_equal_runs(learn, plain)
    assert [text.split(" (step")[0].split(" in ")[1] for text in texts] == [f"batch 27 of epoch {n}" for n in range(3)]
    assert [(each.n_batches, each.epoch, each.i) for each in recover.recoveries] == [
        (27, 0, 27),
        (57, 1, 27),
        (87, 2, 27),
    ]
    assert recover.recoveries[0].loss > 1e5
    said = capsys.readouterr().out
    assert said.count("recover: the loss was ") == 3
    assert "in batch 27 of epoch 2 (step " in said


def test_a_loss_that_is_not_finite_is_left_out_from_the_first_batch_on(tmp_path):
    recover = RecoverCallback()
    learn = learner([CheckpointCallback(tmp_path, every=3, keep="all"), recover], bad=[2], value=float("nan"))
    with pytest.warns(RuntimeWarning, match="the weights hold NaN"):  # of which there is no checkpoint
        learn.fit(1)
    assert [each.i for each in recover.recoveries] == [2]
    assert learn.n_steps == 29
    assert all(p.isfinite().all() for p in learn.model.parameters())


def test_a_change_is_made_at_the_checkpoint_and_lasts_to_the_end_of_the_fit(tmp_path):
    """A rate that was halved from the last checkpoint before the batch on."""
    rates = []

    class See:
        def around_step(self, learn, action):
            handle = learn.opt.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
            action()
            handle.remove()

    change = lr(0.5)
    recover = RecoverCallback(spike=10, change=change)
    learn = learner([CheckpointCallback(tmp_path, every=10), recover], bad=[27])
    with pytest.raises(LearnerError, match=r"must not jump more than 3 times, `most`.*\n.*: changed by lr x 0.5.*\n"):
        learn.fit(1, cbs=See())
    assert [each.i for each in recover.recoveries] == [27, 27, 27]
    assert [cb for cb in learn.cbs if type(cb).__name__ == "_Rate"] == []
    assert min(rates) == pytest.approx(0.02 / 8)


def test_it_ends_with_what_it_knows_when_it_was_too_often(tmp_path):
    learn = learner([CheckpointCallback(tmp_path, every=4), RecoverCallback(spike=10, most=1)], bad=[25, 28])
    with pytest.raises(
        LearnerError, match=r"must not jump more than 1 times, `most`; (.|\n)*batch 25 (.|\n)*batch 28 .*too often"
    ):
        learn.fit(1)


def test_a_run_that_was_killed_goes_on_without_the_batch(tmp_path):
    class StopAt:
        order = 100  # so that no other training is one without it

        def after_batch(self, learn):
            if learn.i == 29 and learn.n_steps < 30:
                raise ZeroDivisionError

    def make(name, *cbs):
        return learner([CheckpointCallback(tmp_path / name, every=4), RecoverCallback(spike=10), *cbs], bad=[22])

    whole = make("whole")
    seed_all(1)
    whole.fit(1)
    stopped = make("stopped", StopAt())
    seed_all(1)
    with pytest.raises(ZeroDivisionError):
        stopped.fit(1)
    learn = make("stopped")
    learn.fit(1, resume=True)
    assert_equal_runs(learn, whole)
    assert learn.cbs[1].recoveries == whole.cbs[1].recoveries
    with learn.rewind(tmp_path / "stopped", step=25) as then:
        assert then.i == 26  # one was left out
        assert then.run() == whole_loss(whole, then)


def whole_loss(learn, then):
    return LossFile(learn.cbs[0].path).read()[then.i]


def test_the_run_has_it_on_record(tmp_path):
    run = Run.create(tmp_path / "run")
    cbs = [CheckpointCallback(tmp_path / "checkpoints", every=4), RecoverCallback(spike=10), RunCallback(run)]
    learner(cbs, bad=[22]).fit(1)
    found = Run.open(tmp_path / "run").info
    assert [each["i"] for each in found["recoveries"]] == [22]
    assert (found["status"], found["error"]) == ("finished", None)
    page = run.report().read_text()
    assert "batch 22 of epoch 0: loss " in page
    assert f"with learn.rewind({str(tmp_path / 'checkpoints')!r}, epoch=0, i=22)" in html.unescape(page)


def test_a_loss_that_is_not_finite_is_on_record_in_the_run(tmp_path):
    run = Run.create(tmp_path / "run")
    cbs = [CheckpointCallback(tmp_path / "c", every=1, keep="all"), RecoverCallback(), RunCallback(run)]
    with pytest.warns(RuntimeWarning, match="the weights hold NaN"):
        learner(cbs, bad=[2], value=float("nan")).fit(1)
    assert [(each["i"], each["loss"]) for each in Run.open(tmp_path / "run").info["recoveries"]] == [(2, "nan")]
    assert "batch 2 of epoch 0: loss nan, and " in run.report().read_text()


def test_a_course_without_a_jump_is_left_alone(tmp_path):
    plain, watched = (
        learner([CheckpointCallback(tmp_path / name), *cbs]) for name, cbs in (("a", []), ("b", [RecoverCallback(8)]))
    )
    for learn in (plain, watched):
        seed_all(1)
        learn.fit(2)
    assert_equal_runs(plain, watched)
    assert watched.cbs[1].recoveries == []


def test_a_second_fit_begins_clean(tmp_path):
    recover = RecoverCallback(spike=10)
    learn = learner([CheckpointCallback(tmp_path, every=4), recover], bad=[27])
    learn.fit(1)
    first = recover.recoveries
    learn.fit(1)
    assert len(first) == 1
    assert [(each.n_batches, each.epoch) for each in recover.recoveries] == [(57, 1)]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"spike": 0}, ValueError, "`spike` must be a finite number above 0, got 0"),
        ({"spike": "4"}, TypeError, "`spike` must be a number, got '4'"),
        ({"most": 0}, ValueError, "`most` must be at least 1, got 0"),
        ({"most": 1.5}, TypeError, "`most` must be a whole number"),
        ({"change": 3}, TypeError, "`change` must be a function of the learner, got 3"),
        ({"change": ClipGradientCallback}, TypeError, "`change` must be a function of the learner"),
    ],
)
def test_arguments_that_cannot_be(arguments, error, words):
    with pytest.raises(error, match=words):
        RecoverCallback(**arguments)


def test_without_checkpoints_it_says_what_it_has_seen():
    with pytest.raises(
        LearnerError, match="must have a CheckpointCallback to go back by; add one: the loss was nan in"
    ):
        learner(RecoverCallback(), bad=[2], value=float("nan")).fit(1)


def test_without_a_checkpoint_before_the_batch_it_says_so(tmp_path):
    learn = learner([CheckpointCallback(tmp_path), RecoverCallback()], bad=[2], value=float("nan"))
    with pytest.raises(LearnerError, match="where there is none; train with a CheckpointCallback"):
        learn.fit(1)
