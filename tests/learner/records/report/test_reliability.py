"""Pictures of calibration and of residuals: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from learner.records.calibration import calibration
from learner.records.report.reliability import draw_reliability, draw_residuals


def test_a_reliability_curve_has_a_point_for_each_bin_that_is_not_empty():
    figure, found = Figure(), calibration([0.55, 0.95, 0.95], [False, True, True], 10)
    draw_reliability(figure, found)
    figure.canvas.draw()
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "measured")
    np.testing.assert_allclose(curve.get_xydata(), [[0.55, 0.0], [0.95, 1.0]])
    assert [bar.get_height() for bar in figure.axes[1].patches] == found.counts.tolist()


@pytest.mark.parametrize("n", [0, 1, 300])
def test_residuals_are_drawn_and_what_is_not_finite_is_left_out(n):
    rng = np.random.default_rng(0)
    target, predicted = rng.random(n + 1), rng.random(n + 1)
    target[0] = np.nan
    figure = Figure()
    draw_residuals(figure, target, predicted)
    figure.canvas.draw()
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(points, np.stack([target[1:], predicted[1:]], 1))
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == n
