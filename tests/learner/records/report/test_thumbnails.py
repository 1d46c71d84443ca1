"""Small pictures of samples before the rows of a table."""

import re

import numpy as np
import torch

from learner.records import Table
from learner.records.report.embedded import thumbnail
from tests.learner.records.report.reading import EVIL, notes, read, record, rows_of


def test_samples_have_their_own_pictures(whole, images):
    html = (whole.path / "report.html").read_text()
    samples = html[html.index('id="samples"') :]
    found = re.findall(r'<img src="([^"]*)"[^>]*></td><td class="text">train</td><td data-v="(\d+)"', samples)
    assert sorted(int(i) for _, i in found) == list(range(40))  # the valid ones have no table
    for source, i in found:
        assert source == thumbnail(images.rows[int(i)]["image"])


def test_samples_that_are_neither_images_nor_text_are_looked_at_once(run):
    seen = []
    table = Table.from_dict({"x": list(range(40))}).map(lambda row: (seen.append(row), row)[1])
    run.register_table(table)
    record(run, "train", 40, 0, table)
    assert not read(run.report())("td", "thumb")
    assert len(seen) == 2  # for a picture, and for words


def test_samples_made_at_random_leave_the_generators_alone(run, images):
    images.map(lambda row: (row["image"] + np.random.rand(), torch.rand(1)))
    run.register_table(images)
    record(run, "train", 40, 0, images)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run.report()
    assert torch.rand(1) == expected


def test_samples_that_cannot_be_read_cost_the_pictures_alone(run, images):
    def gone(row):
        raise FileNotFoundError("image_7.png")

    images.map(gone)
    run.register_table(images)
    record(run, "train", 40, 0, images)
    path = run.report()
    assert "Pictures of shapes: image_7.png (FileNotFoundError)" in notes(read(path))
    assert len(rows_of(path)) == 40


def test_samples_that_are_text_are_read_in_both_tables(run):
    table = Table.from_dict({"text": [f"review {i} {EVIL}" for i in range(40)]}, "reviews").map(
        lambda row: torch.ones(2)
    )
    run.register_table(table)
    for epoch in range(2):
        record(run, "train", 40, epoch, table)
    path = run.report()
    assert not read(path)("div", "notes")
    for label, n in {"samples": 40, "labels most likely wrong": 8}.items():
        rows = rows_of(path, label)
        assert len(rows) == n
        assert [row["sample"] for row in rows] == [f"review {row['example_id']} {EVIL}" for row in rows]
        assert list(rows[0])[:2] == ["example_id", "sample"]


def test_a_column_of_that_name_stays(run):
    table = Table.from_dict({"text": ["a", "b"]})
    run.add_metrics_data({"loss": [1.0, 2.0], "sample": ["x", "y"]}, table)
    assert [row["sample"] for row in rows_of(run.report())] == ["y", "x"]
