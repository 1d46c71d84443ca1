"""An actor and a critic learn to balance poles; they make the data. Start it by `python examples/actor_critic.py`.

Source: Mnih et al. (2016), "Asynchronous methods for deep reinforcement learning", algorithm S3, on carts side by side;
the carts are those of Barto, Sutton & Anderson (1983), "Neuronlike adaptive elements".
"""

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Adam

from callbacks import ProgressCallback
from learner import Callback, Learner
from learner.optim import param_groups

N_CARTS, N_STEPS, DISCOUNT = 64, 8, 0.98  # carts side by side; steps of each in a batch


class ActorCriticCallback(Callback):
    """Play on where the last batch has ended, then learn from it; the return is 1 for a pole that never falls."""

    def predict(self, learn):
        carts = learn.pass_state["carts"] if learn.i else new_carts(N_CARTS)
        learn.preds, learn.batch_size = [], N_CARTS * N_STEPS
        for _ in range(N_STEPS):
            policy = Categorical(logits=learn.model["actor"](carts), validate_args=False)
            actions = policy.sample()
            after, upright = push(carts, actions)
            learn.preds.append((carts, policy.log_prob(actions), upright))
            learn.log(falls_in_1000_steps=1000 * (~upright).float().mean())
            carts = torch.where(upright[:, None], after, new_carts(N_CARTS))
        learn.pass_state["carts"] = carts

    def get_loss(self, learn):
        critic, losses = learn.model["critic"], []
        returns = critic(learn.pass_state["carts"]).detach()
        for carts, log_probs, upright in reversed(learn.preds):
            returns = upright * (1 - DISCOUNT + DISCOUNT * returns)
            advantages = returns - critic(carts)
            losses.append(advantages.square() - log_probs * advantages.detach())
        learn.loss = torch.stack(losses).mean()


def new_carts(n: int) -> Tensor:
    """Return carts that nearly stand still, their poles nearly upright: place [m], speed, angle [rad], its speed."""
    return torch.empty(n, 4).uniform_(-0.05, 0.05)


def push(carts: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Push carts to the left (0) or right (1) for 0.02 s; return them, and which have neither fallen nor left."""
    _, speed, angle, spin = carts.unbind(1)
    force = (20 * actions - 10 + 0.05 * spin.square() * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - force * angle.cos()) / (2 / 3 - 0.05 * angle.cos().square() / 1.1)
    carts = carts + 0.02 * torch.stack([speed, force - 0.05 * turn * angle.cos() / 1.1, spin, turn], dim=1)
    return carts, (carts[:, 0].abs() < 2.4) & (carts[:, 2].abs() < 0.21)


def make_learner(cbs=()) -> Learner:
    """Return a learner whose epochs are 40 batches; always the same one."""
    torch.manual_seed(0)
    actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(0))
    model = nn.ModuleDict({"actor": actor, "critic": critic})
    adam = param_groups(Adam, lr={"critic": 2.0})
    return Learner(model, {"train": range(40)}, lr=3e-3, opt_func=adam, cbs=[ActorCriticCallback(), *cbs])


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(8)
    plt.subplot(xlabel="epoch", ylabel="poles that fall in 1000 steps", yscale="log")
    plt.plot(learn.history.to_dict()["train/falls_in_1000_steps"], marker="o")
    plt.show()
