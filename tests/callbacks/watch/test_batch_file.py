"""A batch as plain data: it comes back as it was, from a file that runs no code."""

import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from callbacks.watch.batch_file import batch_state, load_batch_state, plain, rebuilt, weights_of, write
from learner import Learner

Pair = namedtuple("Pair", "x y")


@dataclass
class Item:
    x: torch.Tensor
    _n: int = 3


class Kind(IntEnum):
    CAT = 1


def loaded(value, tmp_path: Path):
    write(tmp_path / "file.pt", value)
    return torch.load(tmp_path / "file.pt", weights_only=True)


def test_a_nest_comes_back_through_a_file(tmp_path):
    x, lost = torch.arange(3.0), []
    nest = {"x": [x, (1, 2.5, "a", True, None)], 7: OrderedDict(y=x), "pair": Pair(x, {"n": 1}), "item": Item(x)}
    back = rebuilt(loaded(plain(nest, "xb", lost), tmp_path))
    assert lost == []
    assert list(back) == ["x", 7, "pair", "item"]
    assert back["x"][1] == (1, 2.5, "a", True, None)
    assert back["x"][1][3] is True
    assert type(back[7]) is dict
    assert (type(back["pair"]).__name__, back["pair"][1], back["pair"].y) == ("Pair", {"n": 1}, {"n": 1})
    assert (type(back["item"]).__name__, back["item"]._n) == ("Item", 3)
    for tensor in (back["x"][0], back[7]["y"], back["pair"].x, back["item"].x):
        assert torch.equal(tensor, x)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [(np.float64(0.5), float, 0.5), (Kind.CAT, int, 1), (np.str_("a"), str, "a"), (torch.Size([2]), tuple, (2,))],
)
def test_relatives_of_plain_types_become_plain(value, kind, expected, tmp_path):
    back = loaded(plain(value, "xb", []), tmp_path)
    assert (type(back), back) == (kind, expected)


@pytest.mark.parametrize("value", [np.ones(2), object(), {(1, 2): 3}, torch.Generator()])
def test_what_cannot_be_kept_is_named_and_described(value, tmp_path):
    lost = []
    back = loaded(plain([1, {"a": value}], "xb", lost), tmp_path)
    assert lost == ["xb[1].a"]
    assert isinstance(back[1]["a"], str)


def test_tensors_are_copies_of_their_own_on_the_cpu(tmp_path):
    whole = nn.Parameter(torch.zeros(1000, 10))
    kept = plain(whole[:1], "xb", [])
    assert type(kept) is torch.Tensor
    assert kept.untyped_storage().nbytes() == 40
    assert not kept.requires_grad
    with torch.no_grad():
        whole.fill_(1)
    assert kept.sum() == 0


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.pt"
    write(path, {"a": 1})
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"[Cc]an.t (get|pickle) local object"):
        write(path, {"a": lambda: None})
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["file.pt"]
    (tmp_path / "link.pt").symlink_to(path)
    write(tmp_path / "link.pt", {"a": 2})
    assert (tmp_path / "link.pt").is_symlink()
    assert torch.load(path, weights_only=True) == {"a": 2}


def model_with_all_kinds_of_weights():
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    inner.register_buffer("mask", torch.ones(2), persistent=False)
    return nn.Sequential(inner, inner[0])


def test_weights_are_parameters_and_all_buffers_under_their_own_names():
    model = model_with_all_kinds_of_weights()
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = ["0.mask", "0.0.weight", "0.0.bias", *(f"0.1.{name}" for name in norm)]
    assert list(weights_of(model)) == names
    assert list(weights_of(torch.compile(model, backend="eager"))) == names
    assert weights_of(model)["0.1.running_var"] is model[0][1].running_var


def learner_of(model):
    return Learner(model, {"train": [(torch.ones(2, 2), torch.ones(2, 2))]}, nn.functional.mse_loss)


def test_a_learner_is_put_where_another_was(tmp_path):
    learn, other = learner_of(model_with_all_kinds_of_weights()), learner_of(model_with_all_kinds_of_weights())
    learn.model[0][1].eval()
    learn.model[0].mask.fill_(5)
    learn.epoch, learn.dl_name, learn.i, learn.role, learn.training, learn.batch_size = 3, "valid", 4, "valid", False, 2
    learn.batch, learn.yb = {"x": torch.ones(2, 2), "id": "a"}, torch.zeros(2)
    rng = {"cpu": torch.get_rng_state()}
    saved = loaded(batch_state(learn, torch.full((2, 2), 7.0), rng), tmp_path)
    load_batch_state(other, saved)
    assert all(torch.equal(weight, weights_of(learn.model)[n]) for n, weight in weights_of(other.model).items())
    assert [m.training for m in other.model.modules()] == [m.training for m in learn.model.modules()]
    assert (other.epoch, other.dl_name, other.i, other.role, other.training, other.batch_size) == (
        *(3, "valid", 4, "valid", False, 2),
    )
    assert torch.equal(other.xb, torch.full((2, 2), 7.0))
    assert torch.equal(other.yb, torch.zeros(2))
    assert other.batch["id"] == "a"
    assert torch.equal(saved["rng"]["cpu"], rng["cpu"])
    assert saved["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Linear(3, 2), "`weight` differ|`weight`"),
        (nn.Linear(2, 2, bias=False), "`bias`"),
        (nn.BatchNorm1d(2), "`weight`.*`running_mean`"),
    ],
)
def test_another_model_is_refused(model, named):
    saved = batch_state(learner_of(nn.Linear(2, 2)), None, {})
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    with pytest.raises(ValueError, match=f"`learn.model` must be the model of the file.*differs in .*({named})"):
        load_batch_state(learner_of(model), saved)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
