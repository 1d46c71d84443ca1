"""Batches that are fetched before they are asked for: the same ones, and the place after that which was handed out."""

import copy

import pytest
import torch

from learner.data.position import ResumableLoader
from learner.data.read_ahead import ReadAhead
from learner.data.zipped import ZippedLoader
from tests.loaders import WithState
from tests.resuming import differing, seed_all


class Copies:
    """Copies that are there when they are waited for."""

    def __init__(self):
        self.events = []

    def begin(self, batch):
        self.events.append(("begin", batch))
        return {"there": None, "on its way": batch}

    def finish(self, begun):
        begun["there"] = begun["on its way"]
        self.events.append(("finish", begun["there"]))
        return begun["there"]


class Fails:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        yield from range(self.n)
        raise OSError("on purpose")


def ahead(loader, n=1):
    copies = Copies()
    return ReadAhead(loader, copies.begin, copies.finish, n), copies.events


@pytest.mark.parametrize("n", [1, 2, 5])
def test_each_copy_is_begun_before_the_batch_n_before_it_is_handed_out(n):
    loader, events = ahead(range(4), n)
    at_work = []
    for batch in loader:
        assert events[-1] == ("finish", batch)
        at_work.append(sum(what == "begin" for what, _ in events))
    assert [batch for what, batch in events if what == "finish"] == [0, 1, 2, 3]
    assert at_work == [min(4, i + 1 + n) for i in range(4)]


def test_a_loader_that_gives_nothing_and_one_that_gives_one_batch():
    for n_batches in (0, 1):
        loader, events = ahead(range(n_batches))
        assert list(loader) == list(range(n_batches))
        assert len(events) == 2 * n_batches
        assert len(loader) == n_batches


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_error_of_the_loader_comes_in_the_place_of_its_own_batch(n):
    loader, _ = ahead(Fails(n), 2)
    batches = iter(loader)
    assert [next(batches) for _ in range(n)] == list(range(n))
    with pytest.raises(OSError, match="on purpose"):
        next(batches)


def test_an_interrupt_is_not_put_off():
    class Interrupted:
        def __iter__(self):
            yield 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(iter(ahead(Interrupted())[0]))


def test_a_pass_begins_when_it_is_asked_for_and_other_attributes_are_those_of_the_loader():
    class Counts(list):
        n = 0
        batch_size = 7

        def __iter__(self):
            self.n += 1
            return super().__iter__()

    loader, events = ahead(Counts([1, 2]))
    batches = iter(loader)
    assert (loader.loader.n, events) == (1, [])
    assert loader.batch_size == 7
    assert list(batches) == [1, 2]
    with pytest.raises(AttributeError, match="nothing"):
        loader.nothing
    assert copy.copy(loader).loader is loader.loader


def places(make, is_ahead):
    """Return the state after each batch that was handed out, and after the pass; and the batches."""
    seed_all(0)
    resumable = ResumableLoader("train", make(), seed=0)
    loader = resumable.at(0)
    states, batches = [], []
    for batch in ahead(loader, 2)[0] if is_ahead else loader:
        batches.append(batch)
        states.append(copy.deepcopy(resumable.state_dict()))
    return [*states, resumable.state_dict()], batches


class InOrder(WithState):
    """Draws nothing."""

    def __iter__(self):
        self.order = self.order or list(range(8))
        return super().__iter__()

    def __getitem__(self, i):
        return i


@pytest.mark.parametrize("make", [InOrder, lambda: ZippedLoader({"a": InOrder(), "b": [1, 2]})], ids=["one", "zipped"])
def test_the_state_is_that_of_the_batch_that_was_handed_out(make):
    states, batches = places(make, is_ahead=True)
    expected, as_expected = places(make, is_ahead=False)
    assert differing(states, expected) == []
    assert len(batches) == len(as_expected) == 3


def test_what_a_loader_with_a_state_draws_ahead_follows_from_the_position_and_leaves_no_trace():
    def batches(start, disturb):
        seed_all(5)
        resumable = ResumableLoader("train", InOrder(), seed=0)
        resumable.stateful.load_state_dict({"order": list(range(8)), "n_given": start})
        drawn = []
        for batch in ahead(resumable.at(0, start))[0]:
            drawn.append(batch)
            if disturb:
                torch.rand(3)
        return drawn, torch.rand(())

    whole, noise = batches(0, disturb=False)
    rest, _ = batches(1, disturb=True)
    assert all(torch.equal(x, other) for (x, _), (other, _) in zip(whole[1:], rest, strict=True))
    torch.manual_seed(5)
    assert torch.rand(()) == noise


def test_a_pass_that_is_left_and_a_new_one_have_the_state_of_the_loader():
    resumable = ResumableLoader("train", InOrder(), seed=0)
    for _ in ahead(resumable.at(0))[0]:
        break
    assert resumable.state_dict()["n_given"] == 1
    resumable.at(1)
    assert resumable.state_dict()["n_given"] == 2
