"""What a method of a callback may be called, and what is refused."""

import pytest

from learner import Callback

ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")


def handler(self, learn):
    """Do nothing."""


def make_class(name, bases=(), **members):
    return type(name, bases, members)


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
