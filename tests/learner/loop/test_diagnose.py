"""The note on an error: one, with the place and the likely cause, and never in the way of the error itself."""

import pytest
import torch
from torch import nn

from learner import Callback

Y = torch.tensor([0, 1, 2])


def note_of(caught):
    (note,) = caught.value.__notes__
    return note


def on_meta(where):
    x, model = torch.ones(3, 4), nn.Linear(4, 3)
    if where == "model":
        model = model.to("meta")
    return model, [(x.to("meta") if where == "xb" else x, Y.to("meta") if where == "yb" else Y)]


@pytest.mark.parametrize("where", ["model", "xb", "yb"])
@pytest.mark.parametrize("run", ["fit", "validate"])
def test_a_device_mismatch_names_the_callback_to_add(make_learner, where, run):
    model, batches = on_meta(where)
    learn = make_learner(model=model, dls={"train": batches, "valid": batches})
    with pytest.raises(RuntimeError, match="device") as caught:
        learn.fit(1) if run == "fit" else learn.validate()
    note = note_of(caught)
    assert "add DeviceCallback()" in note
    assert f"{'the model' if where == 'model' else where} on meta" in note


def test_float64_inputs_name_both_dtypes_and_the_cure(make_learner):
    learn = make_learner(dls={"train": [(torch.ones(3, 4, dtype=torch.float64), Y)]})
    with pytest.raises(RuntimeError, match="dtype") as caught:
        learn.fit(1)
    note = note_of(caught)
    assert [part for part in ("torch.float64", "torch.float32", ".float()") if part not in note] == []


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x), x


def test_a_model_that_returns_several_things_is_told_of_and_the_cure_works(make_learner):
    class First(Callback):
        def after_predict(self, learn):
            learn.preds = learn.preds[0]

    learn = make_learner(model=TwoOutputs(), dls={"train": [(torch.ones(3, 4), Y)]})
    with pytest.raises(TypeError, match="must be Tensor, not tuple") as caught:
        learn.fit(1)
    note = note_of(caught)
    assert "preds is (Tensor(3, 3) float32, Tensor(3, 4) float32), and `loss_f` gets all of it; take" in note
    learn.fit(1, cbs=First())
    assert learn.n_steps == 1


