"""The state before a batch comes back: what went in, random numbers, buffers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from callbacks.watch.rewind import Rewind


def test_random_numbers_and_what_went_in_come_back():
    learn = SimpleNamespace(xb=torch.ones(2))
    rewind, xb = Rewind(nn.Linear(1, 1)), learn.xb
    rewind.keep(learn)
    drawn, learn.xb = torch.rand(3), None
    rewind.restore(learn)
    assert torch.equal(torch.rand(3), drawn)
    assert learn.xb is xb
    assert list(rewind.rng_by_device()) == ["cpu"]


def make_tracker():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Module())
    model[1].register_buffer("none", None)
    model[1].register_buffer("mask", torch.tensor([True]), persistent=False)
    return model


@pytest.mark.parametrize("is_bad", [True, False])
def test_buffers_come_back_to_the_bit_in_the_same_tensors(is_bad):
    learn, model = SimpleNamespace(xb=None), make_tracker()
    rewind = Rewind(model)
    model[0](torch.randn(4, 2))
    rewind.keep(learn)  # of the second batch, not of the beginning
    before, same = {n: b.clone() for n, b in model.named_buffers()}, dict(model.named_buffers())
    model[0](torch.full((4, 2), torch.nan) if is_bad else torch.randn(4, 2))
    model[1].mask.fill_(False)
    rewind.restore_buffers()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
        assert buffer is same[name]


class Replaces(nn.Module):
    """Puts another buffer in the place of the old one, of another shape and with a gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("state", torch.zeros(1))

    def forward(self, x):
        self.state = torch.cat([self.state, x * self.weight])
        return self.state.sum()


def test_a_buffer_that_forward_replaces_comes_back():
    learn, model = SimpleNamespace(xb=None), Replaces()
    rewind = Rewind(model)
    for i in range(3):
        rewind.keep(learn)
        before = model.state
        model(torch.full((1,), float(i)))
        assert len(model.state) == i + 2
    rewind.restore_buffers()
    assert model.state is before
    assert torch.equal(before, torch.tensor([0.0, 0.0, 1.0]))


def test_a_lazy_buffer_is_kept_once_it_is_there():
    learn, model = SimpleNamespace(xb=None), nn.LazyBatchNorm1d()
    rewind = Rewind(model)
    for _ in range(2):
        rewind.keep(learn)
        model(torch.randn(4, 3))
    first = {n: b.clone() for n, b in model.named_buffers()}
    rewind.keep(learn)
    model(torch.randn(4, 3))
    rewind.restore_buffers()
    assert all(torch.equal(b, first[n]) for n, b in model.named_buffers())
    assert model.num_batches_tracked == 2


def test_a_buffer_with_a_gradient_comes_back():
    learn, model = SimpleNamespace(xb=None), nn.Module()
    model.register_buffer("state", torch.ones(2, requires_grad=True))
    rewind = Rewind(model)
    rewind.keep(learn)
    with torch.no_grad():
        model.state.zero_()
    rewind.restore_buffers()
    assert torch.equal(model.state, torch.ones(2))
    assert model.state.is_leaf
