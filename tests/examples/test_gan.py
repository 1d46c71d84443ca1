"""The GAN of `examples/gan.py`, against a loop by hand."""

import torch
from torch.nn.functional import softplus

from examples.gan import N_NOISE, make_learner
from tests.examples.by_hand import assert_trains_as


def by_hand(model, loader, n_epochs):
    critic, generator = model["critic"], model["generator"]
    critic_opt = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99))
    generator_opt = torch.optim.Adam(generator.parameters(), lr=5e-4, betas=(0.5, 0.99))
    for _ in range(n_epochs):
        for real in loader:
            fake = generator(torch.randn(len(real), N_NOISE))
            critic_opt.zero_grad()
            (softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()).backward()
            critic_opt.step()
            generator_opt.zero_grad()
            softplus(-critic(fake)).mean().backward()
            generator_opt.step()


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2)
