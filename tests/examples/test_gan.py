"""The GAN of `examples/gan.py`, against a loop by hand."""

import torch
from torch.nn.functional import softplus

from examples.gan import N_NOISE, make_learner


def by_hand(n_epochs):
    learn = make_learner()
    critic, generator = learn.model["critic"], learn.model["generator"]
    critic_opt = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99))
    generator_opt = torch.optim.Adam(generator.parameters(), lr=5e-4, betas=(0.5, 0.99))
    torch.manual_seed(1)
    for _ in range(n_epochs):
        for real in learn.dls.train:
            fake = generator(torch.randn(len(real), N_NOISE))
            critic_opt.zero_grad()
            (softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()).backward()
            critic_opt.step()
            generator_opt.zero_grad()
            softplus(-critic(fake)).mean().backward()
            generator_opt.step()
    return learn.model


def test_it_equals_a_loop_by_hand():
    learn, model = make_learner(), by_hand(2)
    torch.manual_seed(1)
    learn.fit(2)
    assert all(map(torch.equal, learn.model.parameters(), model.parameters()))
