"""`fit(n, resume=True)` passes over a checkpoint that is torn or has no name yet, and ends as if it had been whole."""

import pytest
import torch

from callbacks import CheckpointCallback
from learner import Callback, Learner, LearnerError

N_EPOCHS = 2  # of 3 batches that train


class PowerCut(Callback):
    def before_batch(self, learn):
        if learn.n_steps == 5:
            raise RuntimeError("the power is gone")


@pytest.fixture
def train(make_learner, tmp_path):
    """Train from what is in a folder, if anything is, and return the learner."""

    def fit(folder: str, cbs=()) -> Learner:
        learn = make_learner(CheckpointCallback(tmp_path / folder, every=1), opt_func=torch.optim.Adam)
        learn.fit(N_EPOCHS, cbs=cbs, resume=True)
        return learn

    return fit


@pytest.fixture
def files(train, tmp_path):
    """Return the checkpoints of a training that was cut off, the newest first."""
    with pytest.raises(RuntimeError, match="the power is gone"):
        train("cut off", PowerCut())
    found = sorted((tmp_path / "cut off").glob("*.pt"), reverse=True)
    assert [file.name for file in found] == [f"step-0000000{i}.pt" for i in (5, 4, 3)]
    return found


def assert_same(learn: Learner, other: Learner) -> None:
    for here, there in zip(learn.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(here, there)
        for mine, theirs in zip(learn.opt.state[here].values(), other.opt.state[there].values(), strict=True):
            assert torch.equal(mine, theirs)
    assert learn.history.to_dict() == other.history.to_dict()
    assert learn.n_steps == other.n_steps == 3 * N_EPOCHS


def test_one_that_was_cut_off_and_goes_on_is_the_same(train, files):
    assert_same(train("cut off"), train("left alone"))


@pytest.mark.parametrize(("part", "n_torn"), [(0.0, 1), (0.001, 1), (0.5, 1), (0.5, 2), (0.999, 1), (0.99999, 1)])
def test_a_torn_file_is_named_and_the_one_before_is_used(train, files, part, n_torn):
    for file in files[:n_torn]:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * part)])
    with pytest.warns(RuntimeWarning, match=f"{files[n_torn].name}` is used instead") as warned:
        learn = train("cut off")
    assert [file.name in str(warning.message) for file, warning in zip(files, warned, strict=False)] == [True] * n_torn
    assert_same(learn, train("left alone"))


@pytest.mark.parametrize("place", [0.01, 0.5, 0.9])
def test_a_file_with_one_bit_flipped_is_named_and_the_one_before_is_used(train, files, place):
    data = bytearray(files[0].read_bytes())
    data[int(len(data) * place)] ^= 1
    files[0].write_bytes(data)
    with pytest.warns(RuntimeWarning, match=f"{files[0].name}.*{files[1].name}` is used instead"):
        learn = train("cut off")
    assert_same(learn, train("left alone"))


def test_a_file_that_has_no_name_yet_does_not_count(train, files):
    nameless = files[0].rename(files[0].with_name(f"{files[0].name}.{2**22 + 1}-1.tmp"))  # no process has that number
    learn = train("cut off")
    assert not nameless.exists()
    assert_same(learn, train("left alone"))


def test_where_all_are_torn_nothing_begins(train, files, tmp_path):
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(LearnerError, match=r"is whole:\n.*step-00000005.*\n.*00000004.*\n.*00000003.* is empty"):
        train("cut off")
    assert sorted((tmp_path / "cut off").glob("*.pt"), reverse=True) == files
