"""The blocks of a report: what is drawn and listed is what was given, and nothing that was given is taken for code."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from fastcore.xml import Body, P, to_xml
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke
from PIL import Image

from learner.records.report.page import facts, kept_picture, line_chart, page, picture, sortable, thumbnail

EVIL = "<script>alert('x')</script>\"&"


class Tags(HTMLParser):
    """All tags with their attributes and the text directly in them, in order."""

    def __init__(self, html):
        super().__init__()
        self.found, self._open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append({"tag": tag, "text": "", **dict(attrs)})
        self._open.append(self.found[-1])

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self._open[-1]["text"] += data

    def __call__(self, tag, cls=None):
        return [one for one in self.found if one["tag"] == tag and (cls is None or cls in one.get("class", "").split())]


def tags(element):
    return Tags(to_xml(element, indent=False))


def pixels(source):
    return np.asarray(Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_a_page_lets_nothing_in_but_its_own_style_and_script():
    html = page(EVIL, Body(P(EVIL)))
    found = Tags(html)
    policy = next(meta["content"] for meta in found("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*)</{tag}>", html, re.DOTALL)[1]
        known = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{known}'" in policy
        assert len(found(tag)) == 1
    assert found("title")[0]["text"] == found("p")[0]["text"] == EVIL
    assert not re.search(r"https?://|url\(|@import|import\s*\(|fetch\(", html)


# -- charts ------------------------------------------------------------------------------------------------------------


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


# -- tables ------------------------------------------------------------------------------------------------------------


def test_facts_are_in_words():
    found = tags(facts([("lr", 0.1), ("none", None), ("data", {"n": 3, "splits": ["a", EVIL]})]))
    assert [(head["text"], cell["text"]) for head, cell in zip(found("th"), found("td"), strict=True)] == [
        ("lr", "0.1"),
        ("data", f"n 3, splits a, {EVIL}"),
    ]


def test_a_table_is_whole_without_the_script():
    columns = {"example_id": [3, 1], "label": ["cat", EVIL], "loss": [0.123456789, 2.0], EVIL: [True, None]}
    found = tags(sortable(columns, sorted_by=("loss", "ascending")))
    assert [button["text"] for button in found("button")] == [*columns]
    assert [(head["data-kind"], head["aria-sort"], head["scope"]) for head in found("th")] == [
        ("number", "none", "col"), ("text", "none", "col"), ("number", "ascending", "col"), ("text", "none", "col"),
    ]  # fmt: skip
    assert [cell["text"] for cell in found("td")] == ["3", "cat", "0.1235", "yes", "1", EVIL, "2.0000", ""]
    assert [cell.get("data-v") for cell in found("td")] == ["3", None, "0.123456789", None, "1", None, "2.0", None]
    assert not found("input")
    assert not found("script")


def test_numbers_are_written_so_that_the_script_reads_them():
    found = tags(sortable({"x": [np.nan, np.inf, -np.inf, None, 1e-30, 10**20]}))
    assert [cell.get("data-v") for cell in found("td")] == ["NaN", "Infinity", "-Infinity", None, "1e-30", f"{10**20}"]
    assert [cell["text"] for cell in found("td")][:4] == ["nan", "inf", "-inf", ""]


def test_whole_numbers_have_no_point():
    assert [cell["text"] for cell in tags(sortable({"accuracy": [1.0, 0.0, np.nan]}))("td")] == ["1", "0", "nan"]


def test_fields_to_filter_by_are_of_the_kind_of_the_column():
    columns = {"loss": [0.5] * 60, "label": [f"{i % 12}" for i in range(60)], "name": [f"n{i}" for i in range(60)]}
    found = tags(sortable(columns, images=["data:image/png;base64,x"] * 60, has_filters=True))
    fields = [one for one in found.found if "data-column" in one]
    assert [(one["tag"], one["data-kind"], one["aria-label"], one["data-column"]) for one in fields] == [
        ("input", "number", "Filter by loss", "1"),  # after the picture
        ("select", "text", "Filter by label", "2"),
        ("input", "text", "Filter by name", "3"),
    ]
    assert [option["text"] for option in found("option")] == ["all", *map(str, range(12))]
    assert not [one for one in found("input") if one.get("type") == "checkbox"]  # none is wrong


def test_rows_are_marked_and_have_pictures():
    found = tags(
        sortable({"x": [1, 2]}, images=["data:image/png;base64,x", None], is_wrong=[False, True], has_filters=True)
    )
    assert [row.get("class") for row in found("tr")] == [None, "filters", None, "wrong"]
    assert len(found("img")) == 1
    assert len(found("td", "thumb")) == 3
    assert found("input", "only-wrong")


def test_a_table_of_nothing():
    assert tags(sortable({"x": []}, has_filters=True))("table")


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_drawing_is_shown_on_no_ground_and_closed():
    before = matplotlib.rcParams["text.color"]
    found = tags(picture(lambda: plt.subplots(figsize=(2, 1))[0], EVIL))
    image = found("img")[0]
    assert (image["alt"], image["width"], found("figcaption")[0]["text"]) == (EVIL, "192", EVIL)
    drawn = pixels(image["src"])
    assert drawn.shape == (144, 288, 4)
    assert drawn[0, 0, 3] == 0
    assert (drawn[drawn[..., 3] == 255] == [0x75, 0x7E, 0x8A, 255]).all(1).any()
    assert not plt.get_fignums()
    assert matplotlib.rcParams["text.color"] == before


def test_outlines_for_paper_are_left_out():
    def draw():
        figure = plt.figure(figsize=(2, 1))
        figure.text(0.2, 0.4, "hard", path_effects=[withStroke(linewidth=9, foreground="white")])
        return figure

    drawn = pixels(tags(picture(draw, "a"))("img")[0]["src"])
    assert drawn[..., 3].max() == 255
    assert not (drawn == 255).all(-1).any()


def test_a_picture_on_record_is_kept_as_it_is():
    assert tags(kept_picture(b"png", "a"))("img")[0]["src"] == "data:image/png;base64,cG5n"


def test_a_small_picture_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    source = thumbnail(image / 255)
    assert source.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(pixels(source), image)
    np.testing.assert_array_equal(pixels(thumbnail(image[..., 0] / 255)), image[..., 0])


def test_a_large_picture_is_made_small():
    source = thumbnail(np.random.default_rng(0).random((300, 600, 3)))
    assert source.startswith("data:image/jpeg;base64,")
    assert pixels(source).shape == (28, 56, 3)
    assert len(source) < 4096
