"""A mean teacher: learn from few labels and many samples without one, a batch of each at once.

Start it by `python examples/mean_teacher.py`: of two moons of points, it knows the class of three each.

Source: Tarvainen & Valpola (2017), "Mean teachers are better role models", with noise on the inputs.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from callbacks import EMACallback, MetricsCallback, accuracy
from learner import Callback, Learner, Loaders

N_LABELLED = 6


class MeanTeacherCallback(Callback):
    """Let the average of the weights teach the model to predict the same whatever the noise, also without labels."""

    loaders = "train"

    def __init__(self, teacher, weight=30.0, noise=0.1, n_ramp=200):
        self.teacher, self.weight, self.noise, self.n_ramp = teacher, weight, noise, n_ramp

    def before_batch(self, learn):
        self.x, learn.batch = learn.batch["unlabelled"], learn.batch["labelled"]

    def after_loss(self, learn):
        noisy, again = (self.x + self.noise * torch.randn_like(self.x) for _ in range(2))
        with torch.no_grad():
            taught = functional_call(learn.model, self.teacher.average, noisy).softmax(dim=1)
        consistency = mse_loss(learn.model(again).softmax(dim=1), taught)
        learn.loss = learn.loss + self.weight * min(1, learn.n_steps / self.n_ramp) * consistency
        learn.log(consistency=consistency)


def moons(n: int) -> tuple[Tensor, Tensor]:
    """Return points of two half circles that reach into one another, and which of them each is of."""
    angle, y = math.pi * torch.rand(n), torch.arange(n) % 2
    x = torch.stack([angle.cos() + y - 0.5, angle.sin() * (1 - 2 * y) + 0.5 * y - 0.25], dim=1)
    return x + 0.1 * torch.randn(n, 2), y


def make_learner(cbs=(), *, weight=30.0) -> Learner:
    """Return a learner whose validation sees the teacher; always the same one."""
    torch.manual_seed(1)
    x, y = moons(1000)
    labelled = Loaders.from_arrays(train=(x[:N_LABELLED], y[:N_LABELLED])).train
    unlabelled = Loaders.from_arrays(train=x, batch_size=100).train
    dls = {
        "train": Loaders.zipped(labelled=labelled, unlabelled=unlabelled),
        "valid": Loaders.from_arrays(valid=moons(1000), batch_size=500).valid,
    }
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    teacher = EMACallback(decay=0.98)
    cbs = [MeanTeacherCallback(teacher, weight), teacher, MetricsCallback(accuracy=accuracy), *cbs]
    return Learner(model, dls, cross_entropy, lr=3e-3, opt_func=torch.optim.Adam, cbs=cbs)


@torch.no_grad()
def draw(model: nn.Module) -> str:
    """Return the plane as characters, by the class that the model sees there."""
    plane = torch.cartesian_prod(torch.linspace(1.2, -1.2, 16), torch.linspace(-2, 2, 48)).flip(1)
    return "\n".join("".join(".#"[i] for i in row) for row in model(plane).argmax(dim=1).view(16, 48))


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    for what, weight in {"labels alone": 0, "labels and a mean teacher": 30}.items():
        learn = make_learner(weight=weight)
        learn.fit(40)
        print(f"{what}: {learn.metrics['valid']['accuracy']:.1%} right", draw(learn.model), sep="\n")
