"""Join the processes of a job, once in a program, and leave them at its end."""

import os
import socket
from datetime import timedelta

import pytest
import torch.distributed as dist

from learner.ranks.agreement import Ranks
from learner.ranks.environment import Environment
from learner.ranks.job import Job
from learner.ranks.join import join, joined_job, leave
from tests.ranks import TIMEOUT, in_each

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launched(monkeypatch):
    """Return a function that sets the environment that a launcher would."""

    def launched(*values):
        for name, value in zip(NAMES, values, strict=True):
            monkeypatch.setenv(name, str(value))

    return launched


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert type(joined_job("step", TIMEOUT)) is Job
    assert not dist.is_initialized()


def test_one_process_of_a_launcher_needs_no_group(launched):
    launched(0, 1, 0, "127.0.0.1", 1)  # where nobody listens
    assert type(joined_job("step", TIMEOUT)) is Job
    assert not dist.is_initialized()
    leave()  # where there is nothing to leave


def test_a_port_in_use_is_said_and_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = Environment(0, 2, 0, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(RuntimeError, match=r"find each other at 127\.0\.0\.1:\d+, but .* MASTER_PORT"):
            join(found, TIMEOUT)
    assert not dist.is_initialized()


def test_others_that_do_not_come_are_waited_for_so_long_and_no_longer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RuntimeError, match=rf"find each other at 127\.0\.0\.1:{port}, but "):
        join(Environment(1, 2, 1, "127.0.0.1", port), timeout=0.2)


def join_twice():
    first = joined_job("step", TIMEOUT)
    group = dist.group.WORLD
    second = joined_job(None, TIMEOUT)  # as two learners in one program have it
    seen = {
        "kinds": (type(first), type(second)),
        "who": (first.rank, first.world, second.rank),
        "one group": dist.group.WORLD is group,
        "talks": first.gather("first", at="a test") + second.gather("second", at="a test"),
    }
    leave()
    return {**seen, "left": not dist.is_initialized()}


def test_a_program_joins_once_and_leaves():
    for rank, seen in enumerate(in_each(2, join_twice)):
        assert seen == {
            "kinds": (Ranks, Ranks),
            "who": (rank, 2, rank),
            "one group": True,
            "talks": ["first", "first", "second", "second"],
            "left": True,
        }


def join_by_hand():
    # A group that the person has made, of whichever kind, is the one that is used.
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    return joined_job("step", TIMEOUT).gather(dist.get_rank(), at="a test")


def test_a_group_that_is_there_is_joined():
    assert in_each(2, join_by_hand) == [[0, 1], [0, 1]]


def join_again(_folder):
    """Join through one store, as torchrun keeps it over its restarts, in which the dead of the first try are."""
    rank, address = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        server = dist.TCPStore(*address, is_master=True, wait_for_workers=False)
        # What gloo finds under its own names in a store of the try before: addresses where nobody is.
        for name in ("default_pg/0//0", "0", "1"):
            server.set(name, "nobody is here")
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    seen = []
    for restart in range(2):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(restart)
        seen.append(joined_job("step", TIMEOUT).gather(restart, at="a test"))
        leave()
    return seen


def test_each_try_of_torchrun_has_a_part_of_the_store_for_itself(tmp_path):
    assert in_each(2, join_again, tmp_path) == [[[0, 0], [1, 1]]] * 2
