"""Which activations die, which saturate, and how much of them."""

import pytest
import torch
from torch import nn

from callbacks.watch.units import can_die, saturated, saturates


class Own(nn.Module):
    """An activation of one's own."""

    def forward(self, x):
        return x.relu()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize("module", [nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.SiLU(), nn.Hardswish(), Own()])
def test_units_die_where_an_activation_is_flat_at_zero(module):
    assert module(torch.tensor(-20.0)).abs() < 1e-6
    assert can_die(module)
    assert not saturates(module)


@pytest.mark.parametrize(
    "module",
    [nn.Linear(3, 2), nn.LeakyReLU(), nn.ELU(), nn.Dropout(), nn.BatchNorm1d(2), nn.Tanh(), nn.Softmax(1), Block()],
)
def test_units_of_other_layers_do_not(module):
    assert not can_die(module)


@pytest.mark.parametrize(
    ("module", "low", "high"),
    [
        (nn.Tanh(), -0.95, 0.95),
        (nn.Sigmoid(), 0.025, 0.975),
        (nn.Softsign(), -0.95, 0.95),
        (nn.Hardtanh(-2, 4), -1.85, 3.85),
    ],
)
def test_saturation_is_counted_at_the_ends_of_a_range(module, low, high):
    output = module(torch.randn(1000) * 4)
    assert saturates(module)
    assert saturated(module, output).item() == pytest.approx(((output < low) | (output > high)).double().mean().item())


@pytest.mark.parametrize(("module", "axis"), [(nn.Softmax(1), 1), (nn.Softmax2d(), 1), (nn.Softmax(-1), 3)])
def test_a_softmax_is_saturated_where_one_takes_it_all(module, axis):
    output = module(torch.randn(5, 3, 4, 4) * 5)
    expected = (output.max(axis).values > 0.95).double().mean().item()
    assert 0 < expected < 1
    assert saturated(module, output).item() == pytest.approx(expected)
