"""Weighted means, and the rows that fits leave behind."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from learner.errors import LearnerError
from learner.history import Averages, History, format_value

# -- Averages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("is_tensor", [True, False])
def test_means_are_weighted(n, is_tensor):
    rng = np.random.default_rng(0)
    values, weights = rng.uniform(size=n).astype(np.float32), rng.integers(1, 9, size=n)
    averages = Averages()
    for value, weight in zip(values, weights, strict=True):
        averages.add("a", torch.tensor(value) if is_tensor else float(value), int(weight))
        averages.add("ones", 1, int(weight))
    expected = np.average(values.astype(np.float64), weights=weights)
    # tensors of float32 are summed as such, a few dozen at a time
    assert averages.means() == {"a": pytest.approx(expected, rel=1e-6 if is_tensor else 1e-12), "ones": 1.0}
    assert type(averages.means()["a"]) is float


def test_means_may_be_read_twice_and_added_to_in_between():
    averages = Averages()
    averages.add("a", torch.tensor(1.0), 1)
    assert averages.means() == averages.means() == {"a": 1.0}
    averages.add("a", torch.tensor(4.0), 2)
    assert averages.means() == {"a": 3.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_a_long_pass_of_few_bits_loses_none(dtype):
    averages = Averages()
    for i in range(5000):
        averages.add("a", torch.tensor(i % 2, dtype=dtype), 1)
    assert averages.means() == {"a": 0.5}


def test_values_of_several_kinds_under_one_name():
    averages = Averages()
    for value in (1.0, torch.tensor(2.0), torch.tensor([3.0]), torch.tensor(4.0, dtype=torch.float64), torch.tensor(5)):
        averages.add("a", value, 1)
    assert averages.means() == {"a": 3.0}


@pytest.mark.parametrize("weights", [(2, 0.5), (torch.tensor(2), torch.tensor(0.5)), (2, torch.tensor([0.5]))])
def test_weights_may_be_tensors(weights):
    averages = Averages()
    for value, weight in zip((torch.tensor(1.0, dtype=torch.float64), 3.0), weights, strict=True):
        averages.add("loss", value, weight)
    assert averages.means() == {"loss": (2 * 1.0 + 0.5 * 3.0) / 2.5}


def test_what_weighs_nothing_does_not_count():
    averages = Averages()
    averages.add("loss", math.nan, torch.tensor(0))
    averages.add("loss", math.nan, 0.0)
    assert averages.means() == {}
    assert len(averages) == 1
    averages.add("loss", 2.0, torch.tensor(3))
    assert averages.means() == {"loss": 2.0}


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_nobody_looked_at_shows_in_the_end(weight):
    averages = Averages()
    averages.add("loss", 1.0, torch.tensor(weight))
    averages.add("loss", 1.0, torch.tensor(5.0))
    with pytest.raises(LearnerError, match="the weight of `loss` must be a finite number of at least 0"):
        averages.means()


def test_nan_is_not_hidden():
    averages = Averages()
    averages.add("a", torch.tensor(float("nan")), 1)
    averages.add("a", torch.tensor(1.0), 1)
    assert np.isnan(averages.means()["a"])


# -- History ------------------------------------------------------------------------------------------------------


@pytest.fixture
def history():
    """Two fits of two epochs and one; the metric `acc` comes only in the second."""
    history = History()
    for fit in ([0.9, 0.8], [0.7]):
        history.begin_fit()
        for epoch, loss in enumerate(fit):
            history.record(epoch, "train", {"loss": loss})
            history.record(epoch, "valid", {"loss": loss + 1} if len(fit) == 2 else {"loss": loss + 1, "acc": 0.5})
    return history


def test_epochs_count_on_from_fit_to_fit(history):
    assert history.to_dict() == {
        "epoch": [0, 1, 2],
        "train/loss": [0.9, 0.8, 0.7],
        "valid/loss": [1.9, 1.8, 1.7],
        "valid/acc": [None, None, 0.5],
    }


def test_history_reads_like_a_list_of_rows(history):
    assert len(history) == 3
    assert history[-1] == list(history)[2] == {"epoch": 2, "train/loss": 0.7, "valid/loss": 1.7, "valid/acc": 0.5}


def test_a_pass_that_was_cut_short_leaves_no_row():
    history = History()
    history.record(0, "train", {})
    assert len(history) == 0


def test_each_pass_that_was_cut_short_says_why():
    history = History()
    history.record(0, "train", {"loss": 0.5}, cut_short="seen enough")
    history.record(0, "valid", {"loss": 0.7}, cut_short="CancelEpochException")
    assert history[0]["cut_short"] == "train: seen enough; valid: CancelEpochException"
    assert (history[0]["train/loss"], history[0]["valid/loss"]) == (0.5, 0.7)


def test_to_pandas_has_nan_where_a_value_is_missing(history):
    expected = pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "train/loss": [0.9, 0.8, 0.7],
            "valid/loss": [1.9, 1.8, 1.7],
            "valid/acc": [np.nan, np.nan, 0.5],
        }
    )
    pd.testing.assert_frame_equal(history.to_pandas(), expected)


def test_to_pandas_says_what_to_install(history, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        history.to_pandas()


def test_plot_has_a_panel_for_each_metric_and_a_line_for_each_loader(history):
    figure = history.plot()
    loss, acc = figure.axes
    assert (loss.get_title(), acc.get_title()) == ("loss", "acc")
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in loss.lines}
    assert drawn == {"train": ([0, 1, 2], [0.9, 0.8, 0.7]), "valid": ([0, 1, 2], [1.9, 1.8, 1.7])}
    assert [list(acc.lines[0].get_xdata()), list(acc.lines[0].get_ydata())] == [[2], [0.5]]
    plt.close(figure)


def test_an_empty_history_can_be_looked_at():
    history = History()
    assert repr(history) == "History: no epoch yet"
    assert history.to_dict() == {}
    assert len(history.to_pandas()) == 0
    assert "<table>" in history._repr_html_()
    figure = history.plot()
    assert len(figure.axes) == 1
    plt.close(figure)


def test_repr_is_an_aligned_table(history):
    assert repr(history).splitlines() == [
        "epoch  train/loss  valid/loss  valid/acc",
        "    0      0.9000      1.9000           ",
        "    1      0.8000      1.8000           ",
        "    2      0.7000      1.7000     0.5000",
    ]


def test_html_has_the_same_cells_and_escapes_names(history):
    history.record(5, "train", {"<b>": 1.0})
    html = history._repr_html_()
    assert html.count("<tr>") == 1 + len(history)
    assert [cell for cell in ("<td>0.9000</td>", "<td>1.7000</td>", "&lt;b&gt;") if cell not in html] == []
    assert "<b>" not in html


def test_state_round_trips_and_is_plain_data(history):
    again = History()
    again.load_state_dict(history.state_dict())
    assert again.to_dict() == history.to_dict()
    again.record(1, "train", {"loss": 0.6})
    assert again[-1]["epoch"] == 3  # counted on within the same fit
    assert len(history) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (3, "3"), (0.0, "0.0000"), (0.12345, "0.1235"), (1e-5, "1e-05"), (1.23456e7, "1.23e+07"), ("x", "x")],
)
def test_format_value(value, text):
    assert format_value(value) == text
