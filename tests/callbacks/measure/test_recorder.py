"""What is recorded, and of which moment of a batch."""

import math
from functools import partial

import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from callbacks import AccumulateCallback, CheckpointCallback, RecorderCallback, SchedulerCallback
from learner import Callback, CancelBatchException, CancelFitException, CancelStepException, Learner, LearnerError
from tests.resuming import resumed_from_each, tiny_learner

LR = {"lr": lambda learn: learn.opt.param_groups[0]["lr"]}


class RaiseAt(Callback):
    order = 1000

    def __init__(self, signal, i, error):
        self.i, self.error = i, error
        setattr(self, signal, self.hear)

    def hear(self, learn):
        if learn.training and learn.i == self.i:
            raise self.error


def make(n_batches, cbs, batch_size=2):
    """Return a learner of batches whose targets tell them apart."""
    batches = [(torch.ones(batch_size, 1), torch.full((batch_size, 1), float(i))) for i in range(n_batches)]
    return Learner(nn.Linear(1, 1), {"train": batches, "valid": batches[:1]}, nn.functional.mse_loss, 0.01, cbs=cbs)


def test_one_row_for_each_training_batch_with_the_values_of_that_batch():
    recorder = RecorderCallback(
        i=lambda learn: learn.i, y=lambda learn: learn.yb[0], training=lambda learn: learn.training
    )
    make(3, recorder).fit(2)
    assert recorder.values == {"i": [0, 1, 2] * 2, "y": [0, 1, 2] * 2, "training": [1] * 6}


def test_the_learning_rate_is_that_of_the_batch_and_not_of_the_next_one():
    recorder = RecorderCallback(**LR)
    make(4, [recorder, SchedulerCallback(partial(OneCycleLR, max_lr=0.1))]).fit(2)
    opt = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.01)
    schedule, expected = OneCycleLR(opt, max_lr=0.1, total_steps=8), []
    for _ in range(8):
        expected.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    assert recorder.values["lr"] == expected


def test_the_gradients_and_the_loss_of_the_batch_are_there():
    recorder = RecorderCallback(
        grad=lambda learn: learn.model.bias.grad, loss=lambda learn: learn.loss, y=lambda learn: learn.preds.mean()
    )
    learn = make(3, recorder)
    learn.fit(1, lr=0)
    with torch.no_grad():
        pred = learn.model(torch.ones(1, 1)).item()
    assert recorder.values["grad"] == pytest.approx([2 * (pred - i) for i in range(3)])
    assert recorder.values["loss"] == pytest.approx([(pred - i) ** 2 for i in range(3)])
    assert recorder.values["y"] == pytest.approx([pred] * 3)


def test_batches_without_a_step_of_their_own_have_rows_too():
    """Windows of two over five batches: the last step is made after the last batch, and adds no row."""
    recorder = RecorderCallback(i=lambda learn: learn.i, n_steps=lambda learn: learn.n_steps, **LR)
    cbs = [AccumulateCallback(2), recorder, SchedulerCallback(partial(OneCycleLR, max_lr=0.1))]
    make(5, cbs).fit(2)
    values = recorder.values
    assert values["i"] == [0, 1, 2, 3, 4] * 2
    assert values["n_steps"] == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]
    assert values["lr"][0] == values["lr"][1] != values["lr"][2] == values["lr"][3] != values["lr"][4]


@pytest.mark.parametrize("signal", ["after_loss", "after_step"])
def test_a_skipped_step_has_a_row(signal):
    recorder = RecorderCallback(i=lambda learn: learn.i)
    make(3, [recorder, RaiseAt(signal, 1, CancelStepException())]).fit(1)
    assert recorder.values["i"] == [0, 1, 2]


@pytest.mark.parametrize("signal", ["before_batch", "after_loss", "after_step"])
def test_a_cancelled_batch_has_no_row_nor_lends_its_values(signal):
    recorder = RecorderCallback(i=lambda learn: learn.i)
    skip_next = RaiseAt("after_loss", 2, CancelStepException())
    make(4, [recorder, RaiseAt(signal, 1, CancelBatchException()), skip_next]).fit(1)
    assert recorder.values["i"] == [0, 2, 3]


def test_a_validation_within_a_batch_changes_nothing():
    class Validate(Callback):
        def after_step(self, learn):
            learn.validate()

    recorder = RecorderCallback(i=lambda learn: learn.i, grad=lambda learn: learn.model.bias.grad)
    make(3, [recorder, Validate()]).fit(1)
    assert recorder.values["i"] == [0, 1, 2]
    assert not any(map(math.isnan, recorder.values["grad"]))


def test_values_are_not_waited_for_until_they_are_read():
    """A tensor on the meta device has no value: to ask for it fails."""
    recorder = RecorderCallback(x=lambda learn: torch.zeros((), device="meta"))
    make(300, recorder).fit(1)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        recorder.values


def test_tensors_that_change_in_place_are_recorded_as_they_were():
    recorder = RecorderCallback(weight=lambda learn: learn.model.weight)
    weights = []

    class Note(Callback):
        def after_step(self, learn):
            weights.append(learn.model.weight.item())

    make(4, [recorder, Note()]).fit(1)
    assert recorder.values["weight"] == weights
    assert len(set(weights)) == 4


