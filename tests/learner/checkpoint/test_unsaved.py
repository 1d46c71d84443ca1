"""What changes while a model trains and is in no checkpoint is named, and nothing else is."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from callbacks import CheckpointCallback
from learner import Callback, Learner
from learner.checkpoint.unsaved import unsaved


def learner(cbs=(), kind=Learner):
    torch.manual_seed(0)
    return kind(nn.Linear(2, 1), {"train": [(torch.ones(3, 2), torch.ones(3, 1))] * 3}, nn.functional.mse_loss, cbs=cbs)


class Holder(Callback):
    """Hold what it is given."""

    def __init__(self, **held):
        vars(self).update(held)


class Named(Holder):
    state = ("opt", "noise")


class Adam(Learner):
    """A second optimizer on a subclass."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.second = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def step(self):
        self.second.step()


class Kept(Adam):
    state = ("second",)


def test_each_kind_of_state_is_named():
    model = nn.Linear(2, 1)
    held = {
        "opt": SGD(model.parameters()),
        "ema": copy.deepcopy(model),
        "scaler": torch.amp.GradScaler("cpu"),
        "noise": np.random.default_rng(0),
        "python": random.Random(0),
        "generators": [torch.Generator()],
        "opts": {"d": SGD(model.parameters())},
    }
    assert unsaved(learner(Holder(**held))) == [f"Holder.{name}" for name in held]
    assert unsaved(learner(kind=Adam)) == ["Adam.second"]


def test_what_is_saved_or_has_nothing_to_save_is_not_named():
    learn = learner(kind=Kept)
    named = Named(opt=SGD(learn.model.parameters()), noise=random.Random(0))
    learn.add_cb(named)
    learn.add_cb(Holder(model=learn.model, loss=nn.MSELoss(), n=1, learn=learn, other=named, opt=named.opt))
    learn.fit(1)
    assert unsaved(learn) == []


def test_one_warning_at_save_and_one_in_a_fit_and_an_error_where_it_must_be_exact(tmp_path):
    learn = learner(kind=Adam)
    message = r"but not `Adam\.second`, so a training that goes on will differ; name the attribute in `state`"
    with pytest.warns(RuntimeWarning, match=message):
        learn.save(tmp_path / "a.pt")
    with pytest.warns(RuntimeWarning, match=message) as told:
        learn.fit(3, cbs=CheckpointCallback(tmp_path / "run"))
    assert len(told) == 1
    weight = learn.model.weight.clone()
    with pytest.raises(ValueError, match=message):
        learn.fit(3, cbs=CheckpointCallback(tmp_path / "other", exact=True))
    assert torch.equal(learn.model.weight, weight)


def test_what_a_subclass_names_goes_on_bit_for_bit(tmp_path):
    whole, half, rest = (learner(kind=Kept) for _ in range(3))
    whole.fit(4)
    half.fit(2, cbs=CheckpointCallback(tmp_path))
    rest.fit(4, cbs=CheckpointCallback(tmp_path), resume=True)
    assert torch.equal(whole.model.weight, rest.model.weight)
    half.save(tmp_path / "a.pt")
    other = learner(kind=Kept)
    other.load(tmp_path / "a.pt")
    other.fit(2)
    assert torch.equal(whole.model.weight, other.model.weight)
