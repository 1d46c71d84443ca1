"""A model is compared by name, type and shape, and comes back with its flags."""

import torch
from torch import nn

from learner.checkpoint.model import model_differences, model_state, put_back_model


def test_weights_and_flags_come_back():
    saved, other = (nn.Sequential(nn.Linear(2, 2), nn.Dropout()) for _ in range(2))
    saved[1].eval()
    saved[0].bias.requires_grad_(False)
    assert model_differences("model", other, model_state(saved)) == []
    put_back_model(other, model_state(saved))
    assert torch.equal(other[0].weight, saved[0].weight)
    assert (other.training, other[1].training, other[0].bias.requires_grad) == (True, False, False)


def test_what_differs_is_named():
    found = model_differences("model", nn.Linear(2, 2), model_state(nn.Linear(3, 2)))
    assert found == ["model: 'weight' is torch.float32 (2, 2) here, torch.float32 (2, 3) saved"]
