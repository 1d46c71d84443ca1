"""The text of samples: where it is, and how much of it."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from learner.records import Table
from learner.records.report.excerpts import excerpts, text_of


@dataclass
class Pair:
    premise: str
    n: int
    hypothesis: str


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ("  a\n good\tfilm ", "a good film"),
        (("good", 1), "good"),
        ([torch.ones(2), "good"], "good"),
        ({"text": "good", "label": 1}, "good"),
        (Pair("it rains", 3, "it is wet"), "premise: it rains, hypothesis: it is wet"),
        (("it rains", "it is wet"), "it rains it is wet"),
        ((torch.ones(2), 1), None),
        (np.ones(3), None),
        (None, None),
        (b"bytes", None),
        ("x" * 299 + " yz", "x" * 299 + "…"),
        ("x" * 10**6, "x" * 300 + "…"),
    ],
)
def test_words_in_a_sample(sample, text):
    assert text_of(sample) == text


def test_what_is_trained_on_goes_before_what_is_stored():
    table = Table.from_dict({"text": ["a b", "c d", "e f"]})
    assert excerpts(table, np.array([2, 0])) == ["e f", "a b"]
    table.map(lambda row: row["text"].upper())
    assert excerpts(table, [1]) == ["C D"]
    table.map(len)
    assert excerpts(table, [1]) == ["c d"]


def test_images_and_numbers_have_no_text_and_are_looked_at_once():
    seen = []
    images = Table.from_dict({"image": [np.zeros((4, 4))] * 3, "name": ["a", "b", "c"]})
    numbers = Table.from_dict({"x": [1.0, 2.0, 3.0]}).map(lambda row: (seen.append(row), row["x"])[1])
    assert excerpts(images, [0, 1]) is None
    assert excerpts(numbers, [0, 1]) is None
    assert len(seen) == 1
    assert excerpts(Table.from_dict({"text": ["a"]}), []) is None


def test_samples_made_at_random_leave_the_generators_alone():
    table = Table.from_dict({"text": ["a"]}).map(lambda row: (torch.rand(1), row["text"]))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert excerpts(table, [0]) == ["a"]
    assert torch.rand(1) == expected
