"""Samples that one run has right and another has not."""

import re

import numpy as np
import pytest
from fastcore.xml import Div

from learner.records import CategoricalLabel, Run, Table
from learner.records.files import files_in
from learner.records.report.agreement import agreement, rated
from learner.records.report.groups import groups_of
from learner.records.report.notes import Notes
from tests.learner.records.report.reading import tags

NAMES = CategoricalLabel("label", ["cat", "dog"])
LABEL = np.array([0, 1, 0, 1, 0, 1])


@pytest.fixture
def recorded(tmp_path):
    """Give a function that records which samples a run has right; it returns the groups of that run."""
    table = Table.from_dict({"image": list(np.random.default_rng(0).random((6, 8, 8)))}, "shapes")

    def record(name, right, split="valid", fingerprint=None, ids=range(6), knows_table=True, **more):
        run = Run.create(tmp_path / name)
        ids = np.array(ids)
        columns = {"example_id": ids, "split": np.full(len(ids), split, object), "label": LABEL[ids]}
        columns["predicted"] = np.where(right, LABEL[ids], 1 - LABEL[ids])
        known = {"fingerprint": fingerprint or table.fingerprint, "table_name": "shapes"}
        with run.writer(split, schemas={"label": NAMES, "predicted": NAMES}, **known) as writer:
            writer.add(columns | more)
        if knows_table:
            run.register_table(table)
        notes = Notes()
        groups = groups_of(files_in(run.path / "samples", "*.parquet"), run.samples_of, notes)
        assert not notes.lines
        return groups

    return record


def html_of(groups):
    notes = Notes()
    parts = agreement(groups, notes)
    assert not notes.lines
    return tags(Div(*parts))


def test_pairs_and_samples_that_they_differ_in(recorded):
    groups = {
        "one": recorded("one", [1, 1, 1, 0, 0, 1]),
        "other": recorded("other", [1, 0, 0, 1, 0, 1]),
    }
    found = html_of(groups)
    assert [cell["text"] for cell in found("small")] == ["6 samples in all; 2 right in each, 1 in none"]
    cells = [cell["text"] for cell in found("td") if "thumb" not in cell.get("class", "")]
    assert cells[:6] == ["one", "0", "2", "other", "1", "0"]
    rows = np.array([cell for cell in cells[6:] if cell]).reshape(-1, 5)
    assert rows.tolist() == [
        ["1", "dog", "1", "dog", "cat"],
        ["2", "cat", "1", "cat", "dog"],
        ["3", "dog", "1", "cat", "dog"],
    ]
    assert len(found("img")) == 3  # pictures, since the table is known


def test_only_samples_that_all_recorded_count(recorded):
    groups = {"one": recorded("one", [1, 1], ids=[4, 2]), "other": recorded("other", [0, 1, 1], ids=[2, 4, 5])}
    assert "2 samples in all; 1 right in each, 0 in none" in str(html_of(groups)("small"))


def test_of_a_sample_that_comes_several_times_most_decide(recorded):
    (group,) = recorded("one", [1, 0, 0, 1], ids=[3, 3, 3, 0])
    found = rated(group)
    assert (found.ids.tolist(), found.is_right.tolist()) == ([0, 3], [True, False])


def test_the_same_right_is_said_so(recorded):
    groups = {name: recorded(name, [1, 0, 1, 0, 1, 0]) for name in ("one", "other")}
    assert "They have the same samples right." in [one["text"] for one in html_of(groups)("p")]


def test_other_data_and_what_nobody_knows_is_not_compared(recorded):
    right = [1] * 6
    assert (
        agreement({"one": recorded("one", right), "other": recorded("other", right, fingerprint="f2")}, Notes()) == []
    )
    (group,) = recorded("third", right)
    without = group._replace(newest=group.newest.where(example_id=[]))
    assert rated(without).ids.tolist() == []


def test_two_splits_of_one_name_are_told_apart_and_training_comes_last(recorded):
    right, wrong = [1] * 6, [0] * 6
    groups = {
        "one": recorded("one", right) + recorded("one more", right, "train"),
        "other": recorded("other", wrong) + recorded("other more", wrong, "train"),
    }
    titles = [re.match(r"\w+", one["text"])[0] for one in html_of(groups)("h3")]
    assert titles == ["valid", "train"]


def test_without_a_known_table_there_are_no_pictures(recorded):
    groups = {name: recorded(name, [name == "one"] * 6, knows_table=False) for name in ("one", "other")}
    assert not html_of(groups)("img")
