"""ScalarFile: each number comes back to the last bit, after any kill."""

import json
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner import LearnerError
from learner.records.scalars import ScalarFile, Series, axis_of, checked_scalars
from tests.learner.records.recorded import full_disk


@pytest.fixture
def file(tmp_path):
    return ScalarFile(tmp_path / "scalars.jsonl")


def fill(file, *rows):
    for row in rows:
        file.append(checked_scalars(row))


def same(a, b):
    """Compare to the bit, where NaN equals NaN and 0.0 differs from -0.0."""
    return str(a) == str(b)


@given(st.lists(st.dictionaries(st.text(min_size=1), st.one_of(st.floats(), st.integers()), min_size=1)))
def test_every_number_and_name_comes_back(tmp_path_factory, rows):
    file = ScalarFile(tmp_path_factory.mktemp("scalars") / "scalars.jsonl")
    rows = [{f"x{name}": value for name, value in row.items()} for row in rows]
    fill(file, *rows)
    assert same(file.rows(), rows)


def test_lines_are_strict_json(file):
    fill(file, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1})

    def refuse(constant):
        raise AssertionError(constant)

    (line,) = file.path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 0.1}


def test_numbers_of_any_kind_become_pythons_own(file):
    fill(
        file,
        {"a": torch.tensor(0.5, requires_grad=True), "b": np.float32(0.1), "c": np.int64(3), "d": True, "e": 10**400},
    )
    fill(file, {"a": torch.tensor([7]), "b": np.array(2.0), "c": np.array([[1]])})
    first, second = file.rows()
    assert first == {"a": 0.5, "b": float(np.float32(0.1)), "c": 3, "d": 1, "e": 10**400}
    assert [type(value) for value in first.values()] == [float, float, int, int, int]
    assert second == {"a": 7, "b": 2.0, "c": 1}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([("loss", 1.0)], TypeError, "`values` must be a mapping from names to numbers"),
        ({}, ValueError, "`values` must hold a value beside the axis, got {}"),
        ({"epoch": 1, "step": 2}, ValueError, "must hold a value beside the axis"),
        ({"": 1.0}, TypeError, "`values` must have names that are strings and not empty, got ''"),
        ({3: 1.0}, TypeError, "names that are strings and not empty, got 3"),
        ({"loss": "0.5"}, TypeError, "`loss` must be a number, got '0.5'"),
        ({"loss": None}, TypeError, "`loss` must be a number, got None"),
        ({"loss": [1.0]}, TypeError, "`loss` must be a number"),
        ({"loss": 1j}, TypeError, "`loss` must be a number"),
        ({"loss": torch.tensor(1j)}, TypeError, "`loss` must be a number"),
        ({"loss": np.array(["a"])}, TypeError, "`loss` must be a number"),
        ({"loss": torch.ones(2)}, TypeError, r"`loss` must be a number, got Tensor\(2,\) float32; reduce it"),
        ({"loss": np.ones(0)}, TypeError, "`loss` must be a number, got ndarray"),
        ({"loss": 1.0, "epoch": math.nan}, ValueError, "`epoch` must be finite, for it is the axis, got nan"),
    ],
)
def test_what_is_no_number_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        checked_scalars(values)


# -- series ------------------------------------------------------------------------------------------------------------


def test_the_same_names_extend_their_series(file):
    fill(
        file, {"epoch": 0, "loss": 0.5, "acc": 0.9}, {"epoch": 1, "loss": 0.4, "acc": 0.91}, {"epoch": 10, "loss": 0.3}
    )
    assert file.series() == {
        "loss": Series("epoch", [0, 1, 10], [0.5, 0.4, 0.3]),
        "acc": Series("epoch", [0, 1], [0.9, 0.91]),
    }
    assert list(file.series()) == ["loss", "acc"]


