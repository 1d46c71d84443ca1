"""Charts: a line is where its values are."""

import re

import numpy as np
import pytest
from fastcore.xml import to_xml

from learner.records.report.charts import line_chart
from tests.learner.records.report.reading import EVIL, tags


def places(chart, i=0):
    """Return the points of the lines of a chart as arrays (n, 2)."""
    lines = tags(chart)("polyline")
    return [np.array([point.split(",") for point in line["points"].split()], float) for line in lines][i:]


def test_a_line_is_where_its_values_are():
    y = [4.0, 1.0, 2.0, 3.0]
    points = places(line_chart("loss", "epoch", {"train": ([0, 10, 20, 30], y)}))[0]
    np.testing.assert_allclose(np.diff(points[:, 0]), np.ptp(points[:, 0]) / 3, atol=0.11)  # written to 0.1
    height = points[1, 1] - points[0, 1]
    np.testing.assert_allclose(points[:, 1], points[0, 1] + height * (4 - np.array(y)) / 3, atol=0.11)
    assert height > 100  # downwards


def test_marks_on_the_axes_stand_where_they_say():
    chart = tags(line_chart("loss", "step", {"": ([0, 100], [0.0, 1.0])}))
    y_of = {
        float(mark["text"]): float(mark["y"])
        for mark in chart("text")
        if mark["text-anchor"] == "end" and mark["text"] != "step"
    }
    low, high = places(line_chart("loss", "step", {"": ([0, 100], [0.0, 1.0])}))[0][:, 1]
    assert y_of[0] == pytest.approx(low, abs=0.11)
    assert y_of[1] == pytest.approx(high, abs=0.11)
    x_of = {mark["text"]: float(mark["x"]) for mark in chart("text") if mark["text-anchor"] == "middle"}
    assert x_of["0"] == pytest.approx(48)
    assert x_of["100"] == pytest.approx(410)


def test_lines_share_a_chart_and_have_their_last_values_in_words():
    chart = tags(line_chart(EVIL, "epoch", {"train": ([0, 1], [2.0, 1.0]), "valid": ([0, 1], [3.0, 1.5])}))
    assert [item["text"] for item in chart("li")] == ["train 1.0000", "valid 1.5000"]
    assert [group["class"] for group in chart("g")] == ["s0", "s1"]
    assert chart("svg")[0]["aria-label"] == f"{EVIL} by epoch; last values: train 1.0000, valid 1.5000"
    assert [dot["text"] for dot in chart("title")] == [
        "train epoch 0: 2.0000", "train epoch 1: 1.0000", "valid epoch 0: 3.0000", "valid epoch 1: 1.5000",
    ]  # fmt: skip


def test_what_is_not_finite_is_a_gap_and_is_counted():
    chart = line_chart("loss", "epoch", {"": (range(6), [1.0, 2.0, np.nan, 3.0, 4.0, np.inf])})
    assert [len(line) for line in places(chart)] == [2, 2]
    assert tags(chart)("li")[0]["text"] == "4.0000, 2 not finite"


@pytest.mark.parametrize("values", [[np.nan], [0.0], [5.0], [1e300], [-1e-300, 1e-300], [np.inf, -np.inf], [3] * 70])
def test_odd_values_have_a_chart(values):
    html = to_xml(line_chart("loss", "epoch", {"": (range(len(values)), values)}))
    assert not re.search(r'="(nan|-?inf)|[ ,"](nan|-?inf),', html)
    assert len(tags(line_chart("loss", "epoch", {"": (range(len(values)), values)}))("text")) > 1


def test_a_value_that_comes_again_replaces_the_one_before():
    chart = line_chart("loss", "epoch", {"": ([0, 1, 2, 1, 2], [5.0, 4.0, 3.0, 40.0, 30.0])})
    assert [dot["text"] for dot in tags(chart)("title")] == ["epoch 0: 5.0000", "epoch 1: 40.0000", "epoch 2: 30.0000"]


def test_a_long_line_keeps_its_peaks():
    y = np.sin(np.arange(100_000.0))
    y[54_321], y[77_777] = 50, -50
    chart = line_chart("loss", "step", {"": (range(100_000), y.tolist())})
    points = places(chart)[0]
    assert 500 < len(points) < 650
    assert not tags(chart)("circle")
    top, bottom = points[points[:, 1].argmin()], points[points[:, 1].argmax()]
    assert (top[0] - 48) / (410 - 48) == pytest.approx(0.54321, abs=1e-3)
    assert (bottom[0] - 48) / (410 - 48) == pytest.approx(0.77777, abs=1e-3)
