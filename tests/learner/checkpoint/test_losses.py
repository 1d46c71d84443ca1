"""The losses of a run in a file: what is written, forgotten, set aside."""

import numpy as np
import pytest

from learner import LearnerError
from learner.checkpoint.losses import NONE, LossFile


def test_what_is_written_is_read_also_after_a_half_written_number(tmp_path):
    file = LossFile(tmp_path / "new")
    assert file.read().tolist() == []
    file.write(0, [1.0, float("nan")])
    with open(file.path, "ab") as broken:
        broken.write(b"abc")
    file.write(2, [3.0])
    file.write(5, [0.1])
    assert np.array_equal(file.read(), [1.0, np.nan, 3.0, NONE, NONE, 0.1], equal_nan=True)
    assert np.array_equal(np.fromfile(file.path, "<f8"), file.read(), equal_nan=True)


def test_losses_of_a_future_that_will_not_be_go(tmp_path):
    file = LossFile(tmp_path)
    file.forget(after=1)
    file.write(0, [1.0, 2.0, 3.0])
    file.forget(after=5)
    file.forget(after=2)
    assert file.read().tolist() == [1.0, 2.0]


def test_those_of_another_training_are_set_aside(tmp_path):
    file = LossFile(tmp_path)
    file.set_aside()
    for value in (1.0, 2.0):
        file.write(0, [value])
        file.set_aside()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.f64.old", "losses.f64.old1"]


def test_what_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LearnerError, match=r"losses.f64` cannot be written"):
        LossFile(tmp_path / "file").write(0, [1.0])
