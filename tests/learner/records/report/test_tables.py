"""Tables: what is listed is what was given, and can be read without the script."""

import numpy as np

from learner.records.report.tables import facts, plain_values, sortable
from tests.learner.records.report.reading import EVIL, tags


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


def test_whole_numbers_are_exact_however_large():
    found = tags(sortable({"id": [2**53 + 1, -(10**30), 3], "mixed": [2**63 - 1, 0.5, 1e300]}))
    assert [cell["text"] for cell in found("td")][::2] == ["9007199254740993", f"-{10**30}", "3"]
    assert [cell["text"] for cell in found("td")][1::2] == ["9223372036854775807", "0.5000", "1e+300"]
    assert found("td")[0]["data-v"] == "9007199254740993"


def test_what_is_no_number_is_listed_in_words():
    found = tags(sortable({"when": [{"a": 1}, EVIL, None], 7: [1, 2, 3]}))
    assert [cell["text"] for cell in found("td")][::2] == ["{'a': 1}", EVIL, ""]
    assert [button["text"] for button in found("button")] == ["when", "7"]


def test_arrays_become_values_that_can_be_listed():
    assert plain_values(np.array([0.1, np.nan], np.float16))[0] == 0.1
    assert plain_values(np.array([2**53 + 1])) == [2**53 + 1]
    assert plain_values(np.array(["2020-01-31", "NaT"], "datetime64[ns]")) == ["2020-01-31", None]
    assert plain_values(np.array(["2020-01-31T06:30:00.25"], "datetime64[ms]")) == ["2020-01-31 06:30:00.250"]
    assert plain_values(np.array([90, "NaT"], "timedelta64[s]")) == ["0:01:30", None]


def test_names_of_facts_are_text_whatever_their_type():
    found = tags(facts([(["<b>"], 1), ({"onclick": "x"}, 2)]))
    assert [(head["text"], head.get("onclick")) for head in found("th")] == [
        ("['<b>']", None),
        ("{'onclick': 'x'}", None),
    ]
