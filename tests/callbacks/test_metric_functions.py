"""Metric functions against scikit-learn, torchmetrics and arithmetic."""

from collections.abc import Callable
from typing import Any

import pytest
import sklearn.metrics
import torch
import torchmetrics
from torch import Tensor

from callbacks.metric_functions import accuracy, mae, mse, top_k_accuracy


@pytest.mark.parametrize("shape", [(50, 4), (50, 4, 3), (50, 4, 3, 2)])
def test_accuracy_and_top_k_against_torchmetrics(shape: tuple[int, ...]) -> None:
    preds, target = torch.randn(shape), torch.randint(0, 4, (shape[0], *shape[2:]))
    for k, f in ((1, accuracy), (1, top_k_accuracy(1)), (2, top_k_accuracy(2)), (3, top_k_accuracy(3))):
        expected = torchmetrics.functional.classification.multiclass_accuracy(
            preds, target, num_classes=4, average="micro", top_k=k
        )
        assert float(f(preds, target)) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("preds", "target"), [((40,), (40,)), ((40, 1), (40,)), ((40, 1), (40, 1)), ((40, 1, 5), (40, 5))]
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_accuracy_of_two_classes_against_sklearn(
    preds: tuple[int, ...], target: tuple[int, ...], dtype: torch.dtype
) -> None:
    logits, truth = torch.randn(preds), torch.randint(0, 2, target).to(dtype)
    expected = sklearn.metrics.accuracy_score(truth.long().flatten(), (logits > 0).long().flatten())
    assert float(accuracy(logits, truth)) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2, 3)])
def test_errors_of_regression_against_sklearn(shape: tuple[int, ...]) -> None:
    preds, target = torch.randn(shape), torch.randn(shape)
    flat = target.flatten(), preds.flatten()
    assert float(mse(preds, target)) == pytest.approx(sklearn.metrics.mean_squared_error(*flat), rel=1e-6)
    assert float(mae(preds, target)) == pytest.approx(sklearn.metrics.mean_absolute_error(*flat), rel=1e-6)


@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)),  # would broadcast to (4, 4)
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 1), torch.zeros(3)),
        (torch.zeros(4), torch.zeros(4, 1)),
        (torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),  # classes, not logits
    ],
)
def test_accuracy_refuses_what_would_broadcast_to_a_wrong_number(preds: Tensor, target: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`accuracy` must be given scores \(N, C, ...\).*got Tensor"):
        accuracy(preds, target)


@pytest.mark.parametrize("f", [mse, mae])
def test_regression_refuses_shapes_that_differ(f: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"two tensors of one shape, got Tensor\(4, 1\).* and Tensor\(4,\)"):
        f(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_top_k_refuses_a_k_that_is_no_count(k: Any) -> None:
    with pytest.raises(ValueError, match="`k` must be a whole number of at least 1"):
        top_k_accuracy(k)


def test_top_k_refuses_more_than_there_are_classes() -> None:
    with pytest.raises(ValueError, match="`k` must be at most the number of classes, got 4 of 3"):
        top_k_accuracy(4)(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="`top_1_accuracy` must be given scores"):
        top_k_accuracy(1)(torch.zeros(2), torch.zeros(2, dtype=torch.int64))


# -- one evaluation for many batches ---------------------------------------------------------------------------------
