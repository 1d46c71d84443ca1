"""`learn.interpret`: the pass behind it, over any loader, for each kind of loss."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, WeightedRandomSampler

from callbacks import (
    ClassificationMetricsCollector,
    CollectCallback,
    MetricsCallback,
    RegressionMetricsCollector,
    accuracy,
)
from learner import Learner, LearnerError, Loaders
from learner.records.interpretation import ClassInterpretation, RegressionInterpretation

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 3


def learner(loss_f=F.cross_entropy, target=Y, n_out=3, cbs=(), dls=None, tail=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, n_out), *tail)
    dls = dls or Loaders.from_arrays(train=(X, target), valid=(X, target), batch_size=7)
    return Learner(model, dls, loss_f, cbs=cbs)


def by_hand(learn):
    learn.model.eval()
    with torch.no_grad():
        preds = learn.model(X)
    learn.model.train()
    return preds


def test_every_sample_of_the_loader_once_in_eval_mode():
    learn = learner()
    found = learn.interpret()
    preds = by_hand(learn)
    assert isinstance(found, ClassInterpretation)
    np.testing.assert_array_equal(found.samples.numpy("example_id"), np.arange(30))
    np.testing.assert_array_equal(found.samples.numpy("predicted"), preds.argmax(1))
    np.testing.assert_allclose(found.samples.numpy("loss"), F.cross_entropy(preds, Y, reduction="none"), rtol=1e-5)
    np.testing.assert_allclose(found.samples.numpy("confidence"), preds.softmax(1).amax(1), rtol=1e-5)
    assert found.samples.splits == ["valid"]


def test_a_sampler_that_draws_at_random_makes_no_difference():
    data = list(zip(X, Y, strict=True))
    loader = DataLoader(data, batch_size=4, sampler=WeightedRandomSampler([0.0] + [1.0] * 29, 100))
    found = learner(dls={"train": loader}).interpret("train")
    np.testing.assert_array_equal(found.samples.numpy("example_id"), np.arange(1, 30))
    assert found.samples.table[3][1] == Y[3]  # the samples themselves can be looked at


def test_batches_in_a_list_are_numbered_as_they_come():
    batches = list(zip(X.split(8), Y.split(8), strict=True))
    found = learner(dls={"valid": batches}).interpret()
    np.testing.assert_array_equal(found.samples.numpy("example_id"), np.arange(30))


@pytest.mark.parametrize(
    ("loss_f", "tail"), [(F.binary_cross_entropy_with_logits, ()), (nn.BCELoss(), (nn.Sigmoid(),))]
)
def test_two_classes_by_one_output(loss_f, tail):
    target = (Y[:, None] > 0).float()
    learn = learner(loss_f, target, n_out=1, tail=tail)
    found = learn.interpret(classes=["no", "yes"])
    logits = by_hand(learn)[:, 0] if not tail else by_hand(learn)[:, 0].logit()
    np.testing.assert_array_equal(found.samples.numpy("predicted"), logits > 0)
    expected = F.binary_cross_entropy_with_logits(logits, target[:, 0], reduction="none")
    np.testing.assert_allclose(found.samples.numpy("loss"), expected, rtol=1e-4)
    assert found.classes == ("no", "yes")


def test_numbers_have_residuals():
    target = X.sum(1, keepdim=True)
    learn = learner(F.mse_loss, target, n_out=1)
    found = learn.interpret()
    assert isinstance(found, RegressionInterpretation)
    np.testing.assert_allclose(found.residuals, (by_hand(learn) - target)[:, 0], rtol=1e-5)
    with pytest.raises(LearnerError, match="`classes` must be left out for a regression"):
        learn.interpret(classes=["a"])


def test_names_come_from_the_collector_of_the_learner_or_the_call():
    collect = CollectCallback(ClassificationMetricsCollector(classes=["a", "b", "c"]))
    assert learner(cbs=collect).interpret().classes == ("a", "b", "c")
    assert learner(cbs=collect).interpret(classes=["x", "y", "z"]).classes == ("x", "y", "z")
    with pytest.raises(ValueError, match="`classes` must be a name for each of the 3 classes, got 2"):
        learner().interpret(classes=["x", "y"])


def test_a_loss_that_nobody_knows_is_asked_about():
    learn = learner(lambda preds, target: F.cross_entropy(preds, target))
    with pytest.raises(LearnerError, match=r"the loss must be one of torch's .* `interpret\(outputs='logits'\)`"):
        learn.interpret()
    assert learn.interpret(outputs="logits").summary()["accuracy"] <= 1
    assert len(learn.interpret(collector=ClassificationMetricsCollector()).samples) == 30
    with pytest.raises(TypeError, match="`collector` must be a MetricsCollector, got 3"):
        learn.interpret(collector=3)
    with pytest.raises(KeyError, match="there is no loader 'test'"):
        learn.interpret("test")
    with pytest.raises(LearnerError, match="RegressionMetricsCollector must be given predictions"):
        learn.interpret(collector=RegressionMetricsCollector())


def test_nothing_is_left_behind():
    learn = learner(cbs=MetricsCallback(accuracy=accuracy))
    learn.fit(1)
    metrics, n_rows, state, cbs = dict(learn.metrics), len(learn.history), torch.get_rng_state(), learn.cbs
    learn.interpret()
    assert (learn.metrics, len(learn.history), learn.cbs) == (metrics, n_rows, cbs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in learn.model.modules())
