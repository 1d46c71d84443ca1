"""What the averages of weights share: where the average is seen, and that the trained weights come back."""

import copy
import pickle
from contextlib import suppress

import pytest
import torch
from torch import nn

from callbacks import BestModelCallback, EarlyStoppingCallback, EMACallback, ValidateCallback
from callbacks.train.average import averaged_parameters
from learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Learner,
    LearnerError,
    Loaders,
)
from tests.resuming import assert_equal_runs, seed_all, tiny_learner


class Look(Callback):
    """Copy the weights as they are at a signal, by the role of the pass."""

    def __init__(self, signal, order=0):
        self.order, self.seen = order, []
        setattr(self, signal, self.look)

    def look(self, learn):
        self.seen.append((learn.role, weights(learn)))


class FailAt(Callback):
    """Raise an error in a validation."""

    def __init__(self, error, signal="after_loss", order=1000):
        self.error, self.order = error, order
        setattr(self, signal, self.fail)

    def fail(self, learn):
        if not learn.training:
            raise self.error("on purpose")


def weights(learn):
    return nn.utils.parameters_to_vector(learn.model.parameters()).detach().clone()


def of(average):
    return nn.utils.parameters_to_vector(average.values())


def fitted(*cbs, n_epochs=2, **kwargs):
    learn = tiny_learner(list(cbs), **kwargs)
    seed_all(0)
    learn.fit(n_epochs)
    return learn


def test_training_is_bit_for_bit_what_it_is_without():
    """Weights, buffers, optimizer, random generators, and the history of what trains."""
    alone, learn = fitted(n_epochs=3), fitted(EMACallback(0.9), n_epochs=3)
    losses = [[row["train/loss"] for row in one.history] for one in (alone, learn)]
    assert losses[0] == losses[1]
    assert [row["valid/loss"] for row in alone.history] != [row["valid/loss"] for row in learn.history]
    alone.history, alone.metrics = learn.history, learn.metrics
    assert_equal_runs(alone, learn)


def test_the_loss_of_a_validation_is_that_of_the_average():
    ema = EMACallback(0.9)
    learn = fitted(ema, n_epochs=1)
    model = copy.deepcopy(learn.model)
    model.load_state_dict({**model.state_dict(), **ema.average})
    alone = Learner(model, learn.dls, learn.loss_f)
    assert learn.history[-1]["valid/loss"] == alone.validate()["loss"]


def test_the_average_is_there_from_the_first_signal_of_a_validation_to_its_last():
    ema = EMACallback(0.9)
    first, last = Look("before_epoch", 41), Look("cleanup_epoch", 41)
    learn = fitted(ema, first, last, n_epochs=1)
    assert [role for role, _ in first.seen] == ["train", "valid"]
    assert torch.equal(first.seen[1][1], of(ema.average))
    assert torch.equal(last.seen[1][1], of(ema.average))
    assert torch.equal(weights(learn), last.seen[0][1])


def test_without_validate_no_pass_sees_it():
    look = Look("after_loss")
    ema = EMACallback(0.9, validate=False)
    learn = fitted(ema, look, n_epochs=1)
    assert torch.equal(look.seen[-1][1], weights(learn))
    assert not torch.equal(of(ema.average), weights(learn))
    plain = fitted(n_epochs=1)
    assert plain.history.to_dict() == learn.history.to_dict()


def test_before_the_first_update_a_validation_sees_the_weights():
    look = Look("after_loss")
    fitted(EMACallback(0.9, every=7), ValidateCallback(1), look, n_epochs=1)  # an epoch has 6 steps
    seen = dict(look.seen)  # the last one of each role
    learn = fitted(n_epochs=1)
    assert torch.equal(seen["valid"], weights(learn))


