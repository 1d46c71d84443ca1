"""Conditions on a column, classes by name or id, numbers of rows."""

import numpy as np
import pytest

from learner.records.choosing import checked_k, class_id, meets
from learner.records.schema import CategoricalLabel

ANIMALS = CategoricalLabel("label", ["cat", "dog", "eel"])


@pytest.mark.parametrize(
    ("values", "condition", "label", "found"),
    [
        (np.array([1, 2, 3]), 2, None, [False, True, False]),
        (np.array([1, 2, 3]), [1, 3, 7], None, [True, False, True]),
        (np.array([1.0, np.nan]), lambda x: x == 1, None, [True, False]),
        (np.array([0.1, 0.2], np.float32), 0.1, None, [True, False]),
        (np.array([True, False]), True, None, [True, False]),
        (np.array(["a", None], object), "a", None, [True, False]),
        (np.array([0, 1, -1]), ["cat", 1], ANIMALS, [True, True, False]),
        (np.array([0, 1, -1]), -1, ANIMALS, [False, False, True]),
    ],
)
def test_what_meets_a_condition(values, condition, label, found):
    assert meets("x", values, condition, label).tolist() == found


def test_a_class_has_a_name_and_an_id():
    assert class_id("cell", ANIMALS, "dog") == class_id("cell", ANIMALS, np.int8(1)) == 1
    for wrong in ("dgo", 3, 1.0, True):
        with pytest.raises(ValueError, match="`cell` must be"):
            class_id("cell", ANIMALS, wrong)


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)])
def test_a_number_of_rows(wrong, error):
    assert checked_k(np.int64(3)) == 3
    with pytest.raises(error, match="`k` must be"):
        checked_k(wrong)
