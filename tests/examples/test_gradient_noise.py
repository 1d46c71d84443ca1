"""Noise on gradients as in `examples/gradient_noise.py`, against a loop by hand."""

import torch
from torch.nn.functional import cross_entropy

from examples.gradient_noise import make_learner


def by_hand(n_epochs):
    learn = make_learner()
    model, opt = learn.model, torch.optim.SGD(learn.model.parameters(), lr=0.2)
    torch.manual_seed(1)
    n_steps = 0
    for _ in range(n_epochs):
        for x, y in learn.dls.train:
            cross_entropy(model(x), y).backward()
            for p in model.parameters():
                p.grad += (0.1 / (1 + n_steps) ** 0.55) ** 0.5 * torch.randn_like(p)
            opt.step()
            opt.zero_grad()
            n_steps += 1
    return model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(3)
    learn.dls = {"train": learn.dls.train}
    torch.manual_seed(1)
    learn.fit(3)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))


def test_nothing_is_learned_without_noise():
    """All weights but the biases of the last layer stay at 0, since their gradients are 0."""
    learn = make_learner(eta=0)
    learn.fit(1)
    *others, _ = learn.model.parameters()
    assert not any(p.any() for p in others)
