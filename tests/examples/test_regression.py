"""The regression of `examples/regression.py`, against a loop by hand."""

import torch
from torch.nn.functional import softplus

from examples.regression import make_learner
from tests.examples.by_hand import assert_trains_as


def by_hand(model, loader, n_epochs):
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(n_epochs):
        for x, y in loader:
            mean, raw = model.net(x).chunk(2, dim=1)
            normal = torch.distributions.Normal(mean, (softplus(raw) + 1e-4).sqrt())
            opt.zero_grad()
            (-normal.log_prob(y)).mean().backward()
            opt.step()


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2, rtol=1e-4, atol=1e-5)  # the likelihood in another order
