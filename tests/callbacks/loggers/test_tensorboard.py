"""TensorBoard's own: folders. What it has of a fit is in `test_logger.py`."""

import time

import pytest

from callbacks import TensorBoardCallback
from learner import Callback, LearnerError


def test_a_folder_that_cannot_be_is_an_error_before_training(make_learner, tmp_path):
    (tmp_path / "file").write_text("")
    learn = make_learner(TensorBoardCallback(tmp_path / "file" / "events"))
    with pytest.raises(LearnerError, match="`TensorBoardCallback` must be able to begin its run, got NotADirectoryErr"):
        learn.fit(1)
    assert learn.n_steps == 0


def test_a_file_comes_after_those_that_are_there_in_the_order_of_names(make_learner, tmp_path):
    """TensorBoard reads them in this order; of an earlier one it forgets what a later one goes on from."""
    earlier = tmp_path / f"events.out.tfevents.{int(time.time()):010d}.zzz.9.9"
    earlier.touch()
    make_learner(TensorBoardCallback(tmp_path)).fit(1)
    assert min(tmp_path.glob("events.*")) == earlier


def test_a_full_disk_is_said_once(make_learner, tmp_path, monkeypatch):
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    def fail(*_):
        raise OSError(28, "No space left on device")

    class Fills(Callback):
        def after_step(self, learn):
            monkeypatch.setattr(EventFileWriter, "flush", fail)

    learn = make_learner([TensorBoardCallback(tmp_path), Fills()])
    with pytest.warns(RuntimeWarning, match="`TensorBoardCallback` could not reach .*No space left") as caught:
        learn.fit(2)
    assert len(caught) == 1
    assert len(learn.history) == 2


def test_the_working_folder_may_change(make_learner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = TensorBoardCallback("events")
    monkeypatch.chdir("/")
    make_learner(logger).fit(1)
    assert len(list((tmp_path / "events").iterdir())) == 1
