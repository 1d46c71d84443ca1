"""A Wasserstein GAN with gradient penalty: a gradient of a gradient, and one model stepped more often than the other.

Start it by `python examples/wgan_gp.py`: it learns six heaps of points on a circle.

Source: Gulrajani et al. (2017), "Improved training of Wasserstein GANs", algorithm 1.
"""

import math

import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.optim import Adam

from callbacks import ProgressCallback
from learner import Callback, Learner, Loaders
from learner.optim import Optimizers

N_NOISE = 2  # numbers that a point is made of
N_CRITIC = 2  # steps of the critic to one of the generator; 5 for images
PENALTY = 0.1  # weight of the penalty; 10 for images


class WGANCallback(Callback):
    """Train the critic to tell how far apart data and generated data are, and the generator to bring them together."""

    def predict(self, learn):
        learn.preds = learn.model["generator"](torch.randn(len(learn.xb), N_NOISE, device=learn.xb.device))

    def get_loss(self, learn):
        critic, real, fake = learn.model["critic"], learn.xb, learn.preds.detach()
        between = torch.lerp(real, fake, torch.rand(len(real), 1, device=real.device)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        distance = critic(real).mean() - critic(fake).mean()
        learn.loss = PENALTY * (slope.norm(dim=1) - 1).square().mean() - distance
        learn.log(distance=distance)

    def step(self, learn):
        learn.opt["critic"].step()
        if (learn.n_steps + 1) % N_CRITIC == 0:
            (-learn.model["critic"](learn.preds).mean()).backward()
            learn.opt["generator"].step()


def make_learner(cbs=()) -> Learner:
    """Return a learner of points in the plane; always the same one."""
    torch.manual_seed(0)
    angles = torch.arange(6) * math.pi / 3
    points = torch.stack([angles.cos(), angles.sin()], dim=1).repeat(850, 1)
    points += 0.05 * torch.randn(points.shape)

    def network(n_in, n_out):
        return nn.Sequential(nn.Linear(n_in, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n_out))

    model = nn.ModuleDict({"critic": network(2, 1), "generator": network(N_NOISE, 2)})

    def adams(params, lr):
        return Optimizers(**{name: Adam(part.parameters(), lr=lr, betas=(0.5, 0.9)) for name, part in model.items()})

    dls = Loaders.from_arrays(train=points, batch_size=128)
    return Learner(model, dls, lr=4e-3, opt_func=adams, cbs=[WGANCallback(), *cbs])


@torch.no_grad()
def draw(learn: Learner) -> None:
    """Draw what the critic says of each place in the plane, the data, and points that the generator makes."""
    x, y = torch.meshgrid(torch.linspace(-1.5, 1.5, 100), torch.linspace(-1.5, 1.5, 100), indexing="xy")
    plt.contourf(x, y, learn.model["critic"](torch.stack([x, y], dim=2))[:, :, 0], levels=20, cmap="Greys")
    data, made = learn.dls.train.dataset.tensors[0][:800], learn.model["generator"](torch.randn(800, N_NOISE))
    for name, points in {"data": data, "generated": made}.items():
        plt.scatter(points[:, 0], points[:, 1], s=2, label=name)
    plt.legend()


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(20)
    draw(learn)
    plt.show()