def test_a_validation_in_the_middle_of_an_epoch_sees_the_average_of_then():
    averages, look = [], Look("after_loss")

    class Take(Callback):
        order = 80

        def after_batch(self, learn):
            if learn.training:
                averages.append(of(ema.average).clone())

    ema = EMACallback(0.9)
    with_it = fitted(ema, ValidateCallback(1), Take(), look, n_epochs=1)
    seen = [w for role, w in look.seen if role == "valid"][::3]  # one of the 3 batches of each pass
    assert len(seen) == 7
    assert all(torch.equal(a, b) for a, b in zip(seen[:6], averages, strict=True))
    assert torch.equal(weights(with_it), weights(fitted(n_epochs=1)))


def test_a_pass_within_a_validation_sees_it_and_leaves_it_in_place():
    class Nest(Callback):
        def after_batch(self, learn):
            if learn.role == "valid" and not learn.is_side_pass:
                learn.get_preds("valid")

    ema, look = EMACallback(0.9), Look("after_batch", 41)
    learn = fitted(ema, Nest(), look, n_epochs=1)
    seen = [w for role, w in look.seen if role != "train"]
    assert len(seen) == 3 + 3 * 3
    assert all(torch.equal(w, of(ema.average)) for w in seen)
    assert torch.equal(weights(learn), weights(fitted(n_epochs=1)))


@pytest.mark.parametrize("signal", ["before_epoch", "before_batch", "after_loss", "after_epoch", "cleanup_epoch"])
@pytest.mark.parametrize("error", [CancelFitException, CancelEpochException, KeyError, KeyboardInterrupt])
def test_the_trained_weights_are_back_however_a_validation_ends(error, signal):
    learn = tiny_learner([ema := EMACallback(0.9)])
    seed_all(0)
    with suppress(KeyError, KeyboardInterrupt):
        learn.fit(1, cbs=FailAt(error, signal))
    assert torch.equal(weights(learn), weights(fitted(n_epochs=1)))
    assert not torch.equal(of(ema.average), weights(learn))
    learn.fit(1)


def test_a_cancelled_batch_of_a_validation_leaves_the_average_in_place():
    ema, look = EMACallback(0.9), Look("after_epoch", 41)
    fitted(ema, FailAt(CancelBatchException), look, n_epochs=1)
    assert torch.equal(look.seen[-1][1], of(ema.average))


def test_what_goes_wrong_while_it_is_put_in_place_is_undone(monkeypatch):
    learn = fitted(ema := EMACallback(0.9))
    before, copies = weights(learn), []

    def interrupted(tensors, values):
        foreach_copy(tensors, values)
        copies.append(1)
        if len(copies) == 1:
            raise KeyboardInterrupt

    foreach_copy = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", interrupted)
    with pytest.raises(KeyboardInterrupt), ema.applied(learn):
        pass
    assert torch.equal(weights(learn), before)
    learn.fit(1)


def test_the_best_model_is_the_average_of_its_epoch():
    averages = []

    class Take(Callback):
        order = 80

        def after_epoch(self, learn):
            if learn.role == "valid":
                averages.append(of(ema.average).clone())

    ema, best = EMACallback(0.8), BestModelCallback(restore=True)
    learn = fitted(ema, best, Take(), n_epochs=4, lr=0.3)
    losses = [row["valid/loss"] for row in learn.history]
    assert learn.best.value == min(losses)
    assert torch.equal(weights(learn), averages[losses.index(min(losses))])
    assert learn.validate()["loss"] == pytest.approx(min(losses), rel=1)  # with the buffers of then
    with best.in_place(learn):
        assert learn.validate()["loss"] == min(losses)


def test_early_stopping_goes_by_the_average():
    stop = EarlyStoppingCallback(patience=1)
    learn = fitted(EMACallback(0.5), stop, n_epochs=30, lr=0.5)
    losses = [row["valid/loss"] for row in learn.history]
    assert stop.stopped_epoch == len(losses) - 1
    assert losses[-1] >= losses[-2]
    assert stop.best.value == min(losses)
    plain = fitted(n_epochs=len(losses), lr=0.5)
    assert torch.equal(weights(learn), weights(plain))


