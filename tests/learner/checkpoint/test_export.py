"""Weights for other programs: those of the model, whole or not there."""

import pytest
import safetensors.torch
import torch
from torch import nn

from learner import LearnerError
from learner.checkpoint.export import export_weights


class Tied(nn.Module):
    """Two names for one memory, which safetensors refuses."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.again = self.head


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_exported_weights_are_those_of_the_model(tmp_path, name):
    model = torch.compile(Tied(), backend="eager")
    export_weights(model, tmp_path / name)
    found = (
        safetensors.torch.load_file(tmp_path / name)
        if name.endswith("safetensors")
        else torch.load(tmp_path / name, weights_only=True)
    )
    expected = model._orig_mod.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_weights_that_cannot_be_written(tmp_path):
    with pytest.raises(LearnerError, match="`path` must be a file that can be written, got"):
        export_weights(Tied(), tmp_path / "nowhere" / "weights.pt")


def test_a_failed_export_leaves_nothing_behind(tmp_path, monkeypatch):
    def half(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(LearnerError, match=r"`path` must be a file that can be written, got .*: disk full"):
        export_weights(Tied(), tmp_path / "weights.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    export_weights(Tied(), "~/weights.pt")
    assert (tmp_path / "weights.pt").is_file()
