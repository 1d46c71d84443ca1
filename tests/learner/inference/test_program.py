"""Programs: what `.pt2` and `.onnx` files give is what the model gives, for any number of samples."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from learner import Learner, LearnerError, Loaders
from learner.inference import program

X, Y = torch.randn(8, 1, 6, 6), torch.arange(8) % 2


class Two(nn.Module):
    """Two inputs by name, one of them of any length, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, tokens, scale, spare=None):
        return {"logits": self.table(tokens).mean(1) * scale[:, None], "scale": 2 * scale}


def convolutions():
    body = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4, 2))


def learner(model=None, dls=None):
    torch.manual_seed(0)
    dls = dls or Loaders.from_arrays(train=(X, Y), valid=(X, Y), batch_size=4)
    return Learner(model or convolutions(), dls, nn.functional.cross_entropy)


def loaded(path):
    """Return what runs a file, as another program would."""
    if path.suffix == ".pt2":
        run = torch.export.load(path).module()
        return lambda *args, **kwargs: [leaf.detach() for leaf in torch.utils._pytree.tree_leaves(run(*args, **kwargs))]
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]

    def run(*args, **kwargs):
        given = dict(zip(names, args, strict=False)) | kwargs
        return session.run(None, {name: value.numpy() for name, value in given.items()})

    return run


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_file_gives_what_the_model_gives_in_eval_mode(tmp_path, suffix):
    learn = learner(torch.compile(convolutions(), backend="eager"))
    learn.fit(1)
    state = torch.get_rng_state()
    learn.export(tmp_path / f"model{suffix}")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in learn.model.modules())
    assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]
    run, model = loaded(tmp_path / f"model{suffix}"), learn.model._orig_mod.eval()
    for x in (X, X[:1], torch.randn(3, 1, 9, 7)):
        np.testing.assert_allclose(run(x)[0], model(x).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_inputs_by_name_and_outputs_in_a_mapping(tmp_path, suffix):
    batch = {"tokens": torch.randint(0, 10, (4, 5)), "scale": torch.rand(4), "label": Y[:4]}
    learn = learner(Two(), {"valid": [batch]})
    learn.export(tmp_path / f"model{suffix}")
    given = {"tokens": torch.randint(0, 10, (6, 9)), "scale": torch.rand(6)}
    found = loaded(tmp_path / f"model{suffix}")(**given)
    for one, other in zip(found, learn.model(**given).values(), strict=True):
        np.testing.assert_allclose(one, other.detach(), rtol=1e-5)


class Branches(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] if x.sum() > 0 else x.flatten(1)[:, 2:4]


class Stream(IterableDataset):
    def __iter__(self):
        yield X[0]


class Words(nn.Module):
    def forward(self, words):
        return torch.zeros(len(words), 2)


@pytest.mark.parametrize(
    ("learn", "match"),
    [
        (learner(Branches()), "the model must be one that `torch.export` can follow, got Branches: .*`torch.where`"),
        (
            learner(dls={"valid": DataLoader(Stream())}),
            "a loader must show what a sample looks like .* got a stream as 'valid'",
        ),
        (learner(Words(), {"valid": DataLoader(["a", "b"])}), "must be tensors for it to be exported, got "),
    ],
    ids=["branches", "stream", "words"],
)
def test_what_cannot_be_exported_is_one_error_and_no_file(tmp_path, learn, match):
    with pytest.raises(LearnerError, match=match):
        learn.export(tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_program_that_gives_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_as_pt2", lambda exported: (b"", lambda *args: torch.zeros(3, 2)))
    with pytest.raises(LearnerError, match="an exported program must give what the model gives"):
        learner().export(tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ImportError, match=r"`onnxscript` must be installed .* `pip install \"learner-callbacks\[onnx\]\"`"
    ):
        learner().export(tmp_path / "model.onnx")


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(LearnerError, match=r"`path` must be a file that can be written, got .*model\.pt2"):
        learner().export(tmp_path / "nowhere" / "model.pt2")
