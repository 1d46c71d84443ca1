"""The table of signals, what is refused as a callback, who runs before whom, and who takes over an action."""

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


# -- the table ----------------------------------------------------------------------------------------------------


def test_the_table_of_signals_is_complete_in_order_and_documented():
    signals = [name for name, value in vars(Callback).items() if callable(value) and not name.startswith("_")]
    assert signals == [
        *("before_fit", "before_epoch", "before_batch", "after_predict", "after_loss", "after_backward", "after_step"),
        *("after_batch", "cleanup_batch", "after_epoch", "cleanup_epoch", "after_fit", "cleanup_fit"),
    ]
    assert all(getattr(Callback, name).__doc__ for name in signals)


def test_the_base_class_listens_to_nothing(make_learner, capsys):
    make_learner(Callback()).plan()
    assert "Callback" not in capsys.readouterr().out


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


# -- what is refused ----------------------------------------------------------------------------------------------

TYPOS = {
    "befor_batch": "before_batch",
    "before_bach": "before_batch",
    "before_batches": "before_batch",
    "after_bach": "after_batch",
    "after_prediction": "after_predict",
    "afterbatch": "after_batch",
    "after_fitting": "after_fit",
    "cleanup_epochs": "cleanup_epoch",
    "clean_up_batch": "cleanup_batch",
    "Before_Fit": "before_fit",
    "get_los": "get_loss",
    "backwards": "backward",
    "zerograd": "zero_grad",
    "around_predictions": "around_predict",
}


@pytest.mark.parametrize(("typo", "meant"), TYPOS.items())
def test_a_misspelt_signal_is_refused_when_the_class_is_made(typo, meant):
    with pytest.raises(ValueError, match=rf"`Typo\.{typo}`.*did you mean `{meant}`"):
        make_class("Typo", (Callback,), **{typo: handler})


@pytest.mark.parametrize(("typo", "meant"), TYPOS.items())
def test_a_misspelt_signal_of_a_plain_class_is_refused_when_added(make_learner, typo, meant):
    with pytest.raises(ValueError, match=rf"`Typo\.{typo}`.*did you mean `{meant}`"):
        make_learner(make_class("Typo", **{typo: handler})())


def test_a_misspelt_signal_set_on_the_object_is_refused_when_added(make_learner):
    cb = Callback()
    cb.before_bach = lambda learn: None
    with pytest.raises(ValueError, match=r"before_bach`.*did you mean `before_batch`"):
        make_learner(cb)


@pytest.mark.parametrize("name", ["plot", "steps", "reset", "update", "_before_bach", "afterwards"])
def test_names_that_are_no_signals_are_free(make_learner, name):
    make_learner(make_class("Free", (Callback,), **{name: lambda self, a, b, c: None})())


BAD_HANDLERS = [lambda self: None, lambda self, learn, more: None, lambda self, learn, *, key: None]


@pytest.mark.parametrize("base", [Callback, object])
@pytest.mark.parametrize("function", BAD_HANDLERS)
@pytest.mark.parametrize("name", ["before_fit", "after_batch", "predict"])
def test_a_handler_that_cannot_be_called_with_the_learner_alone_is_refused(make_learner, base, function, name):
    with pytest.raises(TypeError, match=rf"`Wrong\.{name}` must take \(learn\).*def {name}\(self, learn\)"):
        make_learner(make_class("Wrong", (base,), **{name: function})())


@pytest.mark.parametrize("function", [lambda self, learn: None, lambda self: None])
def test_a_wrapper_must_take_learner_and_action(function):
    with pytest.raises(TypeError, match=r"`Wrong\.around_predict` must take \(learn, action\)"):
        make_class("Wrong", (Callback,), around_predict=function)


@pytest.mark.parametrize("function", [lambda self, learn, more=1: None, lambda self, *args, **kwargs: None])
def test_a_handler_may_take_more_if_it_need_not(make_learner, function):
    make_learner(make_class("Fine", (Callback,), before_fit=function)()).fit(0)


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


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("on_batch_end", "after_batch"),
        ("on_train_batch_start", "before_batch"),
        ("on_epoch_begin", "before_epoch"),
        ("on_validation_epoch_end", "after_epoch"),
        ("on_train_end", "after_fit"),
    ],
)
def test_the_handlers_of_other_frameworks_are_not_taken_in_silence(name, signal):
    with pytest.raises(ValueError, match=f"`Theirs.{name}` must be named like a signal.*`{signal}`"):
        type("Theirs", (Callback,), {name: lambda self, learn: None})


@pytest.mark.parametrize(("name", "option"), [("ordr", "order"), ("loader", "loaders"), ("evry", "every")])
def test_options_that_are_misspelt_are_refused(name, option):
    with pytest.raises(ValueError, match=f"`Misspelt.{name}` must be named otherwise, or did you mean `{option}`"):
        type("Misspelt", (Callback,), {name: "valid"})


@pytest.mark.parametrize("state", ["count", ("count", 3), {"count"}])
def test_a_state_that_is_no_tuple_of_names_is_refused_when_added(state):
    cb = type("Counts", (Callback,), {"state": state})()
    with pytest.raises(
        TypeError, match=r"`Counts.state` must be a tuple of names of attributes, got .*do \('n_seen',\)"
    ):
        Learner(nn.Linear(1, 1), {"train": [1]}, cbs=cb)
