"""Noise on gradients: a network that begins with all weights at 0 learns nothing without it.

Start it by `python examples/gradient_noise.py`; it needs `pip install scikit-learn`.

Source: Neelakantan et al. (2015), "Adding gradient noise improves learning for very deep networks", equation 1.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import MetricsCallback, ProgressCallback, accuracy
from learner import Callback, Learner, Loaders


class GradientNoiseCallback(Callback):
    """Add normal noise to the gradients, the less the more steps were made."""

    def __init__(self, eta=0.1, gamma=0.55):
        self.eta, self.gamma = eta, gamma

    def after_backward(self, learn):
        std = (self.eta / (1 + learn.n_steps) ** self.gamma) ** 0.5
        for p in learn.model.parameters():
            if p.grad is not None:
                p.grad += std * torch.randn_like(p)


def make_learner(cbs=(), *, eta=0.1) -> Learner:
    """Return a learner of digits, whose network has only weights of 0; always the same one."""
    torch.manual_seed(0)
    x, y = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    dls = Loaders.from_arrays(train=(x[:1437] / 16, y[:1437]), valid=(x[1437:] / 16, y[1437:]), batch_size=64)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for p in model.parameters():
        nn.init.zeros_(p)
    cbs = [GradientNoiseCallback(eta), MetricsCallback(accuracy=accuracy), *cbs]
    return Learner(model, dls, cross_entropy, lr=0.2, cbs=cbs)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    columns = {}
    plt.subplot(xlabel="epoch", ylabel="accuracy on digits that were not trained on")
    for eta in (0, 0.1):
        learn = make_learner(eta=eta)
        learn.fit(12, cbs=ProgressCallback())
        columns[eta] = learn.history.to_dict()["valid/accuracy"]
        plt.plot(columns[eta], label=f"noise: eta = {eta}")
    plt.legend()
    plt.show()
