"""When each signal comes, who is cleaned up, and what goes on after a Cancel, an error or an interrupt."""

import copy
import itertools
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Learner,
    PostponeStepException,
)

SIGNALS = ("before_fit", "before_epoch", "before_batch", "after_predict", "after_loss", "after_backward")
SIGNALS += ("after_step", "after_batch", "cleanup_batch", "after_epoch", "cleanup_epoch", "after_fit", "cleanup_fit")
ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")
CANCELS = (CancelStepException, CancelBatchException, CancelEpochException, CancelFitException)


def tiny_dls(n_train=2, n_valid=2):
    """Give pre-made batches of three points in the plane."""
    generator = torch.Generator().manual_seed(3)

    def batches(n):
        return [(torch.randn(3, 2, generator=generator), torch.randn(3, 1, generator=generator)) for _ in range(n)]

    return {"train": batches(n_train), "valid": batches(n_valid)}


def tiny_learner(cbs=None, cls=Learner, dls=None, **kwargs):
    torch.manual_seed(0)
    return cls(nn.Linear(2, 1), dls or tiny_dls(), nn.functional.mse_loss, cbs=cbs, **kwargs)


class Watcher:
    """Write down every signal and wrapped action that comes by, and raise where it is told to.

    Args:
        trace: takes `(signal, class name, what was raised or None)`.
        faults: by signal, what to raise at its first, second, ... time; None for nothing.
    """

    def __init__(self, trace, faults=None):
        self.trace, self.faults = trace, {signal: iter(errors) for signal, errors in (faults or {}).items()}

    def hear(self, signal):
        error = next(self.faults.get(signal, iter(())), None)
        self.trace.append((signal, type(self).__name__, error))
        if error is not None:
            raise error


def listen_to(signal):
    return lambda self, learn: self.hear(signal)


def wrap(action):
    def around(self, learn, action_itself):
        self.hear(f"around_{action}")
        action_itself()

    return around


for name in SIGNALS:
    setattr(Watcher, name, listen_to(name))
for name in ACTIONS:
    setattr(Watcher, f"around_{name}", wrap(name))


class First(Watcher):
    """The first of the callbacks."""

    order = -1


class Middle(Watcher):
    """Neither the first nor the last."""


class Last(Watcher):
    """The last of those that raise."""

    order = 1


class Observer(Watcher):
    """Comes after all others and never raises: what it hears has come to its end."""

    order = 2


WHO = (First, Middle, Last)


def check_balance(trace):
    """Each clean-up once, last first, for those whose `before_` came and did not fail, inner stages first."""
    owed = []
    for signal, who, error in trace:
        when, _, stage = signal.partition("_")
        if when == "before" and (error is None or isinstance(error, CANCELS)):
            owed.append((stage, who))
        elif when == "cleanup":
            assert owed.pop() == (stage, who)
    assert owed == []


def heard(trace, signal, who=Observer):
    return sum(event[:2] == (signal, who.__name__) for event in trace)


# -- the golden trace ---------------------------------------------------------------------------------------------


class TracedLearner(Learner):
    """Write down actions as they are carried out."""

    def predict(self):
        self.trace.append("predict")
        super().predict()

    def get_loss(self):
        self.trace.append("get_loss")
        super().get_loss()

    def backward(self):
        self.trace.append("backward")
        super().backward()

    def step(self):
        self.trace.append("step")
        super().step()

    def zero_grad(self):
        self.trace.append("zero_grad")
        super().zero_grad()


class TraceSignals(Callback):
    """Write down signals."""


for name in SIGNALS:
    setattr(TraceSignals, name, lambda self, learn, name=name: learn.trace.append(name))


def traced_learner(dls):
    learn = tiny_learner(TraceSignals(), cls=TracedLearner, dls=dls)
    learn.trace = []
    return learn


