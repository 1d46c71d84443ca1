"""Who takes over an action, and callbacks that come and go."""

import copy
import gc
import math
import pickle
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from learner import Callback, Learner
from learner.ranks.job import ALONE, Job

ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")


def handler(self, learn):
    """Do nothing."""


def make_class(name, bases=(), **members):
    return type(name, bases, members)


# -- actions ------------------------------------------------------------------------------------------------------


class Counts(Learner):
    """Count what the learner itself does."""

    def predict(self):
        self.n_predict = getattr(self, "n_predict", 0) + 1
        super().predict()


@pytest.mark.parametrize("action", ACTIONS)
def test_a_callback_that_has_an_action_owns_it(make_learner, action):
    done = []

    def own(self, learn):
        done.append(action)
        getattr(type(learn), action)(learn)

    learn, plain = make_learner(make_class("Owner", (Callback,), **{action: own})()), make_learner()
    for each in (learn, plain):
        torch.manual_seed(1)
        each.fit(1)
    passes = 5 if action in ("predict", "get_loss") else 3
    assert done == [action] * passes
    assert torch.equal(learn.model[0].weight, plain.model[0].weight)


def test_the_owner_acts_in_the_learners_place(make_learner):
    class Owner:
        def predict(self, learn):
            learn.preds = learn.model(learn.xb) * 0

    learn = make_learner(Owner())
    learn.fit(1)
    assert learn.history[0]["valid/loss"] == pytest.approx(math.log(3))  # three equal logits


def test_a_callback_that_is_falsy_counts_like_any_other(make_learner, capsys):
    class Empty(Callback):
        def __init__(self):
            self.rows = []

        def __len__(self):
            return 0

        def before_fit(self, learn):
            self.rows.append("before_fit")

        def cleanup_fit(self, learn):
            self.rows.append("cleanup_fit")

        def step(self, learn):
            self.rows.append("step")

        def around_predict(self, learn, action):
            self.rows.append("predict")
            action()

    empty = Empty()
    learn = make_learner(empty, dls={"train": one_batch()})
    learn.fit(1)
    assert empty.rows == ["before_fit", "predict", "step", "cleanup_fit"]
    learn.plan()
    assert capsys.readouterr().out.count("Empty") == 4


def test_two_owners_of_an_action_are_refused_with_both_names(make_learner):
    one, two = make_class("One", step=handler)(), make_class("Two", (Callback,), step=handler)()
    with pytest.raises(ValueError, match="`step` must have one owner, got One and Two"):
        make_learner([one, two])
    learn = make_learner(one)
    with pytest.raises(ValueError, match="`step` must have one owner, got One and Two"):
        learn.fit(1, cbs=two)
    assert list(learn.cbs) == [one]
    learn.remove_cb(one)
    learn.add_cb(two)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_any_number_of_callbacks_wrap_an_action_and_nest_by_order(make_learner, action, n):
    trace = []

    def wrap(self, learn, inner):
        trace.append(f"+{self.order}")
        inner()
        trace.append(f"-{self.order}")

    def own(self, learn):
        trace.append("action")
        getattr(Learner, action)(learn)

    cbs = [make_class("Wrap", **{"order": i, f"around_{action}": wrap})() for i in reversed(range(n))]
    learn = make_learner([*cbs, make_class("Own", order=-9, **{action: own})()], dls={"train": one_batch()})
    learn.fit(1)
    assert trace == [*(f"+{i}" for i in range(n)), "action", *(f"-{i}" for i in reversed(range(n)))]


def one_batch():
    return [(torch.ones(2, 4), torch.tensor([0, 2]))]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_a_wrapper_enters_is_left_on_error_and_in_every_pass(make_learner, kind):
    entered = []

    class Wrap(Callback):
        def around_predict(self, learn, action):
            with torch.autocast("cpu", torch.bfloat16):
                entered.append(torch.is_autocast_enabled("cpu"))
                action()

    class Fails(nn.Module):
        def forward(self, x):
            raise kind("in forward")

    learn = make_learner(Wrap())
    learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")
    learn.model.append(Fails())
    with pytest.raises(kind, match="in forward"):
        learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")
    assert entered == [True] * 6


