"""The actor and the critic of `examples/actor_critic.py`, which make their data themselves."""

import torch
from torch import nn
from torch.distributions import Categorical
from torch.optim import Adam

from examples.actor_critic import DISCOUNT, N_CARTS, N_STEPS, ActorCriticCallback, new_carts, push
from learner import Learner
from learner.optim import param_groups


def ours(model, loader, n_epochs):
    Learner(
        model,
        {"train": loader},
        lr=3e-3,
        opt_func=param_groups(Adam, lr={"critic": 2.0}),
        cbs=[ActorCriticCallback()],
    ).fit(n_epochs)


def ignite(actor, critic, loader, n_epochs):
    from ignite.engine import Engine, Events

    opt = Adam([{"params": actor.parameters()}, {"params": critic.parameters(), "lr": 6e-3}], lr=3e-3)

    def step(engine, i):
        carts, played, losses = engine.state.carts, [], []
        for _ in range(N_STEPS):
            policy = Categorical(logits=actor(carts), validate_args=False)
            actions = policy.sample()
            after, upright = push(carts, actions)
            played.append((carts, policy.log_prob(actions), upright))
            carts = torch.where(upright[:, None], after, new_carts(N_CARTS))
        engine.state.carts = carts
        returns = critic(carts).detach()
        for carts, log_probs, upright in reversed(played):
            returns = upright * (1 - DISCOUNT + DISCOUNT * returns)
            advantages = returns - critic(carts)
            losses.append(advantages.square() - log_probs * advantages.detach())
        opt.zero_grad()
        torch.stack(losses).mean().backward()
        opt.step()

    trainer = Engine(step)

    @trainer.on(Events.EPOCH_STARTED)
    def begin(engine):
        engine.state.carts = new_carts(N_CARTS)

    trainer.run(loader, max_epochs=n_epochs)


def lightning(actor, critic, loader, n_epochs):
    import lightning as pl

    class ActorCritic(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = actor, critic

        def on_train_epoch_start(self):
            self.carts = new_carts(N_CARTS)

        def training_step(self, batch, i):
            carts, played, losses = self.carts, [], []
            for _ in range(N_STEPS):
                policy = Categorical(logits=self.actor(carts), validate_args=False)
                actions = policy.sample()
                after, upright = push(carts, actions)
                played.append((carts, policy.log_prob(actions), upright))
                carts = torch.where(upright[:, None], after, new_carts(N_CARTS))
            self.carts = carts
            returns = self.critic(carts).detach()
            for carts, log_probs, upright in reversed(played):
                returns = upright * (1 - DISCOUNT + DISCOUNT * returns)
                advantages = returns - self.critic(carts)
                losses.append(advantages.square() - log_probs * advantages.detach())
            return torch.stack(losses).mean()

        def configure_optimizers(self):
            return Adam(
                [{"params": self.actor.parameters()}, {"params": self.critic.parameters(), "lr": 6e-3}],
                lr=3e-3,
            )

    pl.Trainer(max_epochs=n_epochs).fit(ActorCritic(), loader)


def fastai(actor, critic, loader, n_epochs):
    from functools import partial

    from fastai.basics import DataLoaders, OptimWrapper, params
    from fastai.basics import Learner as FastaiLearner
    from fastai.callback.rnn import ModelResetter

    class ActorCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = actor, critic

        def reset(self):
            self.carts = None

        def forward(self, i):
            carts, played, losses = new_carts(N_CARTS) if self.carts is None else self.carts, [], []
            for _ in range(N_STEPS):
                policy = Categorical(logits=self.actor(carts), validate_args=False)
                actions = policy.sample()
                after, upright = push(carts, actions)
                played.append((carts, policy.log_prob(actions), upright))
                carts = torch.where(upright[:, None], after, new_carts(N_CARTS))
            self.carts = carts
            returns = self.critic(carts).detach()
            for carts, log_probs, upright in reversed(played):
                returns = upright * (1 - DISCOUNT + DISCOUNT * returns)
                advantages = returns - self.critic(carts)
                losses.append(advantages.square() - log_probs * advantages.detach())
            return torch.stack(losses).mean()

    FastaiLearner(
        DataLoaders([(i, i) for i in loader], []),
        ActorCritic(),
        lambda loss, i: loss,
        opt_func=partial(OptimWrapper, opt=Adam),
        splitter=lambda model: [params(model.actor), params(model.critic)],
        cbs=ModelResetter(),
    ).fit(n_epochs, lr=slice(3e-3, 6e-3))
