"""Trackio's own: its names, and what it refuses. What it has of a fit is in `test_logger.py`."""

import pytest

from callbacks import TrackioCallback
from callbacks.loggers.trackio import trackio_name
from learner import LearnerError


def test_names_that_are_its_own_become_others():
    assert [trackio_name(name) for name in ("step", "__a", "train/loss")] == ["metric_step", "metric___a", "train/loss"]


@pytest.mark.parametrize(("project", "config"), [("registry-x", {}), ("digits", {"_hidden": 1})])
def test_what_it_refuses_is_an_error_before_training(make_learner, project, config):
    learn = make_learner(TrackioCallback(project, config=config, auto_log_cpu=False))
    with pytest.raises(LearnerError, match="`TrackioCallback` must be able to begin its run, got ValueError: "):
        learn.fit(1)
    assert learn.n_steps == 0


def test_whether_to_resume_is_not_to_be_said():
    with pytest.raises(TypeError, match="`resume` must be left out"):
        TrackioCallback("digits", resume="must")


def test_a_folder_that_cannot_be_written_to_is_an_error_before_training(make_learner, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "file" / "trackio")
    learn = make_learner(TrackioCallback("digits", auto_log_cpu=False))
    with pytest.raises(LearnerError, match="`TrackioCallback` must be able to begin its run, got NotADirectoryError"):
        learn.fit(1)
    assert learn.n_steps == 0
