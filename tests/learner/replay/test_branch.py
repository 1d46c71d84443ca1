"""Futures of a moment, side by side."""

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback, CheckpointCallback, ClipGradientCallback, MetricsCallback, accuracy
from learner import Learner, LearnerError
from learner.replay import lr, seed, without
from learner.replay.branch import AS_IT_WAS
from tests.resuming import differing, tiny_learner
from tests.rewinding import SETTINGS, length_of, listing, make, state_of


@pytest.fixture
def folder(tmp_path):
    """Return a folder of checkpoints of 3 epochs of 6 batches, with a validation each."""
    tiny_learner(CheckpointCallback(tmp_path)).fit(3)
    return tmp_path


@pytest.fixture
def learn(folder):
    return tiny_learner(CheckpointCallback(folder))


@pytest.mark.parametrize(
    ("name", "step", "n_steps"),
    [
        ("one-cycle, all noise", 3, 3),
        ("ema", 4, 3),
        ("fp16", 1, 1),
        ("steps in rounds", 6, 4),
        ("two optimizers", 4, 2),
    ],
)
def test_a_change_of_nothing_gives_the_same_bits(name, step, n_steps, tmp_path):
    setting = SETTINGS[name]
    whole, _ = make(setting, tmp_path, every=5)
    whole.fit(**length_of(setting))
    learn, spy = make(setting, tmp_path)
    spy.is_on = False
    futures = learn.branch(tmp_path, step, n_steps, change=lambda learn: None)
    assert set(futures.difference()["changed"].values()) == {0.0}
    assert differing(futures.history["changed"], futures.history[AS_IT_WAS]) == []
    assert futures.samples() == {"changed": []}


def test_the_future_as_it_was_is_that_of_the_run(learn, folder):
    """Its losses are those on record, and its end is where `rewind` stands."""
    futures = learn.branch(folder, step=8, n_steps=6, change=lr(0.5))
    *rows, last = futures.history[AS_IT_WAS]
    assert [(row["n_steps"], row["epoch"], row["i"]) for row in rows] == [
        *[(step, 1, step - 7) for step in range(9, 13)],
        *[(13, 2, 0), (14, 2, 1)],
    ]
    with learn.rewind(folder, step=8) as then:
        for row in rows:
            assert then.run() == row["train/loss"]
            then.advance()
        assert last == {"n_steps": 14, "valid/loss": learn.validate()["loss"]}


def test_several_changes_each_have_a_future_of_their_own(learn, folder):
    changes = {"lr": lr(0.5), "seed": seed(3), "clip": lambda learn: learn.add_cb(ClipGradientCallback(0.01))}
    changes |= {"loss": lambda learn: setattr(learn, "loss_f", nn.CrossEntropyLoss(label_smoothing=0.5)), "same": same}
    before, files = state_of(learn), listing(folder)
    futures = learn.branch(folder, step=8, n_steps=3, change=changes)
    moved = {name: max(layers.values()) > 0 for name, layers in futures.difference().items()}
    assert moved == {"lr": True, "seed": True, "clip": True, "loss": True, "same": False}
    assert list(futures.history) == [AS_IT_WAS, *changes]
    alone = learn.branch(folder, step=8, n_steps=3, change={"clip": changes["clip"]})
    assert alone.difference()["clip"] == futures.difference()["clip"]
    assert differing(state_of(learn), before) == []
    assert listing(folder) == files
    assert learn.loss_f is nn.functional.cross_entropy


def same(learn):
    pass


def test_the_distance_of_a_layer_is_that_of_its_weights(learn, folder):
    ends = []
    for change in (same, lr(0.5)):
        with learn.rewind(folder, step=8) as then:
            then.change(change)
            then.advance(2)
            ends.append([learn.model[3].weight.detach().clone(), learn.model[3].bias.detach().clone()])
    (w, b), (w2, b2) = ends
    expected = ((w - w2).square().sum() + (b - b2).square().sum()).sqrt() / (w.square().sum() + b.square().sum()).sqrt()
    futures = learn.branch(folder, step=8, n_steps=2, change=lr(0.5))
    assert list(futures.difference()) == ["lr x 0.5"]
    assert list(futures.difference()["lr x 0.5"]) == ["0", "1", "3"]
    assert futures.difference()["lr x 0.5"]["3"] == pytest.approx(expected.item(), rel=1e-5)  # in float64 there


def test_it_says_which_samples_end_in_another_class(learn, folder):
    futures = learn.branch(folder, step=8, n_steps=6, change={"other": lr(20)})
    said = []
    for change in (same, lr(20)):
        with learn.rewind(folder, step=8) as then:
            then.change(change)
            then.advance(6)
            said.append(learn.get_preds("valid")[0])
    rows = futures.samples()["other"]
    expected = (said[0].argmax(1) != said[1].argmax(1)).nonzero().flatten().tolist()
    assert expected
    assert sorted(row["sample"] for row in rows) == expected
    assert [row["distance"] for row in rows] == sorted((row["distance"] for row in rows), reverse=True)
    for row in rows:
        k = row["sample"]
        assert (row[AS_IT_WAS], row["other"]) == (said[0][k].argmax(), said[1][k].argmax())
        assert row["distance"] == pytest.approx((said[0][k] - said[1][k]).norm().item(), rel=1e-5)
        assert row["loader"] == "valid"