def test_golden_trace_of_an_epoch():
    learn = traced_learner(tiny_dls(n_train=2, n_valid=1))
    learn.fit(1)
    # fmt: off
    assert learn.trace == [
        "before_fit",
            "before_epoch",
                "before_batch",
                    "predict", "after_predict", "get_loss", "after_loss",
                    "backward", "after_backward", "step", "after_step", "zero_grad",
                "after_batch",
                "cleanup_batch",
                "before_batch",
                    "predict", "after_predict", "get_loss", "after_loss",
                    "backward", "after_backward", "step", "after_step", "zero_grad",
                "after_batch",
                "cleanup_batch",
            "after_epoch",
            "cleanup_epoch",
            "before_epoch",
                "before_batch",
                    "predict", "after_predict", "get_loss", "after_loss",
                "after_batch",
                "cleanup_batch",
            "after_epoch",
            "cleanup_epoch",
        "after_fit",
        "cleanup_fit",
    ]
    # fmt: on


def test_an_infer_loader_gets_forward_alone():
    learn = traced_learner({**tiny_dls(n_train=1), "infer": [torch.ones(3, 2)]})
    learn.fit(1)
    assert learn.trace[-10:] == [
        *("before_epoch", "before_batch", "predict", "after_predict", "after_batch", "cleanup_batch"),
        *("after_epoch", "cleanup_epoch", "after_fit", "cleanup_fit"),
    ]


@pytest.mark.parametrize("run", [Learner.validate, Learner.get_preds])
def test_a_pass_of_its_own_emits_the_signals_of_epoch_and_batch_alone(run):
    learn = traced_learner(tiny_dls(n_valid=1))
    run(learn)
    loss = ["get_loss", "after_loss"] if run is Learner.validate else []
    assert learn.trace == [
        *("before_epoch", "before_batch", "predict", "after_predict", *loss),
        *("after_batch", "cleanup_batch", "after_epoch", "cleanup_epoch"),
    ]


def test_signals_come_in_order_and_cleanup_in_reverse():
    trace = []
    tiny_learner([Last(trace), First(trace), Middle(trace)]).fit(1)
    by_signal = {}
    for signal, who, _ in trace:
        by_signal.setdefault(signal, []).append(who)
    for signal, names in by_signal.items():
        in_order = ["Last", "Middle", "First"] if signal.startswith("cleanup_") else ["First", "Middle", "Last"]
        assert names == in_order * (len(names) // 3), signal


# -- one fault, everywhere ----------------------------------------------------------------------------------------

IN_STEP = ("before_batch", "after_predict", "after_loss", "after_backward", "after_step")
IN_STEP += tuple(f"around_{action}" for action in ACTIONS)
POINTS = (*SIGNALS, *IN_STEP[-len(ACTIONS) :])


def stage_of(point):
    return point.partition("_")[2] if point.endswith(("_fit", "_epoch")) else "batch"


def reaches_caller(kind, point):
    """Whether an exception raised at a point is raised by `fit`: errors are, and a Cancel outside of its stage."""
    return {
        CancelFitException: False,
        CancelEpochException: stage_of(point) == "fit",
        CancelBatchException: stage_of(point) != "batch",
        CancelStepException: point not in IN_STEP,
    }.get(kind, True)


def batches_begun(kind, point):
    """How many of the 2 + 2 batches begin, with a fault at the first time that a point comes by."""
    so_far = {"before_fit": 0, "before_epoch": 0, "after_epoch": 2, "cleanup_epoch": 2, "after_fit": 4}
    so_far["cleanup_fit"] = 4
    until_fault = so_far.get(point, 1)
    if reaches_caller(kind, point) or kind is CancelFitException:
        return until_fault
    return until_fault + 2 * (until_fault < 4 or point == "before_epoch") if kind is CancelEpochException else 4


def ends(stage, kind, point):
    """Whether a fault keeps `after_<stage>` from coming: it ends that stage, before the stage has succeeded."""
    stages = ("batch", "epoch", "fit")
    if point == f"cleanup_{stage}" or stages.index(stage_of(point)) > stages.index(stage):
        return False
    if kind is CancelStepException and point in IN_STEP:
        return False
    reach = {CancelBatchException: 0, CancelEpochException: 1}.get(kind, 2)
    return reaches_caller(kind, point) or reach >= stages.index(stage)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, StopIteration, *CANCELS])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("who", WHO)
