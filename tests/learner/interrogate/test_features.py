"""Any input becomes a matrix of real numbers, or an error that names it."""

import numpy as np
import pytest
import torch

from learner.interrogate.features import as_matrix, as_pair, in_double, unit_rows


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.arange(6).reshape(3, 2), torch.float32),
        (torch.arange(6).reshape(3, 2).bool(), torch.float32),
        (torch.arange(6).reshape(3, 2).half(), torch.float32),
        (torch.arange(6).reshape(3, 2).bfloat16(), torch.float32),
        (torch.arange(6.0).reshape(3, 2), torch.float32),
        (torch.arange(6.0).reshape(3, 2).double(), torch.float64),
        (np.arange(6).reshape(3, 2), torch.float32),
        (np.arange(6, dtype=np.float16).reshape(3, 2), torch.float32),
        (np.arange(6.0).reshape(3, 2), torch.float64),
        ([[0, 1], [2, 3], [4, 5]], torch.float32),
        ([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], torch.float64),
    ],
)
def test_tensors_arrays_and_lists_become_floats(x, dtype):
    matrix = as_matrix(x, "a")
    assert matrix.dtype == dtype
    expected = torch.as_tensor(np.asarray(x.float() if isinstance(x, torch.Tensor) else x, dtype=np.float64))
    assert torch.equal(matrix.double(), expected)


def test_arrays_that_are_read_only_reversed_or_by_column_are_taken_without_a_warning():
    array = np.arange(6.0).reshape(3, 2)
    read_only = array.copy()
    read_only.flags.writeable = False
    assert as_matrix(read_only, "a").tolist() == array.tolist()
    assert as_matrix(array[::-1], "a").tolist() == array[::-1].tolist()
    assert as_matrix(np.asfortranarray(array), "a").tolist() == array.tolist()


def test_all_axes_after_the_first_are_flattened_and_the_graph_is_left():
    x = torch.randn(4, 3, 2, requires_grad=True)
    matrix = as_matrix(x, "a")
    assert matrix.shape == (4, 6)
    assert not matrix.requires_grad
    assert torch.equal(matrix, x.reshape(4, 6))


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(3), ValueError, r"`bank` must have shape \(N, D...\), got \(3,\); one vector is `x\[None\]`"),
        (torch.tensor(1.0), ValueError, r"`bank` must have shape \(N, D...\), got \(\)"),
        (torch.zeros(0, 3), ValueError, r"`bank` must hold at least one sample .* got shape \(0, 3\)"),
        (np.zeros((3, 0)), ValueError, r"`bank` must hold at least one sample .* got shape \(3, 0\)"),
        ([[1.0], [2.0, 3.0]], TypeError, r"`bank` must be a tensor, an array or nested lists of numbers"),
        ([["a"]], TypeError, r"`bank` must be a tensor, an array"),
        ({"a": 1}, TypeError, r"`bank` must be a tensor, an array"),
        (None, TypeError, r"`bank` must be a tensor, an array .* got None"),
        ([torch.zeros(2, 3), torch.zeros(2, 3)], TypeError, r"`bank` must be one tensor, got list of 2 .* `torch.cat`"),
        (torch.zeros(2, 2, dtype=torch.complex64), TypeError, r"`bank` must be real, got torch.complex64"),
    ],
)
def test_what_is_no_matrix_is_refused_by_name(x, error, match):
    with pytest.raises(error, match=match):
        as_matrix(x, "bank")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused_where_it_matters(bad):
    x = torch.zeros(5, 2)
    x[3, 1] = x[4, 0] = bad
    assert len(as_matrix(x, "a")) == 5
    with pytest.raises(
        ValueError, match="`a` must be finite, got NaN or infinity in 2 of 5 samples, first in sample 3"
    ):
        as_matrix(x, "a", is_finite=True)


def test_a_pair_must_be_of_the_same_samples():
    with pytest.raises(ValueError, match="`a` and `b` of batch 2 must be of the same samples, got 3 and 4"):
        as_pair(torch.zeros(3, 1), torch.zeros(4, 1), " of batch 2")
    with pytest.raises(ValueError, match="`b` must be finite"):
        as_pair(torch.zeros(1, 1), torch.full((1, 1), torch.nan), is_finite=True)


def test_a_pair_comes_to_lie_on_the_device_of_the_first():
    a, b = as_pair(torch.zeros(2, 3, device="meta"), torch.zeros(2, 3))
    assert a.device == b.device


def test_in_double_changes_the_precision_alone():
    assert torch.equal(in_double(torch.ones(2, 2)), torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1.0, 1e25, 1e38])
def test_rows_of_any_magnitude_get_length_one(scale):
    rows = unit_rows(torch.tensor([[0.3, -0.4], [2.0, 0.0]]) * scale)
    assert torch.allclose(rows, torch.tensor([[0.6, -0.8], [1.0, 0.0]]), atol=1e-5)  # 1e-40 has few digits itself


def test_a_row_of_zeros_stays_zero():
    assert torch.equal(unit_rows(torch.zeros(1, 3)), torch.zeros(1, 3))
