"""Classification: a convolutional network reads digits, and says which it takes for which.

Start it by `python examples/classification.py`; it needs `pip install scikit-learn pyarrow`.
"""

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import MetricsCallback, ProgressCallback, SchedulerCallback, accuracy, one_cycle
from learner import Learner, Loaders
from learner.optim import param_groups

N_TRAIN = 1400  # of 1797 digits; the others are of other people


def digits() -> Loaders:
    """Return 8 x 8 images of digits."""
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    x = images.float().reshape(-1, 1, 8, 8) / 16  # grey, [0-1]
    return Loaders.from_arrays(
        train=(x[:N_TRAIN], labels[:N_TRAIN]), valid=(x[N_TRAIN:], labels[N_TRAIN:]), batch_size=64
    )


def conv(n_in: int, n_out: int, stride: int) -> nn.Module:
    """Return a convolution with what belongs to it."""
    layer = nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU())


def make_learner(cbs=()) -> Learner:
    """Return a learner of digits; always the same one."""
    torch.manual_seed(0)
    body = conv(1, 16, 1), conv(16, 32, 2), conv(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*body, nn.Linear(64, 10))
    adamw = param_groups(torch.optim.AdamW, no_decay="auto", weight_decay=0.05)
    cbs = [MetricsCallback(accuracy=accuracy), SchedulerCallback(one_cycle()), *cbs]
    return Learner(model, digits(), cross_entropy, lr=1e-2, opt_func=adamw, cbs=cbs)


if __name__ == "__main__":
    torch.set_num_threads(1)  # more are slower for so small a network
    learn = make_learner(cbs=[ProgressCallback()])
    learn.fit(8)
    found = learn.interpret(classes=[str(digit) for digit in range(10)])
    print(found)
    found.plot_top_losses(12)
    plt.show()
