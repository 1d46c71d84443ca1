"""The Wasserstein GAN of `examples/wgan_gp.py`, with gradient penalty."""

import torch
from torch.optim import Adam

from benchmarks.peers.gan import WithNoise
from examples.wgan_gp import N_CRITIC, N_NOISE, PENALTY, WGANCallback
from learner import Learner
from learner.optim import Optimizers


def ours(model, loader, n_epochs):
    def adams(params, lr):
        return Optimizers(**{name: Adam(part.parameters(), lr=lr, betas=(0.5, 0.9)) for name, part in model.items()})

    Learner(model, {"train": loader}, lr=4e-3, opt_func=adams, cbs=[WGANCallback()]).fit(n_epochs)


def ignite(critic, generator, loader, n_epochs):
    from ignite.engine import Engine

    critic_opt, generator_opt = (Adam(part.parameters(), lr=4e-3, betas=(0.5, 0.9)) for part in (critic, generator))

    def step(engine, real):
        fake = generator(torch.randn(len(real), N_NOISE, device=real.device))
        between = torch.lerp(real, fake.detach(), torch.rand(len(real), 1, device=real.device)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        loss = PENALTY * penalty + critic(fake.detach()).mean() - critic(real).mean()
        critic_opt.zero_grad()
        loss.backward()
        critic_opt.step()
        if engine.state.iteration % N_CRITIC == 0:
            generator_opt.zero_grad()
            (-critic(fake).mean()).backward()
            generator_opt.step()

    Engine(step).run(loader, max_epochs=n_epochs)


def lightning(critic, generator, loader, n_epochs):
    import lightning as pl

    class WGAN(pl.LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.critic, self.generator = critic, generator

        def training_step(self, real, i):
            critic, (critic_opt, generator_opt) = self.critic, self.optimizers()
            fake = self.generator(torch.randn(len(real), N_NOISE, device=self.device))
            between = torch.lerp(real, fake.detach(), torch.rand(len(real), 1, device=self.device)).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            penalty = (slope.norm(dim=1) - 1).square().mean()
            loss = PENALTY * penalty + critic(fake.detach()).mean() - critic(real).mean()
            critic_opt.zero_grad()
            self.manual_backward(loss)
            critic_opt.step()
            if (i + 1) % N_CRITIC == 0:
                generator_opt.zero_grad()
                self.manual_backward(-critic(fake).mean())
                generator_opt.step()

        def configure_optimizers(self):
            return [Adam(part.parameters(), lr=4e-3, betas=(0.5, 0.9)) for part in (self.critic, self.generator)]

    pl.Trainer(max_epochs=n_epochs).fit(WGAN(), loader)


def fastai(critic, generator, loader, n_epochs):
    from functools import partial

    from fastai.basics import Callback, DataLoaders, OptimWrapper
    from fastai.vision.gan import FixedGANSwitcher, GANLearner

    class GradientPenalty(Callback):
        def after_loss(self):
            if not self.gan_trainer.gen_mode:
                real, fake = self.x, generator(self.y)
                between = torch.lerp(real, fake, torch.rand(len(real), 1, device=real.device)).requires_grad_()
                (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
                self.learn.loss_grad += PENALTY * (slope.norm(dim=1) - 1).square().mean()

    def critic_loss(real_pred, fake_pred):
        return fake_pred.mean() - real_pred.mean()

    def generator_loss(fake_pred, fake, real):
        return -fake_pred.mean()

    GANLearner(
        DataLoaders(WithNoise(loader, N_NOISE, N_CRITIC), []),
        generator,
        critic,
        generator_loss,
        critic_loss,
        switcher=FixedGANSwitcher(n_crit=N_CRITIC),
        opt_func=partial(OptimWrapper, opt=Adam, betas=(0.5, 0.9)),
        lr=4e-3,
        cbs=GradientPenalty(),
    ).fit(n_epochs)
