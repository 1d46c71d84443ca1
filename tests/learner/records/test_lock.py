"""The lock of a run: as often as it is asked for, and with leftovers removed by who takes it."""

import pytest

from learner import LearnerError
from learner.records.lock import RunLock


def test_it_is_given_back_by_the_last_who_holds_it(tmp_path):
    mine, other = RunLock(tmp_path, "run.json"), RunLock(tmp_path, "run.json")
    with mine.hold():
        with mine.hold():
            mine.acquire()
        mine.release()
        with pytest.raises(LearnerError, match="is being written to by another part of this program"):
            other.acquire()
    with other.hold():
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(LearnerError, match="none` must be a file that can be written"):
        RunLock(tmp_path / "none", "run.json").acquire()


def test_what_is_half_written_goes_once(tmp_path):
    lock = RunLock(tmp_path, "run.json")
    left = tmp_path / "run.json.1-0123456789abcdef.tmp"
    for is_there in (False, True):
        left.touch()
        with lock.hold():
            assert left.exists() is is_there