def test_a_wrapper_may_leave_an_action_out(make_learner):
    class NoStep:
        def around_step(self, learn, action):
            pass

    learn = make_learner(NoStep())
    before = learn.model[0].weight.clone()
    learn.fit(1)
    assert torch.equal(learn.model[0].weight, before)


def test_a_callback_that_calls_an_action_gets_the_owned_and_wrapped_one(make_learner):
    trace = []

    class Owner:
        def predict(self, learn):
            trace.append("owner")
            Learner.predict(learn)

    class Wrapper:
        def around_predict(self, learn, action):
            trace.append("wrapper")
            action()

    class Caller:
        def before_epoch(self, learn):
            learn.xb = torch.ones(1, 4)
            learn.predict()
            trace.append("called")

    make_learner([Caller(), Owner(), Wrapper()], dls={"train": one_batch()}).fit(1)
    assert trace == ["wrapper", "owner", "called", "wrapper", "owner"]


def test_an_owner_or_wrapper_goes_with_its_callback(make_learner):
    class Owner:
        def predict(self, learn):
            raise AssertionError("gone")

    class Wrapper:
        def around_predict(self, learn, action):
            raise AssertionError("gone")

    learn = make_learner([], dls={"train": one_batch()})
    with learn.added([Owner(), Wrapper()]):
        pass
    learn.fit(1)


def test_a_subclass_and_a_wrapper_go_together(make_learner):
    trace = []

    class Sub(Learner):
        def predict(self):
            trace.append("subclass")
            super().predict()

    class Wrapper:
        def around_predict(self, learn, action):
            trace.append("wrapper")
            action()

    base = make_learner()
    Sub(base.model, {"train": one_batch()}, base.loss_f, cbs=Wrapper()).fit(1)
    assert trace == ["wrapper", "subclass"]


# -- adding and removing ------------------------------------------------------------------------------------------


class Recorded:
    """Write down the batches that are heard."""

    def __init__(self):
        self.n_fits = self.n_batches = 0

    def before_fit(self, learn):
        self.n_fits += 1

    def after_batch(self, learn):
        self.n_batches += 1


def test_add_and_remove(make_learner):
    a, b, c = Recorded(), Recorded(), Recorded()
    learn = make_learner(a)
    learn.add_cb([b, c])
    learn.remove_cb([a, b])
    learn.fit(1)
    assert [cb.n_fits for cb in (a, b, c)] == [0, 0, 1]
    with pytest.raises(ValueError, match="must be callbacks of this learner"):
        learn.remove_cb(a)
    assert list(learn.cbs) == [c]


def test_of_several_callbacks_all_or_none_is_added(make_learner):
    good, bad = Recorded(), make_class("Bad", before_fits=handler)()
    learn = make_learner()
    with pytest.raises(ValueError, match="did you mean `before_fit`"):
        learn.add_cb([good, bad])
    learn.fit(0)
    assert (list(learn.cbs), good.n_fits) == ([], 0)


