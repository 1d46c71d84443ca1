"""Calibration, by hand and against torchmetrics."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torchmetrics.functional.classification import multiclass_calibration_error

from learner.records.calibration import calibration


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_the_error_is_that_of_torchmetrics(n_bins):
    generator = torch.Generator().manual_seed(0)
    probs = (2 * torch.randn(500, 4, generator=generator)).softmax(1)
    labels = torch.randint(0, 4, (500,), generator=generator)
    confidence, predicted = probs.max(1)
    expected = multiclass_calibration_error(probs, labels, num_classes=4, n_bins=n_bins, norm="l1")
    assert calibration(confidence, predicted == labels, n_bins).ece == pytest.approx(expected.item(), abs=1e-6)


def test_a_curve_by_hand():
    found = calibration([0.1, 0.5, 0.6, 1.0, 0.9], [False, True, False, True, True], n_bins=2)
    np.testing.assert_allclose(found.confidence, [0.3, 2.5 / 3])  # 0.5 is the upper edge of the first
    np.testing.assert_allclose(found.accuracy, [0.5, 2 / 3])
    assert found.counts.tolist() == [2, 3]
    assert found.ece == pytest.approx((2 * 0.2 + 3 * (2.5 - 2) / 3) / 5)
    assert repr(found) == f"Calibration: ECE {found.ece:.4f} of 5 predictions in 2 bins"


def test_nan_is_left_out_and_nothing_is_no_error():
    assert calibration([np.nan, 0.5], [True, True], 4).counts.sum() == 1
    assert calibration([], [], 4).ece == 0


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (([0.5], [True], 0), "`n_bins` must be at least 1, got 0"),
        (([0.5], [True, False]), r"`is_right` must be one flag per confidence, got shapes \(2,\) and \(1,\)"),
        (([3.0], [True]), "`confidence` must be probabilities from 0 to 1; make some of logits by softmax"),
    ],
)
def test_what_is_refused(args, match):
    with pytest.raises(ValueError, match=match):
        calibration(*args)


@pytest.mark.parametrize("n", [0, 3])
def test_it_is_drawn(n):
    figure = calibration([0.6] * n, [True] * n).plot()
    figure.canvas.draw()
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "measured")
    assert len(curve.get_xdata()) == (n > 0)
    plt.close(figure)
