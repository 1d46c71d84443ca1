"""A training of one process agrees with itself at once."""

import pytest

from learner import Callback, CancelFitException, Learner
from learner.ranks.job import ALONE, Job


def test_one_process_is_the_first_of_one_and_always_there():
    job = Job()
    assert (job.rank, job.world, job.is_first, job.can_agree) == (0, 1, True, True)


def test_what_all_give_is_what_this_one_gives():
    given = [1]
    (mine,) = Job().gather(given, at="a test")
    assert mine is given  # nothing is copied or sent


def test_the_first_makes_it_and_its_error_is_its_own():
    assert Job().from_first(lambda: "made", at="a test") == "made"
    with pytest.raises(KeyError, match="as it is"):
        Job().from_first(lambda: {}["as it is"], at="a test")


def test_there_is_nothing_to_compare_and_nobody_to_tell():
    def never():
        raise AssertionError("nobody asks")

    Job().compare(never, at="a test")
    cancel = CancelFitException()
    assert Job().tell(None, cancel) is cancel
    Job().begin_fit(None)
    with Job().leading():
        pass


def test_a_learner_without_a_callback_that_knows_of_others_trains_alone(make_learner):
    assert make_learner().job is ALONE


def test_a_callback_brings_the_job_and_takes_it_along(make_learner):
    class Knows(Callback):
        job = Job()

    knows = Knows()
    learn: Learner = make_learner(knows)
    assert learn.job is Knows.job
    learn.remove_cb(knows)
    assert learn.job is ALONE


def test_two_who_know_of_others_are_refused(make_learner):
    class Knows(Callback):
        def __init__(self):
            self.job = Job()

    with pytest.raises(ValueError, match="one callback that knows the processes of a job, got Knows and Knows"):
        make_learner([Knows(), Knows()])