def test_a_fault_at_every_point(who, point, kind):
    """The five promises: balance, what the caller gets, what goes on, clean edges, and a next fit as if new."""
    trace, fault = [], kind("on purpose")
    cbs = [cls(trace, {point: [fault]} if cls is who else None) for cls in (*WHO, Observer)]
    learn = tiny_learner(cbs, opt_func=torch.optim.SGD)
    raised = None
    try:
        learn.fit(1)
    except BaseException as error:
        raised = error

    check_balance(trace)
    assert raised is (fault if reaches_caller(kind, point) else None)

    n_begun = batches_begun(kind, point)
    assert heard(trace, "before_batch", First) == n_begun
    assert heard(trace, "after_batch") == n_begun - ends("batch", kind, point)
    n_passes = heard(trace, "before_epoch", First)
    assert heard(trace, "after_epoch") == n_passes - ends("epoch", kind, point)
    assert heard(trace, "after_fit") == 1 - ends("fit", kind, point)

    assert all(p.grad is None for p in learn.model.parameters())
    assert learn.model.training
    assert not learn.model._forward_hooks
    assert torch.is_grad_enabled()
    assert list(learn.cbs) == cbs

    fresh = tiny_learner()
    fresh.model.load_state_dict(copy.deepcopy(learn.model.state_dict()))
    learn.fit(1)
    fresh.fit(1)
    assert torch.equal(learn.model.weight, fresh.model.weight)
    check_balance(trace)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("point", POINTS)
def test_an_error_is_noted_with_who_when_and_where(point, kind):
    fault = kind("on purpose")
    learn = tiny_learner([First([]), Middle([], {point: [fault]})])
    with pytest.raises(kind, match="on purpose") as caught:
        learn.fit(1)
    assert caught.value is fault
    (note,) = fault.__notes__
    expected = [f"Middle.{point}", "epoch 0"]
    if stage_of(point) != "fit":
        expected.append("'train'")
    if stage_of(point) == "batch":
        expected += ["batch 0 of 2", "(3, 2)", "(3, 1)"]
    assert [part for part in expected if part not in note] == []


def test_the_note_says_which_batch_of_which_loader():
    fault = ValueError("on purpose")
    learn = tiny_learner(Middle([], {"after_loss": [None] * 7 + [fault]}))  # 2 + 2 batches an epoch
    with pytest.raises(ValueError, match="on purpose"):
        learn.fit(2)
    assert "epoch 1, loader 'valid', batch 1 of 2" in fault.__notes__[0]


def test_an_error_without_a_callback_is_noted_too():
    learn = tiny_learner(dls={"train": [(torch.ones(3, 5), torch.ones(3, 1))]})
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        learn.fit(1)
    (note,) = caught.value.__notes__
    assert "epoch 0, loader 'train', batch 0 of 1" in note
    assert "(3, 5)" in note


def test_an_error_keeps_its_cause():
    class Chained(Callback):
        def after_batch(self, learn):
            raise ValueError("outer") from KeyError("inner")

    with pytest.raises(ValueError, match="outer") as caught:
        tiny_learner(Chained()).fit(1)
    assert isinstance(caught.value.__cause__, KeyError)


# -- clean-up that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["fit", "epoch", "batch"])
@pytest.mark.parametrize("second", [RuntimeError, KeyboardInterrupt, *CANCELS])
def test_a_failing_cleanup_never_hides_the_first_error(stage, first, second):
    trace, error = [], first("first")
    faults = {"after_batch": [error], f"cleanup_{stage}": [second("second")]}
    learn = tiny_learner([First(trace), Middle(trace, faults), Last(trace)])
    with pytest.raises(first, match="first") as caught:
        learn.fit(1)
    assert caught.value is error
    check_balance(trace)
    if second not in CANCELS:
        assert f"cleanup_{stage}: {second.__name__}: second" in error.__notes__[-1]


