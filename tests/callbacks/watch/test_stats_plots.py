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


def layers_of(n, n_bins=8):
    """Layers with long names, whose counts are in the bins 2 and 3."""
    hist = torch.zeros(5, n_bins)
    hist[:, 2:4] = 1
    given = Given(hist, torch.zeros(5))
    return {f"encoder.transformer_layers.{i}.attention LayerNorm": given for i in range(n)}


@pytest.mark.parametrize(("n", "n_panels", "words"), [(28, 28, ""), (200, 48, "48 of 200 layers, evenly by depth")])
def test_panels_of_a_deep_model_can_be_read(n, n_panels, words):
    figure = plot_histograms(layers_of(n), "size", "step", (0, 4))
    assert len(figure.axes) == n_panels
    assert figure.get_suptitle() == words
    for ax, i in ((figure.axes[0], 0), (figure.axes[-1], n - 1)):
        assert ax.get_title() == "…" + f"encoder.transformer_layers.{i}.attention"[-23:] + "\nLayerNorm"
    assert figure.axes[0].get_ylim() == (1, 2)  # where there is something
    assert figure.get_figwidth() == 12
    assert figure.get_figheight() < 20


def test_a_legend_of_many_layers_names_some_by_depth():
    lines = {f"layer {i}": [torch.arange(3.0)] for i in range(100)}
    figure = plot_lines(lines, ["mean"], "step")
    legend = figure.axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert (names[0], names[-1], len(names)) == ("layer 0", "layer 99", 15)
    assert legend.get_title().get_text() == "15 of 100, by depth"
    assert len(figure.axes[0].lines) == 100
    figure.canvas.draw()
    assert figure.axes[0].get_window_extent().width > 250  # the legend leaves room


def test_no_layers():
    assert plot_lines({}, ["mean"], "step").axes