def test_many_values_of_all_kinds_keep_their_order():
    kinds = [
        lambda i: i,
        lambda i: float(i),
        lambda i: torch.tensor(float(i)),
        lambda i: torch.tensor([i]),
        lambda i: torch.tensor([[i]], dtype=torch.float64),
        lambda i: torch.tensor(float(i)).numpy(),
    ]
    recorder = RecorderCallback(i=lambda learn: kinds[learn.i % 7](learn.i) if learn.i % 7 < 6 else None)
    make(600, recorder).fit(1)
    assert len(recorder.values["i"]) == 600
    for i, value in enumerate(recorder.values["i"]):
        assert type(value) is float
        assert value == i or (i % 7 == 6 and math.isnan(value))


def test_whole_numbers_lose_nothing_among_floats():
    """float32 cannot hold 2**24 + 1."""
    recorder = RecorderCallback(x=lambda learn: torch.tensor(0.5 if learn.i % 2 else 2**24 + 1))
    make(4, recorder).fit(1)
    assert recorder.values["x"] == [2**24 + 1, 0.5] * 2


def test_each_fit_starts_anew_and_keeps_what_it_has_if_it_ends_early():
    recorder = RecorderCallback(i=lambda learn: learn.i)
    learn = make(4, recorder)
    learn.fit(3)
    learn.fit(1, cbs=RaiseAt("after_batch", 2, CancelFitException()))
    assert recorder.values["i"] == [0, 1, 2]


def test_before_a_fit_there_is_nothing():
    recorder = RecorderCallback(**LR)
    assert recorder.values == {}
    plt.close(recorder.plot())


def test_a_failing_function_is_named():
    recorder = RecorderCallback(**LR, broken=lambda learn: learn.nothing_like_this)
    with pytest.raises(AttributeError, match="nothing_like_this") as caught:
        make(2, recorder).fit(1)
    assert "in the function `broken` of RecorderCallback" in caught.value.__notes__


@pytest.mark.parametrize("value", [torch.zeros(2), "a", [1.0], torch.zeros(3).numpy()])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="a number or a tensor with one element, got") as caught:
        make(2, RecorderCallback(thing=lambda learn: value)).fit(1)
    assert "in the function `thing` of RecorderCallback" in caught.value.__notes__


def test_a_function_may_cancel():
    def stop(learn):
        raise CancelFitException

    learn = make(3, RecorderCallback(stop=stop))
    learn.fit(1)
    assert learn.n_steps == 1


def test_it_must_be_given_functions():
    with pytest.raises(TypeError, match="`fns` must hold a function at least, got none"):
        RecorderCallback()
    with pytest.raises(TypeError, match=r"`lr` must be a function of the learner, got 0\.1"):
        RecorderCallback(lr=0.1)


def test_it_becomes_a_data_frame():
    recorder = RecorderCallback(i=lambda learn: learn.i, **LR)
    make(2, recorder).fit(2)
    frame = pd.DataFrame({"i": [0.0, 1.0, 0.0, 1.0], "lr": [0.01] * 4})
    pd.testing.assert_frame_equal(recorder.to_pandas(), frame)


def test_a_panel_for_each_value_shows_it():
    recorder = RecorderCallback(i=lambda learn: learn.i, **LR)
    make(3, recorder).fit(1)
    figure = recorder.plot()
    assert [ax.get_title() for ax in figure.axes] == ["i", "lr"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0, 1, 2]
    plt.close(figure)


def test_a_fit_that_goes_on_has_the_values_of_before(tmp_path):
    """Of tensors, whole numbers, floats, and tensors and floats in turn."""
    recorders = []

    def learner(cbs):
        recorder = RecorderCallback(
            **LR,
            loss=lambda learn: learn.loss,
            n=lambda learn: torch.tensor(2**50 + learn.n_steps),
            odd=lambda learn: learn.loss if learn.i % 2 else 0.1 * learn.i,
        )
        recorders.append(recorder)
        return tiny_learner([*cbs, recorder])

    resumed_from_each(learner, 2, tmp_path)
    whole, *others = [recorder.values for recorder in recorders]
    assert [len(values) for values in whole.values()] == [12] * 4
    assert len(others) == 12
    assert others == [whole] * 12


def test_many_values_go_into_a_checkpoint_as_a_few_tensors():
    recorder, again = RecorderCallback(i=lambda learn: learn.i), RecorderCallback(i=lambda learn: learn.i)
    make(600, recorder).fit(1)
    for _ in range(3):  # a checkpoint leaves nothing behind
        state = recorder.state_dict()
    assert [values.shape for values in state["i"]] == [(256,), (256,), (88,)]
    again.load_state_dict(state)
    assert again.values == recorder.values == {"i": list(range(600))}


def test_a_fit_goes_on_with_the_same_values_only(tmp_path):
    tiny_learner([CheckpointCallback(tmp_path), RecorderCallback(**LR)]).fit(1)
    learn = tiny_learner([CheckpointCallback(tmp_path), RecorderCallback(rate=LR["lr"])])
    with pytest.raises(LearnerError, match=r"the values are \['rate'\] here, \['lr'\] saved of callback Recorder"):
        learn.fit(2, resume=True)
