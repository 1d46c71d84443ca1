"""Regression: a curve through noisy points, and how sure the network is of it at each place.

Start it by `python examples/regression.py`: the noise is stronger on the right, and it finds that out.

Source: Nix & Weigend (1994), "Estimating the mean and variance of the target probability distribution".
"""

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn.functional import gaussian_nll_loss, softplus

from callbacks import MetricsCallback, ProgressCallback, mae
from learner import Learner, Loaders


def points(n: int) -> tuple[Tensor, Tensor]:
    """Return places in [-1, 1] and values there, noisy from 0.05 on the left to 0.45 on the right."""
    x = 2 * torch.rand(n, 1) - 1
    return x, torch.sin(4 * x) + (0.25 + 0.2 * x) * torch.randn(n, 1)


class MeanAndVariance(nn.Module):
    """Say of a place which value is there, and how much it varies; shapes: (N, 1) to (N, 2)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, x):
        mean, raw = self.net(x).chunk(2, dim=1)
        return torch.cat([mean, softplus(raw) + 1e-4], dim=1)


def negative_log_likelihood(preds: Tensor, target: Tensor) -> Tensor:
    """Return how improbable the targets are under the predictions."""
    mean, variance = preds.chunk(2, dim=1)
    return gaussian_nll_loss(mean, target, variance)


def make_learner(cbs=()) -> Learner:
    """Return a learner of noisy points; always the same one."""
    torch.manual_seed(0)
    dls = Loaders.from_arrays(train=points(2000), valid=points(500), batch_size=100)
    cbs = [MetricsCallback(mae=lambda preds, target: mae(preds[:, :1], target)), *cbs]
    return Learner(MeanAndVariance(), dls, negative_log_likelihood, lr=5e-3, opt_func=torch.optim.Adam, cbs=cbs)


def draw(learn: Learner) -> None:
    """Draw the points that it was not trained on, the curve, and two standard deviations above and below it."""
    x, y = learn.dls.valid.dataset.tensors
    grid = torch.linspace(-1, 1, 200)
    mean, variance = learn.infer(grid[:, None]).preds.T
    plt.scatter(x, y, s=6, color="grey")
    plt.plot(grid, mean)
    plt.fill_between(grid, mean - 2 * variance.sqrt(), mean + 2 * variance.sqrt(), alpha=0.3)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(30)
    draw(learn)
    plt.show()
