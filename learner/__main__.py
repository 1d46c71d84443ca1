"""The demo: train a small network on handwritten digits, and leave a run on record with its report."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import (
    ActivationStats,
    ClassificationMetricsCollector,
    CollectCallback,
    DeviceCallback,
    MetricsCallback,
    ProgressCallback,
    RunCallback,
    SchedulerCallback,
    accuracy,
)
from learner import Learner, Loaders
from learner.records import Run

N_VALID = 360  # of 1797 digits
MAX_LR = 0.01


def main(argv: list[str] | None = None) -> None:
    """Train a small convolutional network on the digits of scikit-learn; record every sample, and write a report."""
    parser = argparse.ArgumentParser(prog="python -m learner", description=main.__doc__)
    parser.add_argument("--epochs", type=int, default=8, help="rounds over the training digits (8)")
    parser.add_argument("--out", help="folder for what comes out (runs/digits-<time>)")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    folder = Path(args.out or time.strftime("runs/digits-%Y%m%d-%H%M%S"))

    import matplotlib

    matplotlib.use("Agg")  # files, no windows
    torch.set_num_threads(1)  # for so small a network more are slower, on a busy machine by far
    torch.manual_seed(0)
    dls = digits()
    run = Run.create(folder, config={"epochs": args.epochs, "max_lr": MAX_LR})
    learn = Learner(
        make_model(),
        dls,
        cross_entropy,
        opt_func=torch.optim.AdamW,
        cbs=[
            DeviceCallback(),
            MetricsCallback(accuracy=accuracy),
            ActivationStats(mod_filter=lambda module: isinstance(module, nn.ReLU | nn.Linear)),
            SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=MAX_LR)),
            ProgressCallback(),
            CollectCallback(ClassificationMetricsCollector(classes=[str(digit) for digit in range(10)])),
            RunCallback(run),
        ],
    )
    learn.fit(args.epochs)
    draw(learn, run)
    report = run.report()
    print(f"accuracy {learn.metrics['valid']['accuracy']:.2%} on {N_VALID} digits it was not trained on; see {report}")


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


def draw(learn: Learner, run: Run) -> None:
    """Draw the history, and the digits that were hardest."""
    run.add_figure("history", learn.history.plot())
    run.add_figure("hardest", run.samples.where(split="valid").plot_worst(16))


if __name__ == "__main__":
    main()