def test_a_validation_after_the_fit_sees_what_was_asked_for(tmp_path):
    learn = fitted(ema := EMACallback(0.9))
    trained, of_average = weights(learn), learn.history[-1]["valid/loss"]
    assert learn.validate()["loss"] != of_average
    with ema.applied(learn):
        assert learn.validate()["loss"] == of_average
        with ema.applied(learn):
            assert learn.validate()["loss"] == of_average
        assert torch.equal(weights(learn), of(ema.average))
    assert torch.equal(weights(learn), trained)
    with pytest.raises(KeyError, match="on purpose"), ema.applied(learn):
        raise KeyError("on purpose")
    assert torch.equal(weights(learn), trained)
    ema.apply(learn)
    assert learn.validate()["loss"] == of_average
    learn.export(tmp_path / "model.pt")
    written = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(written[name], value) for name, value in ema.average.items())


def test_applied_within_a_fit():
    """A callback may look at the average in a training pass, and find it in place in a validation."""
    losses = []

    class Ask(Callback):
        order = 80

        def after_epoch(self, learn):
            if not learn.is_side_pass:
                with ema.applied(learn):
                    losses.append(learn.validate()["loss"])

    ema = EMACallback(0.9, validate=False)
    learn = fitted(ema, Ask(), n_epochs=2)
    assert losses[::2] == losses[1::2]
    assert losses[::2] == [row["valid/loss"] for row in fitted(EMACallback(0.9)).history]
    assert torch.equal(weights(learn), weights(fitted()))


def test_what_would_be_lost_at_the_end_of_a_block_is_refused():
    learn = fitted(ema := EMACallback(0.9))
    trained = weights(learn)
    with ema.applied(learn), pytest.raises(LearnerError, match="`fit` must not be called inside `applied`"):
        learn.fit(1)
    with ema.applied(learn), pytest.raises(LearnerError, match="`apply` must not be called in a validation"):
        ema.apply(learn)
    assert torch.equal(weights(learn), trained)
    learn.fit(1)


def test_without_an_average_there_is_nothing_to_apply():
    learn = tiny_learner([ema := EMACallback(0.9)])
    with pytest.raises(LearnerError, match="EMACallback must have seen a fit that made a step"):
        ema.apply(learn)
    learn.fit(0)
    with pytest.raises(LearnerError, match="EMACallback must have seen a fit"), ema.applied(learn):
        pass


def test_a_model_of_other_parameters_is_refused_by_name_and_a_fit_begins_anew():
    learn = fitted(ema := EMACallback(0.9))
    learn.model[3] = nn.Linear(8, 5)
    with pytest.raises(LearnerError, match=r"'3.weight' is of shape \(5, 8\) here, of shape \(3, 8\) in the average"):
        ema.apply(learn)
    learn.model.add_module("4", nn.Linear(5, 3))
    learn.model[3] = nn.Linear(8, 3)
    with pytest.raises(LearnerError, match=r"'4.weight' is of shape \(3, 5\) here, missing in the average"):
        ema.apply(learn)
    del learn.model[4]
    del learn.model[1]
    with pytest.raises(LearnerError, match=r"'1.weight' is missing here, of shape \(8,\) in the average"):
        ema.apply(learn)
    learn = fitted(ema)
    learn.model[3], learn.opt = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3)), None
    learn.fit(1)
    assert ema.average.keys() == dict(learn.model.named_parameters()).keys()
    ema.apply(learn)


