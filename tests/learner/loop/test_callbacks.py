"""What is a callback, each one once, in running order."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from learner import Callback, Learner

ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")


def handler(self, learn):
    """Do nothing."""


def make_class(name, bases=(), **members):
    return type(name, bases, members)


# -- plain classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [{}, {"order": -3}, {"order": 2.5}, {"order": np.float32(2)}, {"order": math.inf}])
def test_a_plain_class_works_as_a_callback(make_learner, members):
    heard = []
    plain = make_class("Plain", before_fit=lambda self, learn: heard.append(learn), **members)()
    learn = make_learner(plain)
    learn.fit(1)
    assert heard == [learn]


def test_slots_properties_and_attributes_of_a_plain_class_are_left_alone(make_learner):
    class Plain:
        __slots__ = ("n",)

        def __init__(self):
            self.n = 0

        @property
        def broken(self):
            raise AssertionError("a property must not be read")

        def after_batch(self, learn):
            self.n += 1

    plain = Plain()
    make_learner(plain).fit(1)
    assert plain.n == 5


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_static_and_class_methods_listen_too(make_learner, kind):
    heard = []
    function = (lambda learn: heard.append(1)) if kind is staticmethod else (lambda cls, learn: heard.append(1))
    make_learner(make_class("Odd", before_fit=kind(function))()).fit(0)
    assert heard == [1]


def test_callbacks_may_be_given_as_none_one_or_a_nest(make_learner):
    a, b, c = (make_class(name, (Callback,))() for name in "ABC")
    assert list(make_learner(None).cbs) == []
    assert list(make_learner(a).cbs) == [a]
    assert list(make_learner([a, (b, [c])]).cbs) == [a, b, c]


@pytest.mark.parametrize(
    ("cb", "message"),
    [
        (Callback, r"must be an object.*pass Callback\(\), not Callback"),
        (3, "a callback must be an object.*3"),
        ("ProgressCallback", "a callback must be an object.*'ProgressCallback'"),
        ([None], "a callback must be an object.*None"),
        ([[Callback()], None], "a callback must be an object.*None"),
        ((cb for cb in [Callback()]), "a callback must.*a generator"),
        ({Callback()}, "a callback must.*a set"),
        ({"a": Callback()}, "a callback must.*a dict"),
        (lambda learn: None, "a callback must.*function"),
        (object(), "a callback must.*object"),
    ],
)
def test_what_is_no_callback_is_refused_with_the_reason(make_learner, cb, message):
    with pytest.raises(TypeError, match=message):
        make_learner(cb)
    learn = make_learner()
    with pytest.raises(TypeError, match=message):
        learn.add_cb(cb if cb is not None else [None])
    assert list(learn.cbs) == []


@pytest.mark.parametrize("base", [Callback, object])
@pytest.mark.parametrize(
    ("order", "error"),
    [("early", TypeError), (None, TypeError), (True, TypeError), (1j, TypeError), (math.nan, ValueError)],
)
def test_an_order_that_is_no_number_is_refused(make_learner, base, order, error):
    with pytest.raises(error, match=r"`Odd\.order` must be a number, got"):
        make_learner(make_class("Odd", (base,), order=order, before_fit=handler)())


@pytest.mark.parametrize("side", ["after", "before"])
@pytest.mark.parametrize("value", ["Callback", ("Callback",), (Callback(),), Callback])
def test_after_and_before_must_hold_classes(make_learner, side, value):
    with pytest.raises(TypeError, match=rf"`Odd\.{side}` must be a tuple of callback classes"):
        make_learner(make_class("Odd", (Callback,), **{side: value})())


@pytest.mark.parametrize("where", ["constructor", "add_cb", "added", "fit"])
def test_the_same_callback_twice_is_refused(make_learner, where):
    cb = make_class("Once", (Callback,))()
    learn = make_learner(cb)
    with pytest.raises(ValueError, match="same Once twice"):
        {
            "constructor": lambda: make_learner([cb, [cb]]),
            "add_cb": lambda: learn.add_cb(cb),
            "added": lambda: learn.added(cb).__enter__(),
            "fit": lambda: learn.fit(1, cbs=[cb]),
        }[where]()
    assert list(learn.cbs) == [cb]


def test_a_callback_may_serve_two_learners_one_after_the_other(make_learner):
    heard = []
    cb = make_class("Hears", (Callback,), after_fit=lambda self, learn: heard.append(learn))()
    learners = [make_learner(cb), make_learner(cb)]
    for learn in learners:
        learn.fit(1)
    assert heard == learners


def test_a_signal_name_that_is_no_method_is_refused(make_learner):
    with pytest.raises(TypeError, match=r"`Odd\.before_fit` must be a method, got 3"):
        make_learner(make_class("Odd", (Callback,), before_fit=3)())


# -- order --------------------------------------------------------------------------------------------------------


def run_order(make_learner, *cbs):
    """Return the letters of callbacks in the order in which they hear `before_fit`."""
    heard = []
    for cb in cbs:
        cb.before_fit = partial(lambda name, learn: heard.append(name), type(cb).__name__)
    make_learner(list(cbs)).fit(0)
    return "".join(heard)


def letters(names, bases=(), **members):
    return [make_class(name, bases, before_fit=handler, **members) for name in names]


def test_order_then_list_order(make_learner):
    a, b, c, d, e = letters("ABCDE")
    b.order, d.order, e.order = -1, 2.5, 0
    assert run_order(make_learner, a(), d(), c(), e(), b()) == "BACED"


@pytest.mark.parametrize("given", ["AB", "BA"])
@pytest.mark.parametrize("side", ["after", "before"])
def test_after_and_before_decide_where_numbers_do_not(make_learner, given, side):
    a, b = letters("AB")
    if side == "after":
        b.after = (a,)
    else:
        a.before = (b,)
    assert run_order(make_learner, *[{"A": a, "B": b}[name]() for name in given]) == "AB"


def test_after_holds_across_numbers_where_the_class_gave_none_of_its_own(make_learner):
    a, b, c = letters("ABC")
    a.order, b.after = 100, (a,)
    assert run_order(make_learner, b(), c(), a()) == "CAB"


def test_before_holds_across_numbers_where_the_class_gave_none_of_its_own(make_learner):
    a, b, c = letters("ABC")
    a.order, b.before = -100, [a]
    assert run_order(make_learner, c(), a(), b()) == "CBA"


def test_a_number_still_counts_once_what_was_waited_for_has_run(make_learner):
    a, b, c = letters("ABC")
    b.order, b.after, c.order = 50, (a,), 10
    assert run_order(make_learner, b(), c(), a()) == "ACB"


def test_after_means_subclasses_too_and_all_of_them(make_learner):
    (a,) = letters("A")
    (b,) = letters("B", (a,))
    (c,) = letters("C", after=(a,))
    assert run_order(make_learner, c(), a(), b(), a()) == "ABAC"


def test_after_a_class_that_is_not_there_is_no_constraint(make_learner):
    a, b = letters("AB")
    b.after = (a,)
    assert run_order(make_learner, b()) == "B"


@pytest.mark.parametrize("given", ["AB", "BA"])
def test_a_subclass_may_run_after_its_own_base(make_learner, given):
    (a,) = letters("A")
    (b,) = letters("B", (a,), after=(a,))
    assert run_order(make_learner, *[{"A": a, "B": b}[name]() for name in given]) == "AB"


def contradictions():
    a, b = letters("AB")
    a.after, b.after = (b,), (a,)
    yield "each after the other", [a(), b()], "A, B|B, A"
    a, b = letters("AB")
    a.after, a.before = (b,), (b,)
    yield "before and after the same", [a(), b()], "A, B|B, A"
    a, b, c = letters("ABC")
    a.after, b.after, c.after = (c,), (a,), (b,)
    yield "a round of three", [a(), b(), c()], "A, B, C"
    a, b = letters("AB")
    a.order, a.after, b.order = -5, (b,), 5
    yield "a number that says the opposite of after", [a(), b()], "order -5"
    a, b = letters("AB")
    a.order, a.before, b.order = 5, (b,), -5
    yield "a number that says the opposite of before", [a(), b()], "order 5"


@pytest.mark.parametrize(("cbs", "named"), [pytest.param(c, n, id=i) for i, c, n in contradictions()])
def test_what_contradicts_itself_is_refused(make_learner, cbs, named):
    with pytest.raises(ValueError, match=f"({named}).*|must not contradict.*({named})"):
        make_learner(cbs)


def test_sorting_happens_when_callbacks_change_and_not_at_each_signal(make_learner):
    reads = []

    class Late:
        @property
        def order(self):
            reads.append(1)
            return 0

        after_batch = handler

    learn, n_reads = make_learner(Late()), []
    for n_epochs in (1, 5):
        reads.clear()
        learn.fit(n_epochs)
        n_reads.append(len(reads))
    assert n_reads[0] == n_reads[1]


@pytest.mark.parametrize("state", ["count", ("count", 3), {"count"}])
def test_a_state_that_is_no_tuple_of_names_is_refused_when_added(state):
    cb = type("Counts", (Callback,), {"state": state})()
    with pytest.raises(
        TypeError, match=r"`Counts.state` must be a tuple of names of attributes, got .*do \('n_seen',\)"
    ):
        Learner(nn.Linear(1, 1), {"train": [1]}, cbs=cb)


class OfTorch(nn.Module):
    """A callback that is a module: it has a `zero_grad` that was not meant, and layers under everyday names."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Linear(1, 1)
        self.heard = 0

    def after_batch(self, learn):
        self.heard += 1


def test_a_module_may_be_a_callback_and_owns_nothing_by_inheritance(make_learner):
    plain, learn, cb = make_learner(), make_learner(), OfTorch()
    learn.add_cb(cb)
    for each in (plain, learn):
        torch.manual_seed(0)
        each.fit(2)
    assert cb.heard == 10
    assert torch.equal(plain.model[0].weight, learn.model[0].weight)


def test_what_a_module_defines_itself_counts(make_learner):
    class Clears(OfTorch):
        def zero_grad(self, learn):
            learn.opt.zero_grad()

    learn = make_learner(Clears())
    assert type(learn._dispatch.actions["zero_grad"][0]) is Clears
    learn.fit(1)


def test_a_module_without_signals_is_no_callback(make_learner):
    with pytest.raises(TypeError, match=r"a callback must have a method named like a signal.*Linear"):
        make_learner(nn.Linear(1, 1))
