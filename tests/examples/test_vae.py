"""The variational autoencoder of `examples/vae.py`, against a loop by hand."""

import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from examples.vae import make_learner
from tests.examples.by_hand import assert_trains_as


def by_hand(model, loader, n_epochs):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(n_epochs):
        for image in loader:
            mean, log_variance = model.encoder(image).chunk(2, dim=1)
            logits = model.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
            loss = binary_cross_entropy_with_logits(logits, image, reduction="none").sum(dim=1).mean()
            loss = loss + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2)


def test_the_divergence_is_that_of_two_normal_distributions():
    learn = make_learner()
    image = learn.dls.train.dataset[:9]
    mean, log_variance = learn.model.encoder(image).chunk(2, dim=1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1)).sum(dim=1).mean()
    torch.testing.assert_close(learn.model(image)["divergence"], expected)