def test_it_counts_steps_where_several_batches_share_one(tmp_path):
    def learner():
        return tiny_learner([CheckpointCallback(tmp_path), AccumulateCallback(2), MetricsCallback(accuracy)])

    learner().fit(3)
    futures = learner().branch(tmp_path, step=4, n_steps=2, change=same)
    *rows, last = futures.history["same"]
    assert [row["n_steps"] for row in rows] == [4, 5, 5, 6]
    assert set(last) == {"n_steps", "valid/loss", "valid/accuracy"}


def test_the_picture_shows_curves_and_layers(learn, folder):
    futures = learn.branch(folder, step=8, n_steps=3, change={"a": lr(0.5), "b": seed(1)})
    losses, apart, layers = futures.plot().axes
    assert [line.get_label() for line in losses.lines] == [AS_IT_WAS, "a", "b"]
    assert losses.lines[1].get_ydata().tolist() == [row["train/loss"] for row in futures.history["a"][:-1]]
    assert apart.lines[0].get_ydata()[0] == 0  # the first loss comes before the first step
    assert [bar.get_width() for bar in layers.patches[:3]] == list(futures.difference()["a"].values())
    assert [label.get_text() for label in layers.get_yticklabels()] == ["0", "1", "3"]
    assert repr(futures).startswith("Branch at step 8: as it was, a, b\nas it was: valid/loss ")


def broken(learn):
    raise RuntimeError("mine")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_steps": 0}, ValueError, "`n_steps` must be at least 1, got 0"),
        ({"n_steps": 2.5}, TypeError, "`n_steps` must be a whole number"),
        ({"n_steps": 11}, LearnerError, "`n_steps` must be at most 10, the steps that are left of the fit, got 11"),
        ({"step": 99}, LearnerError, "`step=99` must be within the fit"),
        ({"change": {}}, ValueError, "`change` must hold a change at least"),
        ({"change": {AS_IT_WAS: same}}, ValueError, "`change` must have names that are text and not 'as it was'"),
        ({"change": {3: same}}, ValueError, "`change` must have names that are text"),
        ({"change": 3}, TypeError, "`change` must be a function of the learner, got 3"),
        ({"change": nn.Linear}, TypeError, "`change` must be a function of the learner"),
        (
            {"change": lambda learn: learn.model},
            TypeError,
            "`change` must change the learner and return nothing, got Seq",
        ),
        ({"change": broken}, RuntimeError, "mine"),
        ({"change": without(99)}, LearnerError, r"`ids` must be samples of the batch, got \[99\]"),
        (
            {"change": lambda learn: setattr(learn, "model", nn.Linear(4, 3))},
            LearnerError,
            "`change` must keep the model",
        ),
        (
            {"change": lambda learn: learn.model.append(nn.Linear(3, 3)) and None},
            LearnerError,
            "`change` must keep the model and",
        ),
    ],
)
def test_what_cannot_be_is_one_error_and_the_learner_is_as_before(learn, folder, arguments, error, words):
    before, model = state_of(learn), learn.model
    arguments = {"step": 8, "n_steps": 3, "change": same, **arguments}
    with pytest.raises(error, match=words):
        learn.branch(folder, **arguments)
    assert learn.model is model
    if len(model) == 4:  # a layer that is added to a model stays: a change of its own kind
        assert differing(state_of(learn), before) == []


def test_it_does_not_begin_while_the_learner_runs(learn, folder):
    class Within:
        def after_batch(self, learn):
            learn.branch(folder, 8, 1, same)

    with pytest.raises(LearnerError, match="`branch` must not be called while this learner runs"):
        learn.fit(1, cbs=Within())


def test_predictions_that_are_no_rows_are_passed_over(tmp_path):
    """Of numbers, the samples whose number differs; of nests of tensors nobody knows what to compare."""

    def learner(model, loss_f):
        x = torch.arange(12.0)[:, None]
        data = [(x[:4], x[:4]), (x[4:8], x[4:8])]
        cbs = CheckpointCallback(tmp_path / type(model).__name__)
        return Learner(model, {"train": data, "valid": [(x[8:], x[8:])]}, loss_f, 1e-4, cbs=cbs)

    for model, loss_f, n in ((nn.Linear(1, 1), nn.functional.mse_loss, 4), (Both(), both_loss, 0)):
        learn = learner(model, loss_f)
        learn.fit(2)
        futures = learn.branch(tmp_path / type(model).__name__, step=2, n_steps=1, change=lr(3))
        assert len(futures.samples()["lr x 3"]) == n


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(x), x


def both_loss(preds, yb):
    return (preds[0] - yb).square().mean()
