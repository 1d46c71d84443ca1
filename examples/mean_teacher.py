"""A mean teacher: learn from few labels and many samples without one, a batch of each at once.

Start it by `python examples/mean_teacher.py`: of two moons of points, it knows the class of three each.

Source: Tarvainen & Valpola (2017), "Mean teachers are better role models", with noise on the inputs.
"""

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from callbacks import EMACallback, MetricsCallback, ProgressCallback, accuracy
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
    angle, y = torch.pi * torch.rand(n), torch.arange(n) % 2
    x = torch.stack([angle.cos() + y - 0.5, angle.sin() * (1 - 2 * y) + 0.5 * y - 0.25], dim=1)
    return x + 0.1 * torch.randn(n, 2), y


def make_learner(cbs=(), *, weight=30.0) -> Learner:
    """Return a learner whose validation sees the teacher; always the same one."""
    torch.manual_seed(1)
    x, y = moons(1000)
    labelled = Loaders.from_arrays(train=(x[:N_LABELLED], y[:N_LABELLED])).train
    unlabelled = Loaders.from_arrays(train=x, batch_size=100).train
    valid = Loaders.from_arrays(valid=moons(1000), batch_size=500).valid
    dls = {"train": Loaders.zipped(labelled=labelled, unlabelled=unlabelled), "valid": valid}
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    teacher = EMACallback(decay=0.98)
    cbs = [MeanTeacherCallback(teacher, weight), teacher, MetricsCallback(accuracy=accuracy), *cbs]
    return Learner(model, dls, cross_entropy, lr=3e-3, opt_func=torch.optim.Adam, cbs=cbs)


@torch.no_grad()
def draw(learn: Learner) -> None:
    """Draw what the model says of each place in the plane, the points, and those whose class it knows."""
    x, y = torch.meshgrid(torch.linspace(-2, 2, 100), torch.linspace(-1.2, 1.2, 60), indexing="xy")
    plt.contourf(x, y, learn.model(torch.stack([x, y], dim=2)).softmax(dim=2)[:, :, 1], cmap="RdBu", alpha=0.6)
    points, _ = learn.dls.valid.dataset.tensors
    plt.scatter(points[:, 0], points[:, 1], s=1, color="grey")
    points, classes = learn.dls.train.loaders["labelled"].dataset.tensors
    plt.scatter(points[:, 0], points[:, 1], c=classes, cmap="RdBu", edgecolors="black")


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    for i, (title, weight) in enumerate({"labels alone": 0, "labels and a mean teacher": 30}.items()):
        learn = make_learner(weight=weight)
        learn.fit(40, cbs=ProgressCallback())
        plt.subplot(2, 1, i + 1, title=f"{title}: {learn.metrics['valid']['accuracy']:.1%} right")
        draw(learn)
    plt.show()
