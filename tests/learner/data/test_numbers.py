"""Numbers of any kind are taken, and what is none is named."""

import numpy as np
import pytest
import torch

from learner.data.numbers import real_number, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_whole_numbers_of_any_kind(value):
    assert whole_number(value, "n") == 3
    assert type(whole_number(value, "n")) is int


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_real_numbers_of_any_kind(value):
    assert real_number(value, "n") == 0.5
    assert type(real_number(value, "n")) is float


def test_what_is_none():
    for value in ("1", None, True, [1]):
        with pytest.raises(TypeError, match=r"`rate` must be a number, got .*; do 1\."):
            real_number(value, "rate", "; do 1")
    for value in ("1", None, 1.5):
        with pytest.raises(TypeError, match="`n` must be a whole number, got"):
            whole_number(value, "n")
