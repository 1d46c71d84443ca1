"""How timings are shown."""

import re

import pytest
from torch import nn

from learner import Learner
from learner.loop.timings import Timings


def fill(timings, *rows):
    for who, at, kind, us, calls, *replaced in rows:
        entry = timings.entry(who, at, kind)
        entry.ns, entry.calls, entry.replaced = us * 1000, calls, dict.fromkeys(replaced)
    return timings


@pytest.fixture
def timings():
    timings = fill(
        Timings(),
        ("Learner", "predict", "action", 600, 10, "output", "preds"),
        ("loader 'train'", "next batch", "loader", 100, 10),
        ("Mix<Up>", "before_batch", "callback", 290, 10, "batch", "_own"),
        ("Never", "before_batch", "callback", 0, 0),
        ("Learner", "the loop itself", "loop", 10, 1),
    )
    timings.n_batches = 10
    return timings


def test_as_text(timings):
    assert repr(timings).splitlines() == [
        "10 batches, 100.0 µs each: actions 60%, waiting for the loader 10%, callbacks 29%, the loop itself 1%",
        "who             at               µs a batch  share  calls  replaced",
        "Learner         predict                60.0  60.0%     10  output, preds",
        "Mix<Up>         before_batch           29.0  29.0%     10  batch",
        "loader 'train'  next batch             10.0  10.0%     10",
        "Learner         the loop itself         1.0   1.0%      1",
    ]


def test_in_a_notebook(timings):
    html = timings._repr_html_()
    assert re.findall(r"<td>(.*?)</td>", html)[6:12] == [
        *("Mix&lt;Up&gt;", "before_batch", "29.0", "29.0%", "10", "batch"),
    ]
    assert html.count("<tr>") == 5
    assert "100.0 µs each" in html


def test_as_a_picture(timings):
    figure = timings.plot()
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        *("Learner.predict", "Mix<Up>.before_batch", "loader 'train'.next batch", "the loop itself"),
    ]
    widths = {bar.get_y() + bar.get_height() / 2: bar.get_width() for bar in ax.patches}
    assert [widths[y] for y in range(4)] == [60, 29, 10, 1]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {
        *("actions", "waiting for the loader", "callbacks", "the loop itself"),
    }


def test_a_picture_of_very_many_rows_sums_up_the_small_ones(timings):
    fill(timings, *[(f"cb{i}", "after_loss", "callback", 2, 1) for i in range(40)])
    (ax,) = timings.plot().axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 26
    assert labels[-1] == "19 others"
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(timings.us)


def test_of_nothing():
    timings = Timings()
    assert repr(timings).startswith("0 batches, 0.0 µs each: actions 0%")
    assert "<table>" in timings._repr_html_()
    timings.plot()


def test_without_a_batch_it_is_of_the_whole():
    timings = fill(Timings(), ("A", "before_fit", "callback", 30, 1))
    assert timings.us == timings.rows[0].us == 30


def test_beside_an_accelerator_it_says_that_it_is_time_of_the_host():
    for device, says_so in (("cpu", False), ("meta", True)):
        learn = Learner(nn.Linear(1, 1, device=device), {"train": []})
        with learn.timed() as timings:
            pass
        assert ("time of the host" in repr(timings)) == ("time of the host" in timings._repr_html_()) == says_so
