"""The regression of `examples/regression.py`, against a loop by hand."""

import torch
from torch.nn.functional import softplus

from examples.regression import make_learner


def by_hand(n_epochs):
    learn = make_learner()
    model = learn.model
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(1)
    for _ in range(n_epochs):
        for x, y in learn.dls.train:
            mean, raw = model.net(x).chunk(2, dim=1)
            normal = torch.distributions.Normal(mean, (softplus(raw) + 1e-4).sqrt())
            opt.zero_grad()
            (-normal.log_prob(y)).mean().backward()
            opt.step()
    return model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(2)
    torch.manual_seed(1)
    learn.fit(2)
    for p, other in zip(learn.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-4, atol=1e-5)  # the likelihood in another order
