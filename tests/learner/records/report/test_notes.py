"""Notes: what fails costs itself alone, and it is said once."""

from fastcore.xml import Div

from learner.records.report.notes import Notes
from tests.learner.records.report.reading import EVIL, tags


def fail():
    raise ValueError(EVIL)


def test_what_fails_is_none_and_is_said_once():
    notes = Notes()
    assert notes.card() == []
    assert notes.tried("sum", sum, [1, 2]) == 3
    assert notes.tried("map of x", fail) is notes.tried("map of x", fail) is None
    assert [line["text"] for line in tags(Div(*notes.card()))("li")] == [f"Map of x: {EVIL} (ValueError)"]
