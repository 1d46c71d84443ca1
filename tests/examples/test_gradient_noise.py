"""Noise on gradients as in `examples/gradient_noise.py`, against a loop by hand."""

import torch
from torch.nn.functional import cross_entropy

from examples.gradient_noise import make_learner
from tests.examples.by_hand import assert_trains_as


def by_hand(model, loader, n_epochs):
    opt = torch.optim.SGD(model.parameters(), lr=0.2)
    n_steps = 0
    for _ in range(n_epochs):
        for x, y in loader:
            cross_entropy(model(x), y).backward()
            for p in model.parameters():
                p.grad += (0.1 / (1 + n_steps) ** 0.55) ** 0.5 * torch.randn_like(p)
            opt.step()
            opt.zero_grad()
            n_steps += 1


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=3)


def test_nothing_is_learned_without_noise():
    """All weights but the biases of the last layer stay at 0, since their gradients are 0."""
    learn = make_learner(eta=0)
    learn.fit(1)
    *others, _ = learn.model.parameters()
    assert not any(p.any() for p in others)