@pytest.mark.parametrize("kind", [ValueError, torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("is_owned", [False, True])
def test_an_error_in_the_middle_of_a_step_says_that_weights_may_be_half_new(make_learner, kind, is_owned):
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            raise kind("on purpose")

    class Owner(Callback):
        def step(self, learn):
            learn.opt.step()

    learn = make_learner(Owner() if is_owned else None, opt_func=Failing)
    with pytest.raises(kind, match="on purpose") as caught:
        learn.fit(1)
    assert "the optimizer had begun its step: the weights may be half new; go on from" in note_of(caught)


def test_a_loss_that_takes_several_things_is_not_told_to_take_one(make_learner):
    class Fails(Callback):
        def after_loss(self, learn):
            raise ValueError("on purpose")

    learn = make_learner(
        Fails(),
        model=TwoOutputs(),
        loss_f=lambda preds, y: nn.functional.cross_entropy(preds[0], y),
        dls={"train": [(torch.ones(3, 4), Y)]},
    )
    with pytest.raises(ValueError, match="on purpose") as caught:
        learn.fit(1)
    assert len(note_of(caught).splitlines()) == 1


class FailsInstead(Callback):
    def step(self, learn):
        raise ValueError("on purpose")


class FailsAround(Callback):
    def around_step(self, learn, action):
        action()
        raise ValueError("on purpose")


class FailsAfter(Callback):
    def after_step(self, learn):
        raise ValueError("on purpose")


class FailsToClear(torch.optim.SGD):
    has_failed = False

    def zero_grad(self, set_to_none=True):
        if not self.has_failed:
            self.has_failed = True
            raise ValueError("on purpose")


@pytest.mark.parametrize(
    ("cb", "opt_func"),
    [
        (FailsInstead, torch.optim.SGD),
        (FailsAround, torch.optim.SGD),
        (FailsAfter, torch.optim.SGD),
        (Callback, FailsToClear),
    ],
)
def test_an_error_beside_the_step_does_not(make_learner, cb, opt_func):
    with pytest.raises(ValueError, match="on purpose") as caught:
        make_learner(cb(), opt_func=opt_func).fit(1)
    assert "half new" not in note_of(caught)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_with_nothing_to_do_with_it_gets_no_such_hint(make_learner, kind):
    class Fails(Callback):
        def before_batch(self, learn):
            raise kind("on purpose")

    with pytest.raises(kind, match="on purpose") as caught:
        make_learner(Fails()).fit(1)
    assert len(note_of(caught).splitlines()) == 1


def test_an_error_before_the_first_batch_is_not_laid_to_the_batch_of_an_earlier_fit(make_learner):
    class Fails(Callback):
        def before_fit(self, learn):
            if learn.n_steps:
                raise ValueError("on purpose")

        def after_step(self, learn):
            raise ValueError("on purpose")

    learn = make_learner(Fails())
    for place in ("Fails.after_step, epoch 0, loader 'train', batch 0 of 3", "Fails.before_fit, epoch 0"):
        with pytest.raises(ValueError, match="on purpose") as caught:
            learn.fit(1)
        assert note_of(caught).partition(", xb")[0] == f"learner: in {place}"


def test_an_interrupt_is_nobodys_fault(make_learner):
    class Interrupts(Callback):
        def after_predict(self, learn):
            raise KeyboardInterrupt

    model, batches = on_meta("yb")
    with pytest.raises(KeyboardInterrupt) as caught:
        make_learner(Interrupts(), model=model, dls={"train": batches}).fit(1)
    assert "Interrupts.after_predict" in note_of(caught)
    assert "DeviceCallback" not in note_of(caught)


def test_an_error_of_a_pass_within_a_pass_is_noted_once_where_it_arose(make_learner):
    class Fails(Callback):
        def after_loss(self, learn):
            raise ValueError("on purpose")

    class Looks(Callback):
        def after_batch(self, learn):
            if learn.training and learn.i == 1:
                learn.validate(cbs=Fails())

    with pytest.raises(ValueError, match="on purpose") as caught:
        make_learner(Looks()).fit(1)
    note = note_of(caught)
    assert "Fails.after_loss, epoch 0, loader 'valid', batch 0 of 2" in note


def test_an_error_after_a_pass_within_a_pass_names_the_outer_one(make_learner):
    class Looks(Callback):
        def after_batch(self, learn):
            if learn.training and learn.i == 1:
                learn.validate()
                raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose") as caught:
        make_learner(Looks()).fit(1)
    assert "Looks.after_batch, epoch 0, loader 'train', batch 1 of 3, xb Tensor(16, 4)" in note_of(caught)


def test_an_error_of_the_loader_says_which_batch_it_was_about_to_give(make_learner):
    class Broken:
        def __iter__(self):
            yield torch.ones(3, 4), Y
            raise OSError("disk")

    with pytest.raises(OSError, match="disk") as caught:
        make_learner(dls={"train": Broken()}).fit(1)
    note = note_of(caught)
    assert "loader 'train'" in note
    assert "batch 1" in note
    assert "batch 0" not in note


class NoShape:
    shape = dtype = None


class BadShape:
    dtype = None

    @property
    def shape(self):
        raise RuntimeError("second")


class BadLength(list):
    def __len__(self):
        raise RuntimeError("second")


@pytest.mark.parametrize("batch", [NoShape(), BadShape(), BadLength([1]), {"a": BadShape()}, object()])
def test_a_batch_that_cannot_be_described_never_hides_the_error(make_learner, batch):
    error = ValueError("first")

    class Fails(Callback):
        def before_batch(self, learn):
            raise error

    with pytest.raises(ValueError, match="first") as caught:
        make_learner(Fails(), dls={"train": [batch]}).fit(1)
    assert caught.value is error
    assert "Fails.before_batch" in note_of(caught)


def test_notes_of_ones_own_are_kept(make_learner):
    class Fails(Callback):
        def before_batch(self, learn):
            error = ValueError("on purpose")
            error.add_note("mine")
            raise error

    with pytest.raises(ValueError, match="on purpose") as caught:
        make_learner(Fails()).fit(1)
    mine, note = caught.value.__notes__
    assert mine == "mine"
    assert "Fails.before_batch" in note


def test_an_error_of_the_learners_own_action_is_not_laid_at_the_door_of_a_wrapper(make_learner):
    class Innocent(Callback):
        def around_predict(self, learn, action):
            action()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        make_learner(Innocent(), dls={"train": [(torch.ones(3, 9), Y)]}).fit(1)
    assert "Innocent" not in note_of(caught)
