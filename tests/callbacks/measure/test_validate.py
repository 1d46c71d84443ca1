"""ValidateCallback: validates in the middle of training, and training does not notice."""

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback, MetricsCallback, ValidateCallback, accuracy
from learner import Callback, CancelFitException, Learner, Loaders
from tests.resuming import resumed_from_each, tiny_learner


def points(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, (x.sum(1) > 0).long()


def learner(cbs=None, **loaders):
    """Return a learner that draws random numbers while it trains, and whose modules are not all in one mode."""
    torch.manual_seed(0)
    data = {"train": points(44, 1), "valid": points(12, 2), **loaders}
    dls = Loaders.from_arrays(batch_size=8, shuffle=True, **data)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[3].eval()
    return Learner(model, dls, nn.functional.cross_entropy, lr=0.05, cbs=cbs)


def state(learn):
    return {"rng": torch.get_rng_state(), **learn.model.state_dict()}


class Trace(Callback):
    """Write down the pass's state when a batch ends, after everybody else."""

    order = 1000

    def __init__(self):
        self.rows, self.modes = [], []

    def after_batch(self, learn):
        if learn.training:
            grads = [p.grad.clone() for p in learn.model.parameters() if p.grad is not None]  # within a window
            self.rows.append((learn.dl_name, learn.role, learn.i, learn.n_batches, learn.batch_size, learn.n_samples))
            self.rows += [learn.xb, learn.yb, learn.preds.detach(), learn.loss.detach(), *grads]
            self.modes.append((torch.is_grad_enabled(), [module.training for module in learn.model.modules()]))


def test_validates_every_so_many_training_batches_over_epochs():
    validate = ValidateCallback(every=4)
    learn = learner(validate)
    learn.fit(2)  # 6 batches each
    assert [n_steps for n_steps, _ in validate.rows] == [4, 8, 12]
    learn.fit(1)
    assert [n_steps for n_steps, _ in validate.rows] == [12 + 4]


def test_what_it_finds_is_what_a_validation_there_finds():
    class ByHand(Callback):
        order = 90

        def __init__(self):
            self.found = []

        def after_batch(self, learn):
            if learn.training and learn.i in (2, 5):
                self.found.append(learn.validate())

    validate, by_hand = ValidateCallback(every=3), ByHand()
    for cb in (validate, by_hand):
        learner([cb, MetricsCallback(share=lambda preds, target: preds.argmax(1).float().mean())]).fit(2)
    assert [metrics for _, metrics in validate.rows] == by_hand.found
    assert validate.rows[0].metrics.keys() == {"loss", "share"}


def test_the_weights_it_sees_are_those_after_the_step():
    validate = ValidateCallback("2 batches")
    learn = learner(validate)
    learn.fit(1)
    last = validate.rows[-1]
    assert last.n_steps == learn.n_steps
    assert last.metrics == learn.validate()


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", ["valid", "valid2", "train", "train2"])
def test_training_does_not_notice(every, name):
    extra = {"valid2": points(20, 3), "train2": points(20, 4)}
    plain, watched = (
        learner([Trace(), AccumulateCallback(2)], **extra),
        learner([Trace(), AccumulateCallback(2)], **extra),
    )
    watched.add_cb(ValidateCallback(every, name))
    states = []
    for learn in (plain, watched):
        torch.manual_seed(1)
        learn.fit(2)
        states.append(state(learn))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert plain.history.to_dict() == watched.history.to_dict()
    a, b = plain.cbs[0], watched.cbs[0]
    assert a.modes == b.modes
    assert len(a.rows) == len(b.rows) > 5 * len(a.modes)  # gradients are among them
    for one, other in zip(a.rows, b.rows, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_by_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("learner.loop.frequency.monotonic", lambda: now[0])

    class Slow(Callback):
        def before_batch(self, learn):
            now[0] += 60 * learn.training

    validate = ValidateCallback("3 min")
    learner([Slow(), validate]).fit(1)
    assert [n_steps for n_steps, _ in validate.rows] == [3, 6]


def test_a_fit_may_be_ended_by_what_it_finds():
    class Stop(Callback):
        def after_epoch(self, learn):
            if learn.dl_name == "valid" and learn.metrics["valid"]["loss"] < 100:
                raise CancelFitException

    validate = ValidateCallback(every=2)
    learn = learner([validate, Stop()])
    learn.fit(5)
    assert learn.n_steps == 2
    assert learn.history.to_dict()["cut_short"] == ["train: CancelFitException"]


def test_plot_draws_each_metric_over_the_steps():
    validate = ValidateCallback(every=3)
    assert len(validate.plot().axes) == 1
    learner([validate, MetricsCallback(share=lambda preds, target: preds.argmax(1).float().mean())]).fit(1)
    axes = validate.plot().axes
    assert [ax.get_title() for ax in axes] == ["valid/loss", "valid/share"]
    for ax, name in zip(axes, ("loss", "share"), strict=True):
        assert list(ax.lines[0].get_xdata()) == [3, 6]
        assert list(ax.lines[0].get_ydata()) == [metrics[name] for _, metrics in validate.rows]


def test_a_loader_that_is_not_there_is_missed_when_the_fit_begins():
    learn = learner(ValidateCallback(100, "valid2"))
    with pytest.raises(KeyError, match="there is no loader 'valid2', only 'train', 'valid'"):
        learn.fit(1)
    assert learn.n_steps == 0


@pytest.mark.parametrize(
    ("every", "error", "message"),
    [
        ("2 epochs", ValueError, "`every` must be in batches, steps or time, got '2 epochs'"),
        ("epoch", ValueError, "`every` must be in batches, steps or time, got 'epoch'"),
        (None, ValueError, "`every` must be in batches, steps or time, got None"),
        (0, ValueError, "`every` must be a number of batches, .* got 0"),
        (2.5, TypeError, r"`every` must be a number of batches, .* got 2\.5"),
    ],
)
def test_refuses_an_interval_that_will_not_do(every, error, message):
    with pytest.raises(error, match=message):
        ValidateCallback(every)


def test_a_fit_that_goes_on_has_the_rows_of_before(tmp_path):
    made = []

    def make(cbs):
        made.append(ValidateCallback(every=4))
        return tiny_learner([*cbs, made[-1], MetricsCallback(accuracy=accuracy)])

    resumed_from_each(make, 2, tmp_path)
    whole, *others = [validate.rows for validate in made]
    assert [row.n_steps for row in whole] == [4, 8, 12]
    assert len(others) == 12
    assert others == [whole] * 12
    assert others[-1][0].metrics.keys() == {"loss", "accuracy"}
