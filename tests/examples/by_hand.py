"""What holds an example to a loop by hand, and the schedules that such loops need, in plain Python.

    assert_trains_as(by_hand, make_learner, n_epochs=2)

`by_hand(model, loader, n_epochs)` trains in plain torch.
"""

import math

import torch
from torch.nn.functional import cross_entropy


def assert_trains_as(by_hand, make_learner, n_epochs, rtol=0.0, atol=0.0):
    """Train the model of a learner, and the same model by hand from the same seed; compare all that they hold."""
    learn, other = make_learner(), make_learner()
    torch.manual_seed(1)
    by_hand(other.model, other.dls["train"], n_epochs)
    torch.manual_seed(1)
    learn.fit(n_epochs)
    torch.testing.assert_close(learn.model.state_dict(), other.model.state_dict(), rtol=rtol, atol=atol)


def clipped_adam(lr):
    """Return a loop of Adam with gradients that are clipped to a norm of 1."""

    def by_hand(model, loader, n_epochs):
        opt = torch.optim.Adam(model.parameters(), lr=lr)
        for _ in range(n_epochs):
            for x, y in loader:
                opt.zero_grad()
                cross_entropy(model(x), y).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()

    return by_hand


def one_cycle(i, n):
    """Return the share of the highest learning rate, and the first momentum, of step `i` of `n`."""
    n_up = 0.25 * n
    if i < n_up:
        return _cosine(1 / 25, 1.0, i / n_up), _cosine(0.95, 0.85, i / n_up)
    return _cosine(1.0, 1e-5, (i - n_up) / (n - n_up)), _cosine(0.85, 0.95, (i - n_up) / (n - n_up))


def warmup_cosine(i, n):
    """Return the share of the highest learning rate of step `i` of `n`."""
    n_warmup = round(0.1 * n)
    if i < n_warmup:
        return (i + 1) / (n_warmup + 1)
    return _cosine(1.0, 0.0, (i - n_warmup) / (n - n_warmup))


def _cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
