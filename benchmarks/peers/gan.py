"""The GAN of `examples/gan.py`."""

import torch
from torch.nn.functional import softplus
from torch.optim import Adam

from examples.gan import N_NOISE, GANCallback
from learner import Learner
from learner.optim import Optimizers


def ours(model, loader, n_epochs):
    def adams(params, lr):
        return Optimizers(
            critic=Adam(model["critic"].parameters(), lr=2 * lr, betas=(0.5, 0.99)),
            generator=Adam(model["generator"].parameters(), lr=lr, betas=(0.5, 0.99)),
        )

    Learner(model, {"train": loader}, lr=5e-4, opt_func=adams, cbs=[GANCallback()]).fit(n_epochs)


def ignite(critic, generator, loader, n_epochs):
    from ignite.engine import Engine

    critic_opt = Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99))
    generator_opt = Adam(generator.parameters(), lr=5e-4, betas=(0.5, 0.99))

    def step(engine, real):
        fake = generator(torch.randn(len(real), N_NOISE, device=real.device))
        critic_opt.zero_grad()
        loss = softplus(-critic(real)).mean() + softplus(critic(fake.detach())).mean()
        loss.backward()
        critic_opt.step()
        generator_opt.zero_grad()
        loss = softplus(-critic(fake)).mean()
        loss.backward()
        generator_opt.step()

    Engine(step).run(loader, max_epochs=n_epochs)


def lightning(critic, generator, loader, n_epochs):
    import lightning as pl

    class GAN(pl.LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.critic, self.generator = critic, generator

        def training_step(self, real, i):
            critic_opt, generator_opt = self.optimizers()
            fake = self.generator(torch.randn(len(real), N_NOISE, device=self.device))
            critic_opt.zero_grad()
            loss = softplus(-self.critic(real)).mean() + softplus(self.critic(fake.detach())).mean()
            self.manual_backward(loss)
            critic_opt.step()
            generator_opt.zero_grad()
            loss = softplus(-self.critic(fake)).mean()
            self.manual_backward(loss)
            generator_opt.step()

        def configure_optimizers(self):
            return (
                Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.99)),
                Adam(self.generator.parameters(), lr=5e-4, betas=(0.5, 0.99)),
            )

    pl.Trainer(max_epochs=n_epochs).fit(GAN(), loader)


def fastai(critic, generator, loader, n_epochs):
    from functools import partial

    from fastai.basics import DataLoaders, OptimWrapper
    from fastai.vision.gan import GANDiscriminativeLR, GANLearner

    def critic_loss(real_pred, fake_pred):
        return softplus(-real_pred).mean() + softplus(fake_pred).mean()

    def generator_loss(fake_pred, fake, real):
        return softplus(-fake_pred).mean()

    GANLearner(
        DataLoaders(WithNoise(loader, N_NOISE), []),
        generator,
        critic,
        generator_loss,
        critic_loss,
        opt_func=partial(OptimWrapper, opt=Adam, betas=(0.5, 0.99)),
        lr=5e-4,
        cbs=GANDiscriminativeLR(2.0),
    ).fit(n_epochs)


class WithNoise:
    """Data as fastai's GANs take them: noise and images, the same again where it is the generator's turn."""

    def __init__(self, loader, n_noise, n_critic=1):
        self.loader, self.n_noise, self.n_critic = loader, n_noise, n_critic

    def __len__(self):
        return len(self.loader) + len(self.loader) // self.n_critic

    def __iter__(self):
        for i, real in enumerate(self.loader):
            batch = torch.randn(len(real), self.n_noise), real
            yield batch
            if (i + 1) % self.n_critic == 0:
                yield batch