@pytest.mark.parametrize("stage", ["fit", "epoch", "batch"])
@pytest.mark.parametrize("cancel", CANCELS)
def test_a_failing_cleanup_is_raised_where_only_a_cancel_ended_the_stage(stage, cancel):
    trace, error = [], ValueError("in clean-up")
    learn = tiny_learner([First(trace, {f"cleanup_{stage}": [error]}), Last(trace, {"before_batch": [cancel()]})])
    with pytest.raises(ValueError, match="in clean-up") as caught:
        learn.fit(1)
    assert caught.value is error
    check_balance(trace)


@pytest.mark.parametrize("stage", ["fit", "epoch", "batch"])
def test_of_several_failing_cleanups_the_first_is_raised_and_the_others_are_noted(stage):
    trace, signal = [], f"cleanup_{stage}"
    learn = tiny_learner([cls(trace, {signal: [ValueError(cls.__name__)]}) for cls in WHO])
    with pytest.raises(ValueError, match="Last") as caught:
        learn.fit(1)
    notes = "\n".join(caught.value.__notes__)
    assert f"Last.{signal}" in notes
    assert "ValueError: Middle" in notes
    assert "ValueError: First" in notes
    check_balance(trace)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(CANCELS[1:], 2)))
def test_of_two_cancels_the_one_that_ends_more_holds(first, second):
    trace = []
    tiny_learner(
        [Middle(trace, {"after_loss": [first()], "cleanup_batch": [second()]}), Observer(trace)],
    ).fit(1)
    stronger = max(first, second, key=CANCELS.index)
    assert heard(trace, "before_batch") == {CancelEpochException: 3, CancelFitException: 1}[stronger]
    check_balance(trace)


# -- who is owed a clean-up ---------------------------------------------------------------------------------------


def test_a_callback_with_cleanup_and_no_before_is_cleaned_up_if_its_turn_came():
    class OnlyCleanup:
        def __init__(self, order):
            self.order, self.n = order, 0

        def cleanup_fit(self, learn):
            self.n += 1

    early, late = OnlyCleanup(-5), OnlyCleanup(5)
    learn = tiny_learner([late, early, Middle([], {"before_fit": [ValueError("on purpose")]})])
    with pytest.raises(ValueError, match="on purpose"):
        learn.fit(1)
    assert (early.n, late.n) == (1, 0)


def test_a_callback_that_is_added_in_the_middle_is_cleaned_up_only_where_it_began():
    trace = []
    learn = tiny_learner([First(trace)])

    class Adds(Callback):
        order = -2

        def after_predict(self, learn):
            if not any(isinstance(cb, Last) for cb in learn.cbs):
                learn.add_cb(Last(trace))

    learn.add_cb(Adds())
    learn.fit(1)
    check_balance(trace)
    assert heard(trace, "before_batch", Last) == 3
    assert heard(trace, "before_epoch", Last) == 1
    assert heard(trace, "cleanup_fit", Last) == 0


def test_a_callback_that_is_removed_in_the_middle_is_still_cleaned_up():
    trace = []
    gone = Last(trace)

    class Removes(Callback):
        def after_predict(self, learn):
            if gone in learn.cbs:
                learn.remove_cb(gone)

    learn = tiny_learner([gone, Removes()])
    learn.fit(1)
    check_balance(trace)
    assert (heard(trace, "before_batch", Last), heard(trace, "cleanup_fit", Last)) == (1, 1)
    assert gone not in learn.cbs


# -- clean edges --------------------------------------------------------------------------------------------------


def gradients_are_clear(learn):
    return all(p.grad is None or not p.grad.any() for p in learn.model.parameters())


