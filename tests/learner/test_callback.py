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
