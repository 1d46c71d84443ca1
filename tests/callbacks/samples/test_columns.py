"""What is a column, and what is none."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from callbacks.samples.columns import columns_of
from learner import LearnerError

NUMBERS = [1.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (torch.tensor(NUMBERS), np.float32),
        (torch.tensor(NUMBERS).double(), np.float64),
        (torch.tensor(NUMBERS).half(), np.float16),
        (torch.tensor(NUMBERS).bfloat16(), np.float32),
        (torch.tensor(NUMBERS).to(torch.float8_e4m3fn), np.float32),
        (torch.tensor(NUMBERS).to(torch.uint16), np.uint16),
        (torch.tensor(NUMBERS).int(), np.int32),
        (np.array(NUMBERS, np.float16), np.float16),
        (NUMBERS, np.float64),
        ((1, 0, 3), np.int64),
        (range(1, 4), np.int64),
        ([torch.tensor(value) for value in NUMBERS], np.float32),
        ([torch.tensor(value, dtype=torch.bfloat16) for value in NUMBERS], np.float32),
        ([torch.tensor(1.0), 0.0, 3], np.float64),
        ([np.float32(value) for value in NUMBERS], np.float32),
    ],
)
def test_numbers_keep_their_type_where_numpy_has_it(values, dtype):
    found = columns_of("c", {"x": values}, 3)["x"]
    assert (type(found), found.dtype) == (np.ndarray, dtype)
    assert found[0] == 1
    assert found.shape == (3,)


@pytest.mark.parametrize("values", [[True, False], np.array([True, False]), torch.tensor([True, False])])
def test_bools(values):
    found = columns_of("c", {"x": values}, 2)["x"]
    assert (found.dtype, found.tolist()) == (bool, [True, False])


@pytest.mark.parametrize(
    "values", [["a", "long"], ("a", "long"), np.array(["a", "long"]), np.array(["a", "long"], "O")]
)
def test_strings(values):
    assert columns_of("c", {"x": values}, 2)["x"].tolist() == ["a", "long"]


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(2, 3),
        np.ones((2, 3)),
        [[1, 1, 1], [1, 1, 1]],
        [torch.ones(3), torch.ones(3)],
        [np.ones(3), torch.ones(3)],
        one_hot(torch.tensor([0, 0]), 3).bool() | True,
    ],
)
def test_rows_of_numbers(values):
    assert columns_of("c", {"x": values}, 2)["x"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_tensors_of_other_devices_stay_there():
    found = columns_of("c", {"x": torch.ones(3, device="meta"), "y": torch.ones(3, 2, device="meta").bfloat16()}, 3)
    assert [(x.device.type, x.dtype) for x in found.values()] == [("meta", torch.float32)] * 2


@pytest.mark.parametrize("values", [torch.ones(2), np.ones(2), [1.0, 2.0], ["a", "b"], torch.ones(4), []])
def test_too_few_rows_or_too_many(values):
    with pytest.raises(LearnerError, match=r"column 'x' of c must have a row for each of the 3 samples, got \d"):
        columns_of("c", {"x": values}, 3)


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (torch.tensor(1.0), r"\(\)"),
        (1.5, r"\(\)"),
        (torch.ones(3, 2, 2), r"\(3, 2, 2\)"),
        (torch.ones(3, 0), r"\(3, 0\)"),
        ([[], [], []], r"\(3, 0\)"),
    ],
)
def test_shapes_that_are_no_column(values, shape):
    message = rf"column 'x' of c must have a value \(N,\) or a row \(N, D\) for each sample, got shape {shape}"
    with pytest.raises(LearnerError, match=message):
        columns_of("c", {"x": values}, 3)


def test_a_tensor_in_the_graph_would_keep_it():
    weight = torch.ones(3, requires_grad=True)
    for values in (weight * 2, list(weight * 2)):
        with pytest.raises(LearnerError, match=r"column 'x' of c must be free of the graph.*`.detach\(\)` it"):
            columns_of("c", {"x": values}, 3)


@pytest.mark.parametrize(
    "values",
    [
        None,
        "text",
        [[1], [1, 2], [1]],
        [torch.ones(1), torch.ones(2), torch.ones(1)],
        [1, None, 2],
        [1, "a", 2.0],
        [{"a": 1}] * 3,
        {"a": 1},
        {1, 2, 3},
        np.array(["a", None, "b"], object),
        [["a", "b"]] * 3,
        torch.ones(3, dtype=torch.complex64),
        np.ones(3, complex),
        torch.ones(3).to_sparse(),
        np.array(["2020-01-01"] * 3, "M8[D]"),
    ],
)
def test_what_is_no_column(values):
    with pytest.raises(LearnerError, match="column 'x' of c must hold numbers, bools or strings, as many for each"):
        columns_of("c", {"x": values}, 3)


@pytest.mark.parametrize("name", ["example_id", "epoch", "step", "split"])
def test_names_that_are_taken(name):
    with pytest.raises(LearnerError, match=f"column '{name}' of c must have another name"):
        columns_of("c", {name: torch.ones(3)}, 3)


@pytest.mark.parametrize("name", [1, None, "", ("a", "b")])
def test_names_that_are_none(name):
    with pytest.raises(LearnerError, match="columns of c must be named by strings, got"):
        columns_of("c", {name: torch.ones(3)}, 3)


@pytest.mark.parametrize("columns", [None, torch.ones(3), [("x", torch.ones(3))]])
def test_what_is_no_dict_of_columns(columns):
    with pytest.raises(LearnerError, match="c must return a dict of columns, got"):
        columns_of("c", columns, 3)