@pytest.mark.parametrize("cancel", [CancelBatchException, CancelEpochException])
def test_a_cancelled_training_batch_leaves_no_gradient_for_the_next(cancel):
    seen = []

    class Cancels(Callback):
        def before_batch(self, learn):
            seen.append(gradients_are_clear(learn))

        def after_backward(self, learn):
            raise cancel

    learn = tiny_learner(Cancels())
    before = learn.model.weight.clone()
    learn.fit(2)
    assert len(seen) > 2
    assert all(seen)
    assert torch.equal(learn.model.weight, before)


@pytest.mark.parametrize(("kind", "n_skipped"), [(CancelStepException, 1), (PostponeStepException, 0)])
def test_a_cancelled_step_drops_its_gradient_and_one_that_is_put_off_keeps_it_for_the_next(kind, n_skipped):
    class SkipOdd(Callback):
        def after_backward(self, learn):
            if learn.i == 0:
                raise kind

    dls = tiny_dls(n_train=2)
    learn = tiny_learner(SkipOdd(), dls=dls)
    by_hand = copy.deepcopy(learn.model)
    learn.fit(1)
    opt = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for x, y in list(dls["train"])[n_skipped:]:
        nn.functional.mse_loss(by_hand(x), y).backward()
    opt.step()
    assert torch.equal(learn.model.weight, by_hand.weight)
    assert (learn.n_steps, learn.n_skipped) == (1, n_skipped)


def test_gradients_are_cleared_when_a_fit_ends_even_if_zero_grad_does_not():
    class KeepsGradients(Learner):
        def zero_grad(self):
            pass

    learn = tiny_learner(cls=KeepsGradients)
    learn.fit(1)
    assert gradients_are_clear(learn)


def rng_states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.mark.parametrize("kind", [None, ValueError, KeyboardInterrupt, *CANCELS[1:3]])
def test_a_pass_that_does_not_train_puts_modes_grad_mode_and_generators_back_however_it_ends(kind):
    class Draws(Callback):
        def before_batch(self, learn):
            random.random()
            np.random.rand()
            torch.rand(1)
            self.was_eval = not learn.model.training
            self.had_grad = torch.is_grad_enabled()
            if kind:
                raise kind

    draws, learn = Draws(), tiny_learner()
    before = rng_states()
    with pytest.raises(kind) if kind in (ValueError, KeyboardInterrupt) else nullcontext():
        learn.validate(cbs=draws)
    assert (draws.was_eval, draws.had_grad) == (True, False)
    assert rng_states() == before
    assert learn.model.training
    assert torch.is_grad_enabled()


# -- any mix of faults --------------------------------------------------------------------------------------------

FAULTS = st.dictionaries(
    st.tuples(st.sampled_from(WHO), st.sampled_from(POINTS)),
    st.lists(st.sampled_from([None, None, ValueError, KeyboardInterrupt, *CANCELS]), min_size=1, max_size=4),
    max_size=6,
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(FAULTS)
def test_any_mix_of_faults_is_balanced_and_the_first_error_wins(plan):
    trace = []
    cbs = []
    for who in WHO:
        mine = {point: [kind and kind() for kind in kinds] for (cls, point), kinds in plan.items() if cls is who}
        cbs.append(who(trace, mine))
    learn = tiny_learner(cbs)
    raised = None
    try:
        learn.fit(2)
    except BaseException as error:
        raised = error
    check_balance(trace)
    errors = [error for _, _, error in trace if error is not None and not isinstance(error, CANCELS)]
    if errors:
        assert raised is errors[0]
    else:
        assert raised is None or isinstance(raised, CANCELS)
    assert gradients_are_clear(learn)
    assert learn.model.training

    for cb in cbs:
        cb.faults = {}
    trace.clear()
    learn.fit(1)
    check_balance(trace)
    assert heard(trace, "after_fit", Last) == 1