def test_a_parameter_that_is_put_in_the_place_of_one_within_a_fit():
    class Replace(Callback):
        """Put a model of other or of equal layers in place before the second round."""

        def __init__(self, make):
            self.make = make

        def before_epoch(self, learn):
            if learn.training and learn.epoch == 1:
                learn.model = self.make(learn.model)
                learn.opt = None

    ema = EMACallback(0.9)
    with pytest.raises(LearnerError, match=r"'4.weight' is of shape \(3, 3\) here, missing in the average"):
        fitted(ema, Replace(lambda model: nn.Sequential(*model, nn.Linear(3, 3))))
    learn = fitted(ema, Replace(copy.deepcopy))  # goes on with the same average
    assert ema.n_updates == 12
    assert [weights(learn).shape, True] == [of(ema.average).shape, torch.isfinite(of(ema.average)).all()]


def test_two_averages():
    with pytest.raises(ValueError, match="one average that validation sees, got EMACallback and EMACallback"):
        fitted(EMACallback(0.9), EMACallback(0.5))
    seen, other = EMACallback(0.9), EMACallback(0.5, validate=False)
    for cbs in ([seen, other], [other, seen]):
        learn = fitted(*cbs)
        assert learn.history.to_dict() == fitted(EMACallback(0.9)).history.to_dict()
        assert torch.equal(of(other.average), of(fitted_alone(0.5).average))


def fitted_alone(decay):
    fitted(ema := EMACallback(decay))
    return ema


def test_nothing_leaks_from_a_sandbox():
    learn = fitted(ema := EMACallback(0.9))
    average, n_updates = {name: value.clone() for name, value in ema.average.items()}, ema.n_updates
    before = weights(learn)
    with learn.sandbox():
        learn.fit(1, lr=1.0)
        ema.apply(learn)
        assert not torch.equal(of(ema.average), of(average))
    assert torch.equal(weights(learn), before)
    assert torch.equal(of(ema.average), of(average))
    assert ema.n_updates == n_updates
    learn.lr_find(n=10, plot=False)
    assert torch.equal(weights(learn), before)
    assert torch.equal(of(ema.average), of(average))
    with ema.applied(learn), learn.sandbox():
        learn.validate()
    assert torch.equal(weights(learn), before)


def test_it_can_be_copied_and_pickled_with_its_learner():
    learn = fitted(ema := EMACallback(0.9))
    twin = copy.deepcopy(learn)
    other = twin.cbs[0]
    other.apply(twin)
    assert torch.equal(of(other.average), weights(twin))
    assert not torch.equal(weights(learn), weights(twin))
    again = pickle.loads(pickle.dumps(ema))
    assert torch.equal(of(again.average), of(ema.average))
    again.apply(learn)
    assert torch.equal(weights(learn), of(ema.average))


def test_parameters_of_a_loss_are_averaged_and_whole_numbers_are_not():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, preds, yb):
            return nn.functional.cross_entropy(preds * self.scale, yb) + self.scale**2

    learn = tiny_learner([ema := EMACallback(0.5)])
    learn.loss_f = Scaled()
    learn.model.n_seen = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    assert "n_seen" not in averaged_parameters(learn)
    learn.fit(2)
    trained = learn.loss_f.scale.detach().clone()
    assert ema.average["loss_f.scale"] != trained
    with ema.applied(learn):
        assert learn.loss_f.scale == ema.average["loss_f.scale"]
        assert learn.validate()["loss"] == learn.history[-1]["valid/loss"]
    assert learn.loss_f.scale == trained


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    x = torch.randn(8, 4)
    dls = Loaders.from_arrays(train=(x, x), valid=(x, x), batch_size=4)
    learn = Learner(Tied(), dls, nn.functional.mse_loss, cbs=(ema := EMACallback(0.9)))
    learn.fit(2)
    assert list(ema.average) == ["a.weight"]
    ema.apply(learn)
    assert learn.model.a.weight is learn.model.b.weight
    assert torch.equal(learn.model.b.weight, ema.average["a.weight"])


def test_validate_must_be_a_bool():
    with pytest.raises(TypeError, match="`validate` must be True or False, got 'yes'"):
        EMACallback(validate="yes")
