"""The protocol by which processes stop together: here they are threads that talk across a barrier."""

import threading
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    LearnerError,
    PostponeStepException,
)
from learner.loop.interrupts import Pending
from learner.ranks.agreement import OtherProcessError, Ranks, Word, hash_of, word_of

CANCELS = {
    Word.POSTPONE: PostponeStepException,
    Word.STEP: CancelStepException,
    Word.BATCH: CancelBatchException,
    Word.EPOCH: CancelEpochException,
    Word.FIT: CancelFitException,
}


class Room:
    """Where threads meet that stand for processes: what each brings all of them get."""

    def __init__(self, world):
        self.world, self.given = world, [None] * world
        self.barrier = threading.Barrier(world, timeout=20)

    def exchange(self, rank, mine):
        self.given[rank] = mine
        self.barrier.wait()
        every = list(self.given)
        self.barrier.wait()
        return every


class ThreadTalk:
    """A `Talk` between threads; `is_gone` stands for a process that has ended."""

    def __init__(self, room, rank):
        self.room, self.rank, self.world, self.is_gone = room, rank, room.world, False

    def word(self, code, at, size=0):
        if self.is_gone:
            raise RuntimeError("Connection closed by peer")
        codes, places, sizes = zip(*self.room.exchange(self.rank, (int(code), at, size)), strict=True)
        return max(codes), max(sizes), len(set(places)) == 1

    def all_of(self, message, size):
        assert len(message) <= size
        return self.room.exchange(self.rank, message)

    def of_first(self, message, size):
        return self.room.exchange(self.rank, message)[0]

    def texts(self, mine):
        return self.room.exchange(self.rank, mine)


def together(world, do, agree="step"):
    """Call `do(job)` in so many threads; return what each returned or raised."""
    room, results = Room(world), [None] * world

    def run(rank):
        job = Ranks(ThreadTalk(room, rank), agree)
        try:
            job.begin_fit(Pending())
            results[rank] = do(job)
        except BaseException as error:
            results[rank] = error
            if isinstance(error, AssertionError | threading.BrokenBarrierError):
                room.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def learner(*, training=True):
    return SimpleNamespace(training=training, interrupt=None)


# -- words -------------------------------------------------------------------------------------------------------------


def test_the_word_for_an_exception_is_that_of_its_own_class():
    assert {word_of(cancel()): cancel for cancel in CANCELS.values()} == CANCELS
    assert [word_of(error) for error in (ValueError(), KeyboardInterrupt(), SystemExit(1))] == [Word.ERROR] * 3
    assert [word_of(cancel()) for cancel in CANCELS.values()] == sorted(CANCELS)  # the one that ends more is larger


@pytest.mark.parametrize(("agree", "n"), [("step", 2), ("batch", 1), (None, 0)])
def test_a_training_batch_takes_so_many_words(agree, n):
    def batches(job):
        for _ in range(3):
            job.owe()
            job.before_backward()
            job.before_step()
        return job.n_words

    assert together(2, batches, agree) == [3 * n, 3 * n]


@pytest.mark.parametrize(("agree", "n"), [("step", 5), ("batch", 4), (None, 0)])
def test_each_exchange_in_a_batch_takes_a_word_more(agree, n):
    def batch(job):
        job.before_norm()  # of whole gradients, which need nobody else
        job.is_in_shards = True
        job.owe()
        job.before_forward()
        job.before_backward()
        job.before_norm()
        job.before_step()
        job.before_backward()  # the loss is asked for again, as SAM does
        return job.n_words

    assert together(2, batch, agree) == [n, n]


def one_batch(job, ends):
    """Go through a batch as the loop does; `ends` maps a place to what is raised there by this rank."""
    learn = learner()
    job.owe()
    try:
        for place, speak in (("loss", job.before_backward), ("step", job.before_step)):
            if place in ends:
                raise ends[place]
            speak()
        return None
    except BaseException as error:
        reason = job.tell(learn, error)
        assert job.tell(learn, reason) is reason  # by the stage around it: it is told once
        return reason


