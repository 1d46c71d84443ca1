"""What the collector of a regression says, compared with arithmetic."""

import numpy as np
import pytest
import torch

from callbacks import RegressionMetricsCollector
from learner import LearnerError, PredictorOutput


def collected(collector, output, label, hidden=None):
    columns = collector.collect((None, label), PredictorOutput(output, hidden or {}))
    return {name: column.numpy() for name, column in columns.items()}


def assert_equal_columns(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], np.asarray(column, float), atol=tolerance, err_msg=name)


# -- classification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preds_shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("target_shape", [(-1,), (-1, 1)])
def test_one_number_per_sample(preds_shape, target_shape):
    preds, target = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([0.0, 1.0, 4.0])
    found = collected(RegressionMetricsCollector(), preds.reshape(preds_shape), target.reshape(target_shape))
    assert {name: column.tolist() for name, column in found.items()} == {
        "target": [0, 1, 4],
        "predicted": [1, -2, 4],
        "residual": [1, -3, 0],
        "loss": [1, 9, 0],
        "absolute_error": [1, 3, 0],
    }


def test_several_numbers_per_sample():
    preds, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, -4.0]])
    found = collected(RegressionMetricsCollector(), preds, target)
    assert found["residual"].tolist() == [[1, -3], [0, 4]]
    assert (found["loss"].tolist(), found["absolute_error"].tolist()) == ([5, 8], [2, 2])


@pytest.mark.parametrize(
    ("preds_dtype", "target_dtype", "dtype"),
    [
        (torch.float16, torch.float16, np.float32),
        (torch.bfloat16, torch.float32, np.float32),
        (torch.float32, torch.int64, np.float32),
        (torch.float32, torch.float64, np.float64),
    ],
)
def test_residuals_are_as_precise_as_what_they_are_of(preds_dtype, target_dtype, dtype):
    # In float16 the square is infinite.
    preds, target = torch.tensor([1000.0]).to(preds_dtype), torch.tensor([0]).to(target_dtype)
    columns = RegressionMetricsCollector().collect((None, target), PredictorOutput(preds, {}))
    assert (columns["loss"].numpy().dtype, columns["loss"].item()) == (dtype, 1e6)


@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4), torch.zeros(4, 4)),
        (torch.zeros(4), torch.zeros(3)),
        (torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)),
        (torch.zeros(()), torch.zeros(())),
        (torch.zeros(2), [1.0, 2.0]),
    ],
)
def test_predictions_and_targets_that_differ(preds, target):
    with pytest.raises(LearnerError, match="RegressionMetricsCollector must be given predictions"):
        collected(RegressionMetricsCollector(), preds, target)
