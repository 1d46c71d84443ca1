"""A process of torchrun that is killed, and a torchrun that is told to end: the training goes on bit for bit.

Many of them: `python -m tests.kill ranks`.
"""

import pytest

from learner.ranks import launch
from tests.kill.ranks import Strike, torchrun, train

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What comes of a training that nobody strikes."""
    return launch(train, 2, tmp_path_factory.mktemp("whole"))


def test_a_job_goes_on_when_a_process_is_killed(whole, tmp_path):
    outcome = torchrun(2, tmp_path, [Strike(attempt=0, rank=1, batch=14)], max_restarts=1)
    assert outcome.status == 0, outcome.output
    assert outcome.digest == whole
    assert outcome.output.count("resume: goes on") == 1


def test_a_job_that_is_told_to_end_writes_one_checkpoint_and_goes_on(whole, tmp_path):
    strike = Strike(attempt=0, rank=0, batch=14, is_kill=False)
    outcome = torchrun(2, tmp_path, [strike], max_restarts=0)
    assert outcome.status != 0
    assert outcome.digest is None
    assert outcome.output.count("a checkpoint is in ") == 1, outcome.output
    assert launch(train, 2, tmp_path) == whole
