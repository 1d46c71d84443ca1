"""Fine-tuning: a network that knows the ten digits learns odd from even by 16 images.

Start it by `python examples/finetune.py`; it needs `pip install scikit-learn`.

Source: Howard & Ruder (2018), "Universal language model fine-tuning for text classification": a new head first, then
all of the model at rates that fall towards the input.
"""

from collections import OrderedDict

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import FreezeCallback, MetricsCallback, ProgressCallback, SchedulerCallback, accuracy, one_cycle
from learner import Callback, Learner, Loaders
from learner.optim import param_groups


def fine_tuner(body: nn.Module, n_classes: int, dls: Loaders, cbs=()) -> Learner:
    """Return a learner that trains a new head for 10 epochs, then all of the model."""
    model = nn.Sequential(OrderedDict(body=body, head=nn.Linear(64, n_classes)))
    adamw = param_groups(torch.optim.AdamW, layer_decay=0.3, no_decay="auto")
    return Learner(model, dls, cross_entropy, 3e-2, adamw, [FreezeCallback("body", until=10), *helpers(), *cbs])


def from_scratch(n_classes: int, dls: Loaders) -> Learner:
    """Return a learner of a new network."""
    model = nn.Sequential(OrderedDict(body=make_body(), head=nn.Linear(64, n_classes)))
    return Learner(model, dls, cross_entropy, lr=1e-2, opt_func=torch.optim.AdamW, cbs=helpers())


def helpers() -> list[Callback]:
    """Return the callbacks that any of these trainings has."""
    return [SchedulerCallback(one_cycle()), MetricsCallback(accuracy=accuracy)]


def make_body() -> nn.Module:
    """Return a network from 8 x 8 images to 64 features of each."""

    def conv(n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.ReLU())

    return nn.Sequential(conv(1, 16), conv(16, 32), nn.Flatten(), nn.Sequential(nn.Linear(128, 64), nn.ReLU()))


def digits(train: slice, n_classes: int) -> Loaders:
    """Return images of digits by their class: which they are, or even and odd; the last 597 are for validation."""
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    x, y = images.float().reshape(-1, 1, 8, 8) / 16, labels % n_classes
    return Loaders.from_arrays(train=(x[train], y[train]), valid=(x[1200:], y[1200:]), batch_size=32)


def make_learner(cbs=(), body: nn.Module | None = None) -> Learner:
    """Return a learner of odd and even; always the same one."""
    torch.manual_seed(0)
    return fine_tuner(make_body() if body is None else body, 2, digits(slice(1000, 1016), 2), cbs)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    torch.manual_seed(0)
    before = from_scratch(10, digits(slice(1000), 10))
    before.fit(6)
    print(f"ten digits, 1000 images: {before.metrics['valid']['accuracy']:.1%} right; odd and even, 16 images:")
    scratch = from_scratch(2, digits(slice(1000, 1016), 2))
    tuned = make_learner(body=before.model.get_submodule("body"))
    plt.subplot(xlabel="epoch", ylabel="accuracy on odd and even")
    for name, learn in {"from scratch": scratch, "fine-tuned": tuned}.items():
        learn.fit(20, cbs=ProgressCallback())
        plt.plot(learn.history.to_dict()["valid/accuracy"], label=name)
    plt.axvline(10, color="grey", linestyle=":", label="the body is trained, too")
    plt.legend()
    plt.show()
