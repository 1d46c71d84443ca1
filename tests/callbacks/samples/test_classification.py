"""What the collector of a classifier says, compared with scikit-learn, SciPy and arithmetic."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import log_loss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from callbacks import ClassificationMetricsCollector
from learner import LearnerError, PredictorOutput

CLASSIFICATION = ["label", "predicted", "loss", "accuracy", "confidence", "true_probability", "margin", "entropy"]


def collected(collector, output, label, hidden=None):
    columns = collector.collect((None, label), PredictorOutput(output, hidden or {}))
    return {name: column.numpy() for name, column in columns.items()}


def expected_of(logits, label):
    """Compute the columns of a classifier sample by sample, in float64."""
    logits, label = logits.double().numpy(), label.long().numpy()
    exps = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exps / exps.sum(1, keepdims=True)
    rows = range(len(label))
    classes = range(logits.shape[1])
    predicted = logits.argmax(1)
    return {
        "label": label,
        "predicted": predicted,
        "loss": [log_loss(label[i : i + 1], probabilities[i : i + 1], labels=classes) for i in rows],
        "accuracy": predicted == label,
        "confidence": probabilities.max(1),
        "true_probability": [probabilities[i, label[i]] for i in rows],
        "margin": [logits[i, label[i]] - max(logits[i, j] for j in classes if j != label[i]) for i in rows],
        "entropy": entropy(probabilities, axis=1),
    }


def assert_equal_columns(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], np.asarray(column, float), atol=tolerance, err_msg=name)


# -- classification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_of_logits_for_each_class(n_classes, dtype):
    logits, label = 3 * torch.randn(50, n_classes), torch.randint(0, n_classes, (50,)).to(dtype)
    found = collected(ClassificationMetricsCollector(), logits, label)
    assert list(found) == CLASSIFICATION
    assert_equal_columns(found, expected_of(logits, label))


@pytest.mark.parametrize("logit_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("label_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.float16])
def test_one_logit_is_the_log_odds_of_the_second_class(logit_shape, label_shape, dtype):
    one, label = 3 * torch.randn(50), torch.randint(0, 2, (50,))
    found = collected(ClassificationMetricsCollector(), one.reshape(logit_shape), label.to(dtype).reshape(label_shape))
    assert_equal_columns(found, expected_of(torch.stack([torch.zeros(50), one], 1), label))
    by_torch = binary_cross_entropy_with_logits(one, label.float(), reduction="none")
    np.testing.assert_allclose(found["loss"], by_torch, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_whole(dtype):
    logits, label = (5 * torch.randn(50, 5)).to(dtype), torch.randint(0, 5, (50,))
    found = collected(ClassificationMetricsCollector(), logits, label)
    assert found["loss"].dtype == np.float32
    assert_equal_columns(found, expected_of(logits, label), 1e-5)


def test_double_precision_is_kept():
    logits, label = torch.randn(20, 3).double(), torch.randint(0, 3, (20,))
    found = collected(ClassificationMetricsCollector(), logits, label)
    assert found["loss"].dtype == np.float64
    assert_equal_columns(found, expected_of(logits, label), 1e-14)


def test_certain_and_impossible_classes():
    logits = torch.tensor([[1000.0, 0.0, -torch.inf], [1000.0, 0.0, -torch.inf]])
    found = collected(ClassificationMetricsCollector(), logits, torch.tensor([0, 1]))
    assert found["loss"].tolist() == [0, 1000]
    assert found["entropy"].tolist() == [0, 0]
    assert found["margin"].tolist() == [1000, -1000]


@pytest.mark.parametrize("make", [lambda x: SimpleNamespace(logits=x), lambda x: {"logits": x, "loss": None}])
@pytest.mark.parametrize("key", ["labels", "label", "y", "target"])
def test_of_outputs_and_batches_with_names(make, key):
    logits, label = torch.randn(8, 3), torch.randint(0, 3, (8,))
    batch = {"input_ids": torch.zeros(8, 4), key: label}
    columns = ClassificationMetricsCollector().collect(batch, PredictorOutput(make(logits), {}))
    np.testing.assert_allclose(columns["loss"], cross_entropy(logits, label, reduction="none"), atol=1e-6)


def test_a_loss_of_ones_own_gets_both_as_they_come():
    logits, label = torch.randn(6, 1), torch.randint(0, 2, (6, 1)).float()
    loss = nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor(3.0))
    found = collected(ClassificationMetricsCollector(loss_fn=loss), logits, label)
    np.testing.assert_array_equal(found["loss"], loss(logits, label)[:, 0])


def test_a_loss_that_is_a_mean():
    collector = ClassificationMetricsCollector(loss_fn=cross_entropy)
    with pytest.raises(LearnerError, match=r"a loss for each of the 4 samples, got Tensor\(\).*reduction='none'"):
        collected(collector, torch.randn(4, 3), torch.zeros(4).long())


@pytest.mark.parametrize("classes", [["cat", "dog"], ("cat", "dog"), {1: "dog", 0: "cat"}])
def test_class_names_are_those_of_label_and_predicted(classes):
    collector = ClassificationMetricsCollector(classes=classes)
    assert {name: schema.classes for name, schema in collector.column_schemas.items()} == {
        "label": ("cat", "dog"),
        "predicted": ("cat", "dog"),
    }
    assert ClassificationMetricsCollector().column_schemas == {}


def test_class_ids_are_not_averaged():
    averaged = ClassificationMetricsCollector().averaged
    assert [name for name in CLASSIFICATION if averaged(name)] == CLASSIFICATION[2:]


@pytest.mark.parametrize(("wrong", "told"), [(3, "got 3"), (-1, "got -1"), (-100, "got -100")])
def test_a_label_that_is_no_class(wrong, told):
    label = torch.tensor([0, 2, wrong, 1])
    with pytest.raises(LearnerError, match=f"labels must be class ids from 0 to 2, {told}; leave samples without"):
        collected(ClassificationMetricsCollector(), torch.randn(4, 3), label)


@pytest.mark.parametrize("wrong", [0.9, torch.nan, 2.0])
def test_a_soft_label_is_no_class(wrong):
    with pytest.raises(LearnerError, match="labels must be class ids from 0 to 1"):
        collected(ClassificationMetricsCollector(), torch.randn(2), torch.tensor([0.0, wrong]))


def test_on_a_device_labels_are_looked_at_when_they_are_read(monkeypatch):
    logits, label = torch.randn(4, 3), torch.tensor([0, -100, 3, 2])
    good = expected_of(logits[[0, 3]], label[[0, 3]])
    collector = ClassificationMetricsCollector()
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    found = collected(collector, logits, label)
    assert_equal_columns({name: column[[0, 3]] for name, column in found.items()}, good)
    assert np.isnan([found[name][1:3] for name in CLASSIFICATION[4:]]).all()
    with pytest.raises(LearnerError, match="from 0 to 2, got -100"):
        collector.check(found)
    collector.check({name: column[[0, 3]] for name, column in found.items()})


def test_a_subclass_may_have_columns_of_its_own():
    class Wrong(ClassificationMetricsCollector):
        def compute_metrics(self, batch, predictor_output):
            return {"wrong": 1 - super().compute_metrics(batch, predictor_output)["accuracy"]}

    collector = Wrong()
    found = collected(collector, torch.eye(3), torch.tensor([0, 1, 0]))
    assert found["wrong"].tolist() == [0, 0, 1]
    collector.check(found)


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        (torch.zeros(4, 3), torch.zeros(3).long()),
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4, 3).long()),
        (torch.zeros(4, 3, 2), torch.zeros(4, 2).long()),
        (torch.zeros(4, 3, dtype=torch.complex64), torch.zeros(4).long()),
        (torch.zeros(4), torch.zeros(4, 2)),
        (torch.zeros(()), torch.zeros(4)),
        ([1.0, 2.0], torch.zeros(2).long()),
        (torch.zeros(2, 3), ["cat", "dog"]),
    ],
)
def test_shapes_that_do_not_belong_together(logits, label):
    with pytest.raises(LearnerError, match=r"must be given logits \(N, C\) or \(N,\) and labels \(N,\), got"):
        collected(ClassificationMetricsCollector(), logits, label)


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c", "d"]])
def test_each_logit_has_a_class_name_or_none_has(classes):
    collector = ClassificationMetricsCollector(classes)
    with pytest.raises(LearnerError, match=f"`classes` must be a name for each of the 3 logits, got {len(classes)}"):
        collector.collect((None, torch.tensor([0, 1])), PredictorOutput(torch.zeros(2, 3), {}))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_a_number_is_not_right(odd):
    found = collected(ClassificationMetricsCollector(), torch.full((3, 2), odd), torch.tensor([0, 1, 0]))
    assert found["accuracy"].tolist() == [0, 0, 0]
    assert np.isnan(found["loss"]).all()