@pytest.mark.parametrize("kind", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("run", [Learner.fit, Learner.validate, Learner.added])
def test_callbacks_for_one_call_are_always_removed_again(make_learner, run, kind):
    class Fails(Callback):
        def after_batch(self, learn):
            if kind:
                raise kind("on purpose")

    stays, extra = Recorded(), Recorded()
    learn = make_learner(stays)

    def go():
        if run is Learner.fit:
            learn.fit(1, cbs=[extra, [Fails()]])
        elif run is Learner.validate:
            learn.validate(cbs=[extra, Fails()])
        else:
            with learn.added([extra, Fails()]):
                learn.fit(1)

    if kind:
        with pytest.raises(kind, match="on purpose"):
            go()
    else:
        go()
    assert extra.n_batches > 0
    assert list(learn.cbs) == [stays]
    n_batches = extra.n_batches
    learn.fit(1)
    assert extra.n_batches == n_batches


def test_added_leaves_what_was_added_and_removed_meanwhile_as_it_is(make_learner):
    a, b, c = Recorded(), Recorded(), Recorded()
    learn = make_learner(a)
    with learn.added(b):
        learn.remove_cb([a, b])
        learn.add_cb(c)
    assert list(learn.cbs) == [c]


def test_a_callback_added_in_the_middle_of_a_fit_is_heard_from_the_next_signal(make_learner):
    late = Recorded()

    class Adds(Callback):
        def after_batch(self, learn):
            if (learn.training, learn.i) == (True, 1):
                learn.add_cb(late)

    make_learner(Adds()).fit(1)
    assert (late.n_fits, late.n_batches) == (0, 1 + 2)  # the third training batch, then two of valid


def test_a_callback_removed_in_the_middle_of_a_fit_is_not_heard_from_the_next_signal(make_learner):
    early = Recorded()

    class Removes(Callback):
        order = -1

        def before_batch(self, learn):
            if (learn.training, learn.i) == (True, 2):
                learn.remove_cb(early)

    make_learner([early, Removes()]).fit(1)
    assert (early.n_fits, early.n_batches) == (1, 2)


class Wraps(Callback):
    def around_step(self, learn, action):
        action()


class Owns(Callback):
    def zero_grad(self, learn):
        learn.opt.zero_grad()


def test_a_learner_whose_actions_are_taken_over_is_pickled_copied_and_freed(make_learner):
    learn = make_learner([Wraps(), Owns()])
    learn.fit(1)
    for other in (pickle.loads(pickle.dumps(learn)), copy.deepcopy(learn)):
        before = learn.model[0].weight.detach().clone()
        other.fit(1)
        assert torch.equal(learn.model[0].weight, before)  # the copy has trained its own model
        assert not torch.equal(other.model[0].weight, before)
    weights = weakref.ref(learn.model[0].weight)
    gc.collect()
    gc.disable()
    try:
        del learn, other
        assert weights() is None
    finally:
        gc.enable()


class Pair(Job):
    """One of two processes."""

    world = 2

    def __init__(self, rank):
        self.rank, self.leads = rank, 0

    @contextmanager
    def leading(self):
        self.leads += 1
        yield


class Knows(Callback):
    def __init__(self, rank):
        self.job = Pair(rank)


class First(Callback):
    ranks = "first"

    def __init__(self):
        self.heard = []

    def before_fit(self, learn):
        self.heard.append("before_fit")

    def around_step(self, learn, action):
        self.heard.append("around_step")
        action()

    def cleanup_batch(self, learn):
        self.heard.append("cleanup_batch")


class OneOfTwo(Learner):
    """Asks no other process."""

    def _set_callbacks(self, cbs):
        super()._set_callbacks(cbs)
        self.seen, self.job = self.job, ALONE


def learner_of(rank, *cbs):
    data = {"train": [(torch.ones(2, 1), torch.ones(2, 1))]}
    return OneOfTwo(nn.Linear(1, 1), data, nn.functional.mse_loss, cbs=[Knows(rank), *cbs])


def test_a_callback_of_the_first_process_is_called_there_alone():
    for rank, heard in ((0, ["before_fit", "around_step", "cleanup_batch"]), (1, [])):
        first = First()
        learn = learner_of(rank, first)
        learn.fit(1)
        assert (first.heard, learn.seen.rank, learn.seen.leads) == (heard, rank, 2 * (rank == 0))
        assert first in learn.cbs


def test_an_error_of_the_first_process_names_the_callback():
    class Fails(Callback):
        ranks = "first"

        def after_loss(self, learn):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        learner_of(0, Fails()).fit(1)
    assert "Fails.after_loss" in "".join(caught.value.__notes__)


def test_who_owns_an_action_is_needed_in_each_process():
    owner = type("Owner", (), {"predict": lambda self, learn: None, "ranks": "first"})()
    with pytest.raises(ValueError, match=r"`Owner` must not set `every`, `loaders` or `ranks`"):
        learner_of(0, owner)


def test_ranks_are_all_or_the_first(make_learner):
    with pytest.raises(ValueError, match=r"`Odd\.ranks` must be 'all' or 'first', got 'last'"):
        make_learner(cbs=type("Odd", (Callback,), {"ranks": "last"})())


def test_one_callback_knows_the_processes():
    with pytest.raises(ValueError, match=r"one callback that knows the processes of a job, got Knows and Knows"):
        learner_of(0, Knows(0))


def test_a_callback_may_hold_the_job_of_another():
    knows = Knows(0)
    other = type("Holds", (Callback,), {"job": knows.job, "after_batch": lambda self, learn: None})()
    assert OneOfTwo(nn.Linear(1, 1), {"train": []}, nn.functional.mse_loss, cbs=[knows, other]).seen is knows.job
