"""What is taken for a sample of a known form, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from learner.inference.alike import alike, rows_of


@pytest.mark.parametrize(
    ("value", "known", "made"),
    [
        (np.array([1.5, 2.0]), torch.zeros(2), torch.tensor([1.5, 2.0])),
        ([1.5, 2.0, 3.0], torch.zeros(2), torch.tensor([1.5, 2.0, 3.0])),  # sizes may differ
        (torch.ones(2, dtype=torch.float16), torch.zeros(2), torch.ones(2)),
        (np.array([3], np.uint8), torch.zeros(1, dtype=torch.int64), torch.tensor([3])),
        (2.5, torch.tensor(0.0), torch.tensor(2.5)),
    ],
)
def test_numbers_become_a_tensor_of_the_known_dtype(value, known, made):
    found = alike(value, known)
    assert found.dtype == made.dtype
    assert torch.equal(found, made)


def test_other_containers_of_numbers_stay_what_they_are():
    assert isinstance(alike(torch.zeros(2), np.zeros(2, np.float32)), np.ndarray)
    assert alike(np.float32(2), 1.0) == 2.0
    assert alike([1, 2, 3], [0]) == [1, 2, 3]
    assert alike((1, 2, 3), (0,)) == (1, 2, 3)


def test_what_is_no_number_must_be_of_the_known_type():
    picture = Image.new("L", (4, 4))
    assert alike("words", "others") == "words"
    assert alike(picture, Image.new("RGB", (2, 2))) is picture
    assert alike(["a", "b"], ("c",)) == ["a", "b"]
    for value, known in (("words", torch.zeros(2)), (picture, torch.zeros(2)), (3, "words"), ("words", ["a"]), ({}, 1)):
        with pytest.raises(TypeError, match="it is of another type"):
            alike(value, known)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (np.zeros(3, np.uint8), TypeError, "whole numbers, where fractions are known"),
        (torch.zeros(3, dtype=torch.bool), TypeError, "flags, where fractions are known"),
        (torch.zeros(3, dtype=torch.complex64), TypeError, "complex numbers, where fractions are known"),
        (np.zeros((2, 3)), ValueError, "2 axes, where 1 are known"),
        ([[1.0], [1.0, 2.0]], TypeError, "rows of several lengths"),
    ],
)
def test_other_kinds_and_axes_are_refused(value, error, match):
    with pytest.raises(error, match=match):
        alike(value, torch.zeros(3))


def test_whole_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="numbers that are too large for uint8"):
        alike([300], torch.zeros(1, dtype=torch.uint8))


def test_rows():
    assert [row.tolist() for row in rows_of(torch.eye(2))] == [[1.0, 0.0], [0.0, 1.0]]
    assert rows_of((["a", "b"], np.arange(2))) == [("a", 0), ("b", 1)]
    assert rows_of({"x": [1, 2]}) == [{"x": 1}, {"x": 2}]
    with pytest.raises(ValueError, match="parts of 1, 2 rows"):
        rows_of(([1], [1, 2]))
    with pytest.raises(ValueError, match="it holds no sample"):
        rows_of([])
    with pytest.raises(TypeError, match="'text' has no rows"):
        rows_of("text")
