"""The own ways of W&B: logins, runs that are active. What it has of a fit is in `test_logger.py`."""

import pytest
import wandb

from callbacks import WandbCallback
from learner import LearnerError


def test_without_a_login_it_says_how_to_get_one_before_training(make_learner, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where a login would be
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    learn = make_learner(WandbCallback(project="tests", mode="online", dir=str(tmp_path)))
    with pytest.raises(
        LearnerError, match=r"`WandbCallback` must be able to begin its run, got UsageError: .*wandb login"
    ):
        learn.fit(1)
    assert learn.n_steps == 0


def test_a_run_that_is_active_is_taken_and_left_open(make_learner, tmp_path):
    run = wandb.init(mode="disabled", dir=str(tmp_path))
    try:
        logger = WandbCallback()
        make_learner(logger).fit(1)
        assert logger.run_id == run.id
        assert wandb.run is run
    finally:
        run.finish()


def test_whether_to_resume_is_not_to_be_said():
    with pytest.raises(TypeError, match="`resume` must be left out"):
        WandbCallback(resume="must")
