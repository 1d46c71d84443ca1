"""A learner is saved between two fits, as plain data alone, or refused with the reason."""

import pytest
import torch

from learner import Callback, LearnerError
from learner.checkpoint.file import read_checkpoint
from tests.resuming import leaves, tiny_learner


@pytest.mark.parametrize("call", ["save", "load"])
@pytest.mark.parametrize("signal", ["before_fit", "after_batch"])
def test_not_in_the_middle_of_a_fit(tmp_path, call, signal):
    path = tmp_path / "learn.pt"
    tiny_learner([]).save(path)
    act = type("Act", (Callback,), {signal: lambda self, learn: getattr(learn, call)(path)})()
    with pytest.raises(LearnerError, match=f"`{call}` must not be called while this learner runs"):
        tiny_learner([act]).fit(1)


def test_what_is_no_plain_data_is_named_when_it_is_saved(tmp_path):
    class Odd(Callback):
        state = ("function",)

        def __init__(self):
            self.function = len

    with pytest.raises(
        TypeError, match=r"`state\['callbacks'\]\['Odd'\]\['function'\]` must be plain data, got builtin"
    ):
        tiny_learner([Odd()]).save(tmp_path / "learn.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_plain_data_alone(tmp_path):
    learn = tiny_learner([])
    learn.fit(1)
    learn.save(tmp_path / "learn.pt")
    kinds = {type(value) for _, value in leaves(read_checkpoint(tmp_path / "learn.pt"))}
    assert kinds <= {torch.Tensor, int, float, str, bool, type(None)}
