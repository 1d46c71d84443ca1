"""Rounds of a few batches over a loader that is long, or never ends."""

from itertools import chain, count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from learner.data.position import ResumableLoader
from learner.data.rounds import RoundsLoader, beside_training
from learner.data.wrapper import length_of
from learner.errors import LearnerError


@given(length=st.integers(1, 7), n=st.integers(1, 9), n_rounds=st.integers(1, 5), leave_at=st.integers(1, 9))
def test_rounds_go_on_where_the_last_one_stopped_also_if_it_was_left_early(length, n, n_rounds, leave_at):
    rounds, given_out = RoundsLoader(list(range(length)), n), []
    for _ in range(n_rounds):
        given_out.append(list(islice(rounds, leave_at)))
    assert [len(one) for one in given_out] == [min(n, leave_at)] * n_rounds
    endless = chain.from_iterable(range(length) for _ in count())
    assert list(chain(*given_out)) == list(islice(endless, sum(map(len, given_out))))


@given(length=st.integers(1, 7), n=st.integers(1, 9), n_before=st.integers(0, 3), i=st.integers(0, 8))
def test_a_round_can_begin_anywhere(length, n, n_before, i):
    whole = list(islice(chain.from_iterable(range(length) for _ in count()), (n_before + 1) * n))
    rounds = RoundsLoader(list(range(length)), n)
    for _ in range(n_before):
        list(rounds)
    list(islice(rounds, i))
    other = RoundsLoader(list(range(length)), n)
    other.follow(ResumableLoader("train", list(range(length)), seed=0), epoch=0, start=i)
    other.set_position(rounds.n_passes, rounds.n_read)
    assert list(other) == whole[n_before * n + i :]


def test_rounds_to_measure_on_begin_anew_and_have_no_more_than_there_is():
    rounds = RoundsLoader([1, 2, 3], 2, goes_on=False)
    assert [list(rounds) for _ in range(2)] == [[1, 2], [1, 2]]
    assert len(rounds) == 2
    assert len(RoundsLoader([1, 2, 3], 5, goes_on=False)) == 3
    stream = RoundsLoader(iter(range(9)), 2, goes_on=False)
    assert length_of(stream) is None
    assert len(RoundsLoader(iter(range(9)), 2)) == 2


def test_one_pass_after_the_other_is_begun_when_it_is_needed():
    begun = []

    class Loader:
        def __iter__(self):
            begun.append(len(begun))
            return iter("ab")

    rounds = RoundsLoader(Loader(), 2)
    assert [list(rounds), begun, list(rounds), begun] == [["a", "b"], [0, 1], ["a", "b"], [0, 1]]


@pytest.mark.parametrize("loader", [iter([1]), []])
def test_a_loader_that_gives_nothing_more_is_an_error(loader):
    with pytest.raises(LearnerError, match=r"must give batches in each pass .*it is (an iterator, which is )?used up"):
        list(RoundsLoader(loader, 2))


@pytest.mark.parametrize("n_workers", [0, 1])
def test_looking_at_a_training_loader_does_not_move_the_training(n_workers):
    options = {"num_workers": n_workers, "persistent_workers": n_workers > 0}
    rounds, alone = (RoundsLoader(DataLoader(range(7), **options), 3) for _ in range(2))
    given_out, expected = [], []
    for _ in range(4):
        batches = iter(rounds)
        given_out.append(next(batches))
        assert [int(batch) for batch in beside_training(rounds)] == [0, 1, 2]
        given_out += batches
        expected += alone
    assert list(map(int, given_out)) == list(map(int, expected))


def test_an_iterator_cannot_be_looked_at_beside_training():
    with pytest.raises(LearnerError, match="got a list_iterator, each batch of which is there once"):
        beside_training(RoundsLoader(iter([1]), 1))
