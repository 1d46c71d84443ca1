"""What a notebook shows: how fast a bar is, what a curve holds. How all of it looks: see test_progress."""

import pytest
import torch
from matplotlib.axes import Axes

from callbacks.show import progress_notebook
from callbacks.show.progress_notebook import Curve, Notebook, line_of


@pytest.fixture
def points(monkeypatch):
    """Return a function that draws a curve and gives the points of its lines by their label."""
    pictures, legend = [], Axes.legend

    def spy(ax):
        pictures.append({line.get_label(): list(zip(*line.get_data(), strict=True)) for line in ax.lines})
        return legend(ax)

    def draw(curve):
        curve.draw()
        assert curve.image
        return pictures[-1]

    monkeypatch.setattr(Axes, "legend", spy)
    return draw


def test_the_speed_is_that_of_the_batches_that_were_run(monkeypatch):
    now = iter([0.0, 0.0, 4.0])
    monkeypatch.setattr(progress_notebook, "perf_counter", lambda: next(now))
    screen = Notebook()
    screen.open("epoch 1 train", 90)
    screen.bars[0].update(total=100)
    assert progress_notebook.bar_text(screen.bars[0]) == " epoch 1 train 90/100 [00:00<?, ?it/s]"
    screen.bars[0].update(n=92)
    assert progress_notebook.bar_text(screen.bars[0]) == " epoch 1 train 92/100 [00:04<00:16,  2.00s/it]"


def test_a_row_has_its_cells_below_their_names():
    columns = ["epoch", "train/loss", "time"]
    assert line_of(columns, dict(zip(columns, columns, strict=True))) == "epoch  train/loss      time"
    assert line_of(columns, {"epoch": "3", "time": "1.0s"}) == "    3                  1.0s"


def test_a_long_curve_is_thinned(points):
    curve = Curve()
    curve.new = list(torch.arange(5000.0))
    train = points(curve)["train"]
    assert train[:3] == [(1, 0.0), (4, 3.0), (7, 6.0)]
    assert train[-1] == (4999, 4998.0)


def test_a_curve_that_was_put_back_goes_on(points):
    curve, again = Curve(), Curve()
    curve.new = [torch.tensor(0.1), torch.tensor([0.2])]
    curve.mark("valid", 0.5)
    again.new = [torch.tensor(7.0)]  # of a fit that was gone on with instead
    again.load_state_dict(curve.state_dict())
    for one in (curve, again):
        one.new.append(torch.tensor(0.3))
        one.mark("valid", 0.4)
    assert points(again) == points(curve)
    assert points(again)["valid"] == [(2, 0.5), (3, 0.4)]