def test_without_an_axis_each_series_counts_its_own(file):
    fill(file, {"a": 5.0}, {"b": 1.0}, {"a": 6.0, "b": 2.0}, {"a": 7.0})
    assert file.series() == {"a": Series("index", [0, 1, 2], [5.0, 6.0, 7.0]), "b": Series("index", [0, 1], [1.0, 2.0])}


def test_the_finest_axis_is_the_axis():
    assert axis_of({"epoch": 0, "loss": 1}) == "epoch"
    assert axis_of({"epoch": 0, "iteration": 0}) == "iteration"
    assert axis_of({"iteration": 0, "epoch": 0, "step": 0}) == "step"
    assert axis_of({"loss": 0}) is None


def test_a_name_on_another_axis_is_another_series(file):
    fill(file, {"epoch": 0, "loss": 0.5}, {"step": 7, "epoch": 0, "loss": 0.6}, {"loss": 0.7}, {"step": 8, "loss": 0.8})
    assert file.series() == {
        "loss": Series("epoch", [0], [0.5]),
        "loss by step": Series("step", [7, 8], [0.6, 0.8]),
        "loss by index": Series("index", [0], [0.7]),
    }


# -- kills and disks ---------------------------------------------------------------------------------------------------


def test_wherever_the_file_is_cut_the_lines_before_are_read_and_the_next_ones_too(tmp_path):
    whole = ScalarFile(tmp_path / "whole")
    rows = [{"epoch": i, "loss": 0.1 * i, "größe": math.inf} for i in range(3)]
    fill(whole, *rows)
    data = whole.path.read_bytes()
    for n in range(len(data)):
        cut = ScalarFile(tmp_path / f"cut{n}")
        cut.path.write_bytes(data[:n])
        n_whole = data[:n].count(b"\n")
        assert cut.rows() == rows[:n_whole]
        fill(cut, {"after": 1})
        assert cut.rows() == [*rows[:n_whole], {"after": 1}]
        assert ScalarFile(cut.path).rows() == cut.rows()


def test_nothing_is_lost_by_reading(file):
    file.path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert file.rows() == [{"a": 1}]
    assert file.path.read_bytes() == b'{"a": 1}\n{"a": 2'


@pytest.mark.parametrize("line", [b'{"a": 1', b"[1]", b'{"a": "x"}', b'{"a": [1]}', b"", b"\xff"])
def test_a_line_in_the_middle_that_is_none_is_named(file, line):
    file.path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(
        LearnerError, match=r"scalars\.jsonl` must hold a JSON object of numbers in each line, .* in line 2"
    ):
        file.rows()


def test_no_file_is_no_rows(file):
    assert (file.rows(), file.series()) == ([], {})


def test_a_full_disk_is_one_clear_error(file):
    with (
        full_disk(),
        pytest.raises(LearnerError, match=r"scalars\.jsonl` must be a file that can be written.*File too large"),
    ):
        fill(file, {"a": 1})


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_ordinary_file_is_neither_written_nor_read(file, tmp_path, kind):
    other = tmp_path / "keys"
    other.write_bytes(b'{"a": 1}\n{"torn')
    file.path.symlink_to(other) if kind == "link" else os.mkfifo(file.path)
    with pytest.raises(LearnerError, match="must be a file that can be written"):
        fill(file, {"a": 2})
    with pytest.raises(LearnerError, match="must be a file that can be read"):
        file.rows()
    assert other.read_bytes() == b'{"a": 1}\n{"torn'


def test_a_line_that_was_half_written_is_taken_off_by_the_next(file):
    fill(file, {"a": 1})
    size = file.path.stat().st_size
    with full_disk(size + 4), pytest.raises(LearnerError, match="File too large"):
        fill(file, {"a": 2})
    assert file.path.read_bytes()[size:] == b'{"a"'
    fill(file, {"a": 3})
    assert file.rows() == [{"a": 1}, {"a": 3}]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(LearnerError, match=r"none/x\.jsonl` must be a file that can be written"):
        fill(ScalarFile(tmp_path / "none" / "x.jsonl"), {"a": 1})
