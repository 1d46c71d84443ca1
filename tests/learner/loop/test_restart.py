"""A fit that ends and goes on from a checkpoint, because a callback has asked for it."""

import pytest

from callbacks import CheckpointCallback
from learner import Callback
from learner.checkpoint.folder import read_newest
from learner.checkpoint.resume import Resumption
from learner.errors import RestartFitException
from learner.loop.restart import Restart
from tests.resuming import assert_equal_runs, seed_all, tiny_learner


class Again(Callback):
    """Ask for another start at some batches, each once."""

    def __init__(self, folder, steps):
        self.folder, self.steps, self.ended_by = folder, list(steps), []

    def after_batch(self, learn):
        if learn.training and learn.n_steps in self.steps:
            self.steps.remove(learn.n_steps)
            raise RestartFitException(lambda: Resumption(*read_newest(self.folder), is_told=False))

    def cleanup_fit(self, learn):
        self.ended_by.append(type(learn.ended_by).__name__)


@pytest.mark.parametrize("length", [{"n_epochs": 3}, {"steps": 14}], ids=["epochs", "steps"])
def test_a_fit_that_was_started_again_ends_as_one_that_was_not(tmp_path, length):
    """Several times, in the middle of a pass and at its end, with callbacks for this fit alone: the same bits."""
    plain = tiny_learner([CheckpointCallback(tmp_path / "plain", every=2)])
    seed_all(3)
    plain.fit(**length)
    learn = tiny_learner([])
    again = Again(tmp_path / "run", [3, 4, 6, 13])
    seed_all(3)
    learn.fit(**length, cbs=[CheckpointCallback(tmp_path / "run", every=2), again])
    assert_equal_runs(learn, plain)
    assert again.ended_by == ["RestartFitException"] * 4 + ["NoneType"]
    assert (again.steps, learn.cbs, learn.in_sandbox) == ([], (), False)


def test_other_errors_are_not_held_back():
    with pytest.raises(ZeroDivisionError), Restart() as restart:
        raise ZeroDivisionError
    assert restart.find is None
