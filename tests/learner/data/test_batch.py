"""How many samples a batch holds, what it looks like in words, and whether its parts fit together."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import default_collate

from learner import LearnerError
from learner.data.batch import batch_size_of, check_lengths, common_length, describe, fields_of

X, Y = torch.zeros(5, 2), torch.arange(5)
Pair = namedtuple("Pair", "x y")


@dataclass
class Batch:
    x: Any
    y: Any = field(default=None, repr=False)


# -- fields -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch", [{"x": X, "y": Y}, OrderedDict(x=X, y=Y), UserDict(x=X, y=Y), Pair(X, Y), Batch(X, Y)]
)
def test_fields_of_what_has_names(batch):
    fields = fields_of(batch)
    assert list(fields) == ["x", "y"]
    assert fields["x"] is X
    assert fields["y"] is Y


@pytest.mark.parametrize(
    "batch", [(X, Y), [X, Y], X, None, "text", object(), Batch, Pair, {1, 2}, X.shape, pack_sequence([X])]
)
def test_nothing_else_has_fields(batch):
    assert fields_of(batch) is None


# -- size ---------------------------------------------------------------------------------------------------------

IMAGES = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]
BOXES = [{"boxes": torch.zeros(1, 4)}, {"boxes": torch.zeros(7, 4)}]


@pytest.mark.parametrize(
    ("xb", "yb", "size"),
    [
        (X, None, 5),
        (X, Y, 5),
        (np.zeros((4, 2)), None, 4),
        ({"a": Y, "b": torch.zeros(())}, None, 5),
        ({"b": torch.zeros(()), "a": Y}, None, 5),
        ((torch.zeros(()), X), None, 5),
        (Pair(X, None), None, 5),
        (Batch(X), None, 5),
        ({"text": ["a", "b"], "x": X[:2]}, None, 2),
        ({"x": {"y": {"z": X}}}, None, 5),
        # lists
        (["a", "b", "c"], None, 3),
        (["a", "b", "c"], torch.zeros(3), 3),
        (IMAGES, None, 2),
        (IMAGES, torch.zeros(2), 2),
        (IMAGES, BOXES, 2),
        ((IMAGES, BOXES), None, 2),
        ({"images": IMAGES, "targets": BOXES}, None, 2),
        ({"images": IMAGES}, BOXES, 2),
        ([torch.zeros(3, 8, 8)], [{}], 1),
        ([X, X], Y, 5),
        ((IMAGES,), tuple(BOXES), 2),
        ((tuple(IMAGES),), BOXES, 2),
        # the target decides: of a graph, not of its nodes; of an image, not of its boxes
        (({"nodes": torch.zeros(9, 4), "edges": torch.zeros(2, 30)},), torch.zeros(3), 3),
        (({"edges": torch.zeros(2, 30), "nodes": torch.zeros(9, 4)},), torch.zeros(9), 9),
        ((BOXES,), Y, 5),
        (IMAGES, np.zeros(2), 2),
        (torch.zeros(()), torch.tensor(1), 1),
        (torch.zeros(3, 8, 8), torch.tensor(1), 1),
        # several targets side by side, or one for each sample
        (X, (Y, X), 5),
        (X, [Y, X], 5),
        (X[:2], [torch.zeros(4, 2), torch.zeros(7, 2)], 2),
        (X[:2], [torch.zeros(4, 2), torch.zeros(4, 2)], 2),
        (X, {"a": Y, "b": X}, 5),
        (pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]), None, 2),
        ((pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]),), ["a", "b"], 2),
        ([[1, 2, 3], [4]], ["a", "b"], 2),
        # that no one can know
        (X, ["a", "b"], None),
        ((IMAGES,), ({},) * 4, None),
        (({"nodes": torch.zeros(9, 4), "edges": torch.zeros(2, 30)},), None, None),
        ([torch.zeros(4, 2), torch.zeros(4, 3)], None, None),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)], None, None),
        ((["a", "b"], ["c"]), None, None),
        (torch.zeros(()), None, None),
        ((), None, None),
        ([], None, None),
        ({}, None, None),
        ("text", None, None),
        (7, None, None),
        (None, None, None),
        (object(), None, None),
        # no sample is a number as well
        (X[:0], None, 0),
    ],
)
def test_batch_size_of(xb, yb, size):
    assert batch_size_of(xb, yb) == size


@pytest.mark.parametrize(
    "sample",
    [
        (np.zeros(2), 1),
        (torch.zeros(2), 1),
        {"x": torch.zeros(2), "y": 0, "name": "a"},
        {"name": "a", "n": 1.5},
        ((torch.zeros(2), torch.zeros(3)), 1),
        (torch.zeros(2), (1, torch.zeros(3))),
        ({"a": torch.zeros(2), "name": "a"}, 1),
        Pair(torch.zeros(2), 1),
        ("text", 1),
        (1, "text"),
        torch.zeros(2),
        3,
        "text",
    ],
)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_batch_size_of_what_the_default_collate_function_makes(sample, n):
    batch = default_collate([sample] * n)
    is_pair = isinstance(batch, list) and isinstance(sample, tuple)
    xb, yb = batch if is_pair else (batch, None)
    assert batch_size_of(xb, yb) == n


@pytest.mark.parametrize(
    ("xb", "yb", "size"),
    [
        (X, Y, 5),
        ((X, X), Y, 5),
        ({"a": X, "b": X}, Y, 5),
        (X, None, None),
        (X, Y[:3], None),
        ((X, X[:3]), Y, None),
        ({"a": X, "b": X[:3]}, Y, None),
        (X[:0], Y[:0], None),
        (X, torch.tensor(0), None),
        (torch.tensor(0), Y, None),
        ((X, "text"), Y, None),
        (X.numpy(), Y, None),
        ([X, X], Y, None),
    ],
)
def test_common_length(xb, yb, size):
    assert common_length(xb, yb) == size


# -- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xb", "yb"),
    [
        (X, Y),
        ((X, X), Y),
        ({"a": X}, {"b": Y}),
        (X, torch.tensor(3)),
        (IMAGES, torch.zeros(2)),
        (IMAGES, BOXES),
        (X, [torch.zeros(1), torch.zeros(9)]),
        ("text", None),
        ((), None),
    ],
)
def test_lengths_that_agree_or_say_nothing(xb, yb):
    check_lengths(xb, yb, (xb, yb))


@pytest.mark.parametrize(
    ("xb", "yb"),
    [
        (X, Y[:3]),
        ((X, X[:3]), None),
        ((X, X[:3]), Y),
        ({"a": X, "b": X[:3]}, None),
        ({"a": X}, {"b": Y[:3]}),
        (Pair(X, Y[:3]), None),
        (Batch(X, Y[:3]), None),
    ],
)
def test_lengths_that_differ(xb, yb):
    with pytest.raises(
        LearnerError, match=r"must have one length, got .*Tensor\(5, 2\).*Tensor\(3,.*n_inp.*target_key"
    ):
        check_lengths(xb, yb, (xb, yb))


@pytest.mark.parametrize("xb", [torch.zeros(7, 5, 3), (torch.zeros(7, 5), torch.zeros(7, 5)), {"x": torch.zeros(7, 5)}])
def test_a_batch_that_is_the_second_axis_is_told(xb):
    with pytest.raises(LearnerError, match=r"is it \(sequence, batch\)\? Use `batch_first=True`"):
        check_lengths(xb, Y, (xb, Y))


@pytest.mark.parametrize(("xb", "yb"), [(X[:0], Y[:0]), (X[:0], None), ({"a": X[:0]}, Y[:0])])
def test_no_sample(xb, yb):
    with pytest.raises(LearnerError, match=r"at least one sample, got .*Tensor\(0, 2\)"):
        check_lengths(xb, yb, (xb, yb))


# -- words --------------------------------------------------------------------------------------------------------


class Strange:
    """Says that it has a shape, and has none."""

    shape = dtype = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((X, Y), "(Tensor(5, 2) float32, Tensor(5,) int64)"),
        ([X], "[Tensor(5, 2) float32]"),
        ({"a": X, 1: "b"}, "{'a': Tensor(5, 2) float32, 1: 'b'}"),
        ({"a": {"b": [Y]}}, "{'a': {'b': [Tensor(5,) int64]}}"),
        (Pair(X, None), "Pair{'x': Tensor(5, 2) float32, 'y': None}"),
        (Batch(X, 3), "Batch{'x': Tensor(5, 2) float32, 'y': 3}"),
        (OrderedDict(a=1), "OrderedDict{'a': 1}"),
        (X.to("meta"), "Tensor(5, 2) float32 on meta"),
        (torch.zeros((), dtype=torch.bool), "Tensor() bool"),
        (np.zeros(3), "ndarray(3,) float64"),
        (tuple(range(20)), "(0, 1, 2, 3, 4, 5, 6, 7, ...)"),
        (None, "None"),
        (2.5, "2.5"),
        (object(), "object"),
        (Strange(), "Strange"),
        ((), "()"),
        ({}, "{}"),
    ],
)
def test_describe(value, text):
    assert describe(value) == text


@pytest.mark.parametrize("value", ["a" * 10_000, ["a" * 10_000] * 9, {"texts": ["a" * 1000] * 64, "x": X}])
def test_a_description_is_for_a_person_to_read(value):
    assert len(describe(value)) < 2000
