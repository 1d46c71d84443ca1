"""Call a function in several processes, and what comes back of it."""

import multiprocessing
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from learner import LearnerError
from learner.ranks import launch
from learner.ranks.agreement import OtherProcessError
from learner.ranks.join import joined_job
from tests.ranks import TIMEOUT


class PickyError(Exception):
    """One that pickle cannot make again."""

    def __init__(self, one, another):
        super().__init__(f"{one} and {another}")


def test_it_returns_what_the_first_one_returns_of_what_it_was_given():
    here = torch.arange(3)  # as a function of a notebook has it from a cell before
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")

    def f(a, b):
        here.add_(1)  # of this process alone
        return a + b, here.tolist(), [os.environ[name] for name in names], torch.get_num_threads()

    assert launch(f, 3, 1, 2) == (3, [1, 2, 3], ["0", "0", "3"], 1)
    assert here.tolist() == [0, 1, 2]
    assert "RANK" not in os.environ


def test_only_the_result_of_the_first_has_to_be_one_that_can_be_sent():
    assert launch(lambda: None if os.environ["RANK"] == "0" else lambda: 0, 2) is None
    with pytest.raises(LearnerError, match="what `f` returns must be something that pickle takes: "):
        launch(lambda: lambda: 0, 1)


def test_an_error_comes_back_as_it_was_with_where_it_was():
    def fail():
        if os.environ["RANK"] == "1":
            raise KeyError("of rank 1")

    with pytest.raises(KeyError, match="of rank 1") as caught:
        launch(fail, 2)
    (note,) = caught.value.__notes__
    assert note.startswith("in process 1 of 2:\nTraceback")
    assert 'raise KeyError("of rank 1")' in note


def test_an_error_that_cannot_be_sent_comes_back_as_text():
    def fail():
        raise PickyError(1, 2)

    with pytest.raises(LearnerError, match="PickyError: 1 and 2"):
        launch(fail, 1)


def test_the_error_of_the_one_that_has_failed_counts_not_of_those_that_heard_of_it():
    def fail():
        if os.environ["RANK"] == "0":
            raise OtherProcessError("rank 1 has failed")
        raise ValueError("my own")

    with pytest.raises(ValueError, match="my own"):
        launch(fail, 2)


def test_a_process_that_is_killed_ends_all_and_says_so():
    def fail():
        job = joined_job("step", TIMEOUT)
        if job.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(OtherProcessError, match="another process is gone"):
            job.gather(None, at="a test")

    with pytest.raises(LearnerError, match="process 1 of 2 has ended without a result, with status -9"):
        launch(fail, 2)


def test_processes_may_end_while_it_is_asked_whether_they_have(monkeypatch):
    class Ending:
        exitcode = 3

        def __init__(self, **_):
            self.answers = iter([True])

        def is_alive(self):
            return next(self.answers, False)

        def do_nothing(self, *_):
            pass

        start = join = kill = do_nothing

    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: SimpleNamespace(Process=Ending))
    with pytest.raises(LearnerError, match="process 0 of 2 has ended without a result, with status 3"):
        launch(print, 2)


def test_a_signal_that_ends_all_comes_back():
    def end():
        raise SystemExit(143)

    with pytest.raises(SystemExit, match="143"):
        launch(end, 2)


def test_what_was_to_be_written_is_written_once(capfd):
    sys.stdout.write("before")
    launch(lambda: sys.stdout.write("!"), 2)
    assert capfd.readouterr().out == "before!!"


def test_a_launch_may_follow_another_and_be_in_one():
    def outer():
        joined_job("step", TIMEOUT)
        return dist.get_world_size()

    assert [launch(outer, n) for n in (2, 3)] == [2, 3]
    assert not dist.is_initialized()


@pytest.mark.parametrize("n", [0, -1])
def test_there_is_at_least_one_process(n):
    with pytest.raises(ValueError, match=f"`n` must be at least 1 process, got {n}"):
        launch(print, n)


def test_arguments_of_the_wrong_kind_are_refused():
    with pytest.raises(TypeError, match="`f` must be a function that each process calls, got 2"):
        launch(2, print)
    with pytest.raises(TypeError, match=r"`n` must be a whole number, got 2\.5"):
        launch(print, 2.5)


def test_a_fork_cannot_use_cuda_again(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(LearnerError, match="`launch` must come before anything uses CUDA"):
        launch(print, 2)


def test_a_system_without_fork_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(LearnerError, match="forks processes, got one without; use `torchrun`"):
        launch(print, 2)