@pytest.mark.parametrize(("agree", "place"), [("step", "loss"), ("step", "step"), ("batch", "loss")])
@pytest.mark.parametrize("cancel", CANCELS.values(), ids=lambda cancel: cancel.__name__)
def test_what_one_cancels_all_cancel(agree, place, cancel):
    results = together(3, lambda job: one_batch(job, {place: cancel()} if job.rank == 1 else {}), agree)
    assert [type(result) for result in results] == [cancel] * 3


@pytest.mark.parametrize("cancel", [CancelEpochException, CancelFitException])
def test_what_ends_a_pass_is_heard_in_the_next_batch_where_a_word_a_batch_is_said(cancel):
    def batches(job):
        reasons = []
        for place in ("step", "loss"):
            reasons.append(one_batch(job, {place: cancel()} if (job.rank, place) == (1, "step") else {}))
            if reasons[-1] is not None:
                break
        return [type(reason) for reason in reasons]

    assert together(2, batches, "batch") == [[type(None), cancel], [cancel]]


@given(st.integers(2, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_of_many_the_one_that_ends_most_counts_wherever_each_is(world, data):
    places = st.sampled_from(["loss", "step", None])
    kinds = st.sampled_from([*CANCELS.values(), ValueError])
    plan = data.draw(st.lists(st.tuples(places, kinds), min_size=world, max_size=world))

    def batch(job):
        place, kind = plan[job.rank]
        return one_batch(job, {place: kind("mine")} if place else {})

    results = together(world, batch)
    first = "loss" if any(place == "loss" for place, _ in plan) else "step"
    # Who acts before the backward is heard there; who would have acted later does not get that far.
    acting = [kind for place, kind in plan if place == first]
    if not acting:
        assert results == [None] * world
    elif ValueError in acting:
        for (place, kind), result in zip(plan, results, strict=True):
            own = place == first and kind is ValueError
            assert type(result) is (ValueError if own else OtherProcessError)
    else:
        worst = max(acting, key=lambda kind: word_of(kind()))
        assert [type(result) for result in results] == [worst] * world


def test_the_one_that_fails_has_its_own_error_and_the_others_learn_of_it():
    own = ValueError("a bad sample")
    results = together(3, lambda job: one_batch(job, {"loss": own} if job.rank == 1 else {}))
    assert results[1] is own
    assert [str(results[rank]) for rank in (0, 2)] == [
        f"rank 1 has failed: ValueError: a bad sample (this is rank {rank})" for rank in (0, 2)
    ]


def test_after_a_failure_nobody_is_asked_any_more():
    def fail(job):
        one_batch(job, {"loss": ValueError("on purpose")} if job.rank == 1 else {})
        assert not job.can_agree
        job.gather(None, at="the end of a pass")

    for error in together(2, fail):
        assert str(error) == "the end of a pass must have all processes, but one of them has failed."


def test_an_error_within_backward_is_not_told_for_the_others_wait_elsewhere():
    def fail(job):
        job.owe()
        job.before_backward()
        job.during_backward(True)
        if job.rank == 1:
            n, error = job.n_words, MemoryError()
            assert job.tell(learner(), error) is error
            assert (job.n_words, job.can_agree) == (n, False)

    assert together(2, fail) == [None, None]


def test_what_a_process_leaves_out_of_a_batch_that_does_not_train_is_its_own_affair():
    def valid(job):
        if job.rank == 1:
            for error in (CancelBatchException(), CancelStepException()):
                assert job.tell(learner(training=False), error) is error
        return job.gather(job.rank, at="the end of a pass")

    assert together(2, valid) == [[0, 1], [0, 1]]


def test_a_cancel_of_a_pass_meets_the_others_wherever_they_are():
    def end(job):
        if job.rank == 1:
            return job.tell(learner(training=False), CancelEpochException())
        with pytest.raises(CancelEpochException) as caught:
            job.gather(None, at="the end of a pass")
        return job.tell(learner(training=False), caught.value)

    assert [type(result) for result in together(2, end)] == [CancelEpochException] * 2


def test_a_process_that_is_gone_is_an_error_and_not_a_wait():
    def speak(job):
        job.talk.is_gone = True
        job.owe()
        job.before_backward()

    for rank, error in enumerate(together(2, speak)):
        assert type(error) is OtherProcessError
        assert str(error) == f"another process is gone; this is rank {rank}. Its own output says why."


def test_processes_that_are_at_different_places_are_told_so():
    def stray(job):
        job.gather(None, at="the end of a pass" if job.rank else "a checkpoint")

    for error in together(2, stray):
        assert "rank 0 is at a checkpoint; rank 1 is at the end of a pass" in str(error)
        assert type(error) is LearnerError


# -- signals -----------------------------------------------------------------------------------------------------------


def test_a_signal_to_one_stops_all_after_the_same_batch():
    def interrupted(job):
        pending = Pending()
        job.begin_fit(pending)
        if job.rank == 1:
            pending.interrupt = KeyboardInterrupt()
        before = pending.is_agreed
        job.owe()
        job.before_backward()
        return before, pending.is_agreed, type(pending.interrupt)

    held, stopped = together(2, interrupted)
    assert held == (False, True, SystemExit)
    assert stopped == (False, True, KeyboardInterrupt)  # its own


def test_without_agreement_a_signal_is_obeyed_at_once():
    def begun(job):
        pending = Pending()
        job.begin_fit(pending)
        return pending.is_agreed

    assert together(2, begun, None) == [True, True]


# -- what goes with words ----------------------------------------------------------------------------------------------


def test_all_give_and_all_get_in_order_of_ranks():
    values = [{"long": "x" * 1000}, None, [1, 2]]
    assert together(3, lambda job: job.gather(values[job.rank], at="a test")) == [values] * 3


def test_the_first_makes_it_for_all():
    made = []

    def make(job):
        return job.from_first(lambda: made.append(job.rank) or "it", at="a test")

    assert together(3, make) == ["it"] * 3
    assert made == [0]


def test_what_the_first_fails_in_all_fail_in():
    own = FileNotFoundError("no such file")

    def make(job):
        def failing():
            raise own

        with pytest.raises((FileNotFoundError, OtherProcessError)) as caught:
            job.from_first(failing, at="a test")
        assert job.tell(learner(), caught.value) is caught.value  # all know of it
        assert job.can_agree  # they are all there: another fit may begin
        return caught.value

    first, other = together(2, make)
    assert first is own
    assert str(other) == "rank 0 has failed: FileNotFoundError: no such file"


def test_what_the_first_alone_does_must_not_ask_the_others():
    def ask(job):
        if job.rank == 0:
            with job.leading():
                job.gather(None, at="the end of a pass")

    error, _ = together(2, ask)
    assert str(error).startswith("what only the first process does must not need the others, as the end of a pass does")


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"a": {"x": 1, "y": 3}, "b": {}}, "the same a, but y is 2 on rank 0, 3 on rank 1"),
        ({"a": {"x": 1}, "b": {}}, "the same a, but y is 2 on rank 0, missing on rank 1"),
        ({"a": {"x": 1, "y": 2, "z": 0}, "b": {}}, "the same a, but z is missing on rank 0, 0 on rank 1"),
        ({"a": {"x": 1, "y": 2}, "b": {"w": 1}}, "the same b, but w is missing on rank 0, 1 on rank 1"),
    ],
)
def test_what_differs_is_named_on_all_of_them(theirs, said):
    mine = {"a": {"x": 1, "y": 2}, "b": {}}
    errors = together(3, lambda job: job.compare(lambda: theirs if job.rank == 1 else mine, at="a test"))
    for error in errors:
        assert type(error) is LearnerError
        assert said in str(error)


def test_the_same_is_the_same_and_costs_one_word():
    def compare(job):
        job.compare(lambda: {"a": {"x": 1}, "b": {"y": [1, 2]}}, at="a test")
        return job.n_words

    assert together(2, compare) == [1, 1]


def test_a_hash_is_of_the_values():
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 2})
