"""The demo: train a small network on handwritten digits, and leave pictures of how it went."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from callbacks import (
    ActivationStats,
    CSVLoggerCallback,
    DeviceCallback,
    MetricsCallback,
    ProgressCallback,
    SchedulerCallback,
    accuracy,
)
from learner import Learner, Loaders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_VALID = 360  # of 1797 digits


def main(argv: list[str] | None = None) -> None:
    """Train a small convolutional network on the digits of scikit-learn; write pictures and the history."""
    parser = argparse.ArgumentParser(prog="python -m learner", description=main.__doc__)
    parser.add_argument("--epochs", type=int, default=8, help="rounds over the training digits (8)")
    parser.add_argument("--out", help="folder for what comes out (runs/digits-<time>)")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    folder = Path(args.out or time.strftime("runs/digits-%Y%m%d-%H%M%S"))

    torch.set_num_threads(1)  # for so small a network more are slower, on a busy machine by far
    torch.manual_seed(0)
    dls = digits()
    stats = ActivationStats(mod_filter=lambda module: isinstance(module, nn.ReLU | nn.Linear))
    learn = Learner(
        make_model(),
        dls,
        cross_entropy,
        opt_func=torch.optim.AdamW,
        cbs=[
            DeviceCallback(),
            MetricsCallback(accuracy=accuracy),
            stats,
            SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01)),
            ProgressCallback(),
            CSVLoggerCallback(folder / "history.csv"),
        ],
    )
    learn.fit(args.epochs)
    draw(learn, stats, folder)
    print(f"accuracy {learn.metrics['valid']['accuracy']:.2%} on {N_VALID} digits it was not trained on; see {folder}")


def digits() -> Loaders:
    """Return loaders of 8 x 8 handwritten digits, always split in the same way."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit('The demo needs scikit-learn; do `pip install -e ".[demo]"`.') from None
    images, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16  # grey, [0-1]
    y = torch.as_tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, valid = order[N_VALID:], order[:N_VALID]
    return Loaders.from_arrays(train=(x[train], y[train]), valid=(x[valid], y[valid]), batch_size=64)


def make_model() -> nn.Sequential:
    """Return a network of three convolutions, from 8 x 8 down to one number for each digit."""

    def conv(n_in: int, n_out: int, stride: int) -> nn.Sequential:
        layer = nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU())

    body = conv(1, 16, stride=1), conv(16, 32, stride=2), conv(32, 64, stride=2)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def draw(learn: Learner, stats: ActivationStats, folder: Path) -> None:
    """Write the pictures."""
    import matplotlib

    matplotlib.use("Agg")  # files, no windows
    logits, labels = learn.get_preds("valid")
    images = torch.cat([x for x, _ in learn.dls["valid"]])
    figures = {
        "history": learn.history.plot(),
        "activations": stats.plot_stats(),
        "histograms": stats.color_dim(),
        "dead": stats.dead_chart(),
        "hardest": plot_hardest(images, logits.softmax(dim=1), labels),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)


def plot_hardest(images: Tensor, probabilities: Tensor, labels: Tensor) -> Figure:
    """Draw the digits to whose true label the network gave the least; those it got wrong in red."""
    from matplotlib import pyplot as plt

    of_truth = probabilities.gather(1, labels[:, None])[:, 0]
    figure, axes = plt.subplots(2, 8, figsize=(10, 3.9), layout="constrained")
    for ax, i in zip(axes.flat, of_truth.argsort(), strict=False):
        guess, truth = int(probabilities[i].argmax()), int(labels[i])
        color = "black" if guess == truth else "C3"
        ax.imshow(images[i, 0].numpy(), cmap="gray_r", interpolation="bilinear")
        ax.set_title(f"says {guess} ({probabilities[i, guess]:.0%})\nis {truth}", color=color, fontsize="medium")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color(color)
    figure.suptitle("The digits it found hardest")
    return figure


if __name__ == "__main__":
    main()
