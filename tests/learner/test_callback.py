"""The table of signals and options."""

import pytest

from learner import Callback

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


@pytest.mark.parametrize(("name", "option"), [("ordr", "order"), ("loader", "loaders"), ("evry", "every")])
def test_options_that_are_misspelt_are_refused(name, option):
    with pytest.raises(ValueError, match=f"`Misspelt.{name}` must be named otherwise, or did you mean `{option}`"):
        type("Misspelt", (Callback,), {name: "valid"})


# -- in words ------------------------------------------------------------------------------------------------------


class Settings(Callback):
    def __init__(self, *layers, n=1, rate=0.5, fn=None, table=(), other=2):
        self.layers, self.n, self.rate, self.fn, self.table = layers, n, rate, fn, table


@pytest.mark.parametrize(
    ("cb", "words"),
    [
        (Callback(), "Callback()"),
        (Settings(), "Settings()"),
        (Settings("body", n=3, rate=0.5), "Settings(layers=('body',), n=3)"),
        (Settings(fn=print, table=range(5)), "Settings(fn=<built-in function print>, table=range(0, 5))"),
        (Settings(fn=lambda: None, table=list(range(99)), other=5), "Settings()"),  # no address, nothing long
    ],
)
def test_a_callback_in_words_is_its_class_and_the_settings_that_it_was_given(cb, words):
    assert repr(cb) == words
