"""LambdaCallback: functions at signals."""

import pytest

from callbacks import LambdaCallback
from learner import Learner
from learner.callback import SIGNALS
from learner.loop.naming import ACTIONS, AROUND


def test_functions_are_called_with_the_learner_in_order(make_learner):
    seen = []
    cb = LambdaCallback(
        before_fit=lambda learn: seen.append(("before_fit", learn)),
        after_epoch=lambda learn: seen.append((learn.dl_name, learn)),
        cleanup_fit=lambda learn: seen.append(("cleanup_fit", learn)),
    )
    learn = make_learner(cb)
    learn.fit(1)
    assert seen == [("before_fit", learn), ("train", learn), ("valid", learn), ("cleanup_fit", learn)]


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_signal_will_do(make_learner, signal):
    seen = []
    make_learner(LambdaCallback(**{signal: lambda learn: seen.append(learn)})).fit(1)
    assert seen


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_may_be_taken_over_or_wrapped(make_learner, action):
    seen = []

    def around(learn, action):
        seen.append("wrapped")
        action()

    def own(learn):
        seen.append("owned")
        getattr(Learner, action)(learn)

    plain, learn = make_learner(), make_learner([LambdaCallback(**{action: own, f"around_{action}": around})])
    learn.dls = plain.dls = {"train": [next(iter(learn.dls["train"]))]}
    plain.fit(1)
    learn.fit(1)
    assert seen == ["wrapped", "owned"]
    assert learn.history.to_dict() == plain.history.to_dict()


def test_signals_of_a_subclass_will_do(make_learner):
    class WithMixing(Learner):
        signals = ("after_mixing",)

        def predict(self):
            self.callback("after_mixing")
            super().predict()

    plain, seen = make_learner(), []
    learn = WithMixing(plain.model, plain.dls, plain.loss_f, cbs=LambdaCallback(after_mixing=seen.append))
    learn.fit(1)
    assert seen[0] is learn


def test_order_may_be_set(make_learner):
    seen = []
    late, early = (
        LambdaCallback(before_fit=lambda _: seen.append("late")),
        LambdaCallback(before_fit=lambda _: seen.append("early")),
    )
    early.order = -5
    make_learner([late, early]).fit(0)
    assert seen == ["early", "late"]


@pytest.mark.parametrize(
    ("name", "nearest"), [("befor_batch", "before_batch"), ("after_steps", "after_step"), ("on_fit_start", ".*")]
)
def test_an_unknown_name_is_refused_with_the_nearest_signal(name, nearest):
    with pytest.raises(ValueError, match=f"got '{name}'; is it '{nearest}'"):
        LambdaCallback(**{name: lambda learn: None})


@pytest.mark.parametrize(
    ("name", "function", "match"),
    [
        ("after_batch", lambda: None, r"`LambdaCallback.after_batch` must take \(learn\)"),
        ("around_step", lambda learn: None, r"`LambdaCallback.around_step` must take \(learn, action\)"),
        ("after_batch", 3, "`after_batch` must be a function, got 3"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(name, function, match):
    with pytest.raises(TypeError, match=match):
        LambdaCallback(**{name: function})


def test_every_name_is_known():
    assert LambdaCallback(**dict.fromkeys((*SIGNALS, *ACTIONS), print), **dict.fromkeys(AROUND, print)).order == 0
