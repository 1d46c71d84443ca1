"""The Wasserstein GAN of `examples/wgan_gp.py`, against a loop by hand."""

import torch

from examples.wgan_gp import N_CRITIC, N_NOISE, PENALTY, make_learner
from tests.examples.by_hand import assert_trains_as


def by_hand(model, loader, n_epochs):
    critic, generator = model["critic"], model["generator"]
    critic_opt, generator_opt = (
        torch.optim.Adam(part.parameters(), lr=4e-3, betas=(0.5, 0.9)) for part in (critic, generator)
    )
    n_steps = 0
    for _ in range(n_epochs):
        for real in loader:
            fake = generator(torch.randn(len(real), N_NOISE))
            between = torch.lerp(real, fake.detach(), torch.rand(len(real), 1)).requires_grad_()
            slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
            penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
            loss = critic(fake.detach()).mean() - critic(real).mean() + PENALTY * penalty
            critic_opt.zero_grad()
            loss.backward()
            critic_opt.step()
            n_steps += 1
            if n_steps % N_CRITIC == 0:
                generator_opt.zero_grad()
                (-critic(fake).mean()).backward()
                generator_opt.step()


def test_it_equals_a_loop_by_hand():
    assert_trains_as(by_hand, make_learner, n_epochs=2)
