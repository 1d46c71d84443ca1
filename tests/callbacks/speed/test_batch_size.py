"""The largest batch that fits is found by trying, with a device whose memory is made up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from callbacks import AccumulateCallback
from callbacks.speed import batch_size
from learner import Learner, LearnerError
from learner.checkpoint.snapshot import snapshot
from tests.resuming import differing


class Memory:
    """Memory for so many samples at once."""

    def __init__(self, room=math.inf):
        self.room, self.most = room, 0

    def reset(self):
        self.most = 0

    def take(self, n):
        if n > self.room:
            raise torch.OutOfMemoryError("made up")
        self.most = max(self.most, n)

    def peak(self):
        return self.most * 10**9  # a GB a sample


class Net(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.layer, self.memory = nn.Linear(3, 1), memory

    def forward(self, x):
        self.memory.take(len(x))
        return self.layer(x)


def make(monkeypatch, memory, n=4, cbs=None):
    monkeypatch.setattr(batch_size, "memory_of", lambda learn: memory)
    torch.manual_seed(0)
    dls = {"train": [(torch.randn(n, 3), torch.randn(n, 1))], "valid": [(torch.randn(2, 3), torch.randn(2, 1))]}
    return Learner(Net(memory), dls, mse_loss, 0.1, torch.optim.AdamW, cbs)


@given(room=st.integers(1, 5000), n=st.integers(1, 70))
def test_it_finds_what_fits_to_a_sixteenth(room, n):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= room

    found = batch_size.largest_size(fits, n)
    assert found <= room <= found + max(1, found // 16)
    assert len(tried) < 24


@pytest.mark.parametrize("room", [1, 3, 100])
@pytest.mark.parametrize("cbs", [None, AccumulateCallback(3)])
def test_a_learner_is_as_it_was(monkeypatch, room, cbs):
    learn = make(monkeypatch, Memory(room), cbs=cbs)
    dls, before = learn.dls, snapshot(learn)
    found = learn.batch_size_find()
    assert found <= room <= found + max(1, found // 16)
    assert differing(snapshot(learn), before) == []
    assert learn.dls is dls
    assert learn.opt is None


def test_a_limit_is_kept_to(monkeypatch):
    assert make(monkeypatch, Memory()).batch_size_find(max_gb=9.5) == 9


def test_nothing_fits(monkeypatch):
    with pytest.raises(LearnerError, match="must have memory for at least one sample"):
        make(monkeypatch, Memory(0)).batch_size_find()


def test_another_error_is_that(monkeypatch):
    learn = make(monkeypatch, Memory())
    monkeypatch.setattr(learn.model.memory, "take", lambda n: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn.batch_size_find()


def test_elsewhere_it_is_refused_with_the_reason():
    learn = Learner(nn.Linear(1, 1), {"train": [(torch.ones(2, 1), torch.ones(2, 1))]}, mse_loss)
    with pytest.raises(LearnerError, match="must be on a CUDA device for `batch_size_find`, got 'cpu', where"):
        learn.batch_size_find()


@pytest.mark.parametrize("max_gb", [0, -1, math.nan, "20", True])
def test_bad_limits(max_gb):
    learn = Learner(nn.Linear(1, 1), {"train": [(torch.ones(2, 1), torch.ones(2, 1))]}, mse_loss)
    with pytest.raises((TypeError, ValueError), match="`max_gb` must be"):
        learn.batch_size_find(max_gb)
