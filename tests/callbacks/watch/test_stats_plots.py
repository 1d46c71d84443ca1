"""The pictures show the numbers they are given."""

import math
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.watch.stats_plots import plot_dead, plot_histograms, plot_lines


class Given(NamedTuple):
    hist: Tensor
    dead: Tensor


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def layers():
    """Three records with four bins, of which the second is not taken; and a layer without any."""
    hist = torch.arange(12.0).reshape(3, 4)
    hist[1] = math.nan
    return {"a": Given(hist, torch.tensor([0.1, math.nan, 0.3])), "b": Given(torch.empty(0, 4), torch.empty(0))}


def test_lines():
    values = {"a": [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], "b": [torch.ones(1), torch.zeros(1)]}
    figure = plot_lines(values, ["one", "two"], "step")
    one, two = figure.axes
    assert [line.get_ydata().tolist() for line in two.lines] == [[3, 4], [0]]
    assert [ax.get_title() for ax in (one, two)] == ["one", "two"]
    assert [ax.get_xlabel() for ax in (one, two)] == ["step", "step"]
    assert one.get_yscale() == "linear"
    assert [text.get_text() for text in two.legend_.get_texts()] == ["a", "b"]
    assert one.lines[0].get_color() == two.lines[0].get_color() != one.lines[1].get_color()


def test_logarithms_are_taken_where_there_is_one():
    odd = torch.tensor([math.nan, 0.0, math.inf, -1.0])
    figure = plot_lines({"a": [odd, torch.empty(0), torch.tensor([0.0, 5.0, math.inf])]}, "xyz", "step", is_log=True)
    figure.canvas.draw()
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "linear", "log"]


def test_histograms(layers):
    figure = plot_histograms(layers, "size", "step", (-2, 2), shown=(-1, 2))
    a, b = figure.axes
    np.testing.assert_allclose(a.images[0].get_array(), np.log1p([[0, 8], [1, 9], [2, 10], [3, 11]]))
    assert tuple(a.images[0].get_extent()) == (0, 3, -2, 2)
    assert a.get_ylim() == b.get_ylim() == (-1, 2)
    assert not b.images
    assert plot_histograms(layers, "size", "step", (-2, 2)).axes[0].get_ylim() == (-2, 2)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("step", "size")


def test_dead_fractions(layers):
    a, b = plot_dead(layers, "fraction", "step").axes
    assert list(a.lines[0].get_xdata()) == [0, 2]
    np.testing.assert_allclose(a.lines[0].get_ydata(), [0.1, 0.3])
    assert not b.lines
    assert [ax.get_title() for ax in (a, b)] == ["a", "b"]
