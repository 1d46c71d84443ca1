"""The demo, which leaves a run on record with its report, and what can be done with runs from a shell."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from learner import Learner, LearnerError, Loaders
from learner.records import Run
from learner.records import compare as compare_runs
from learner.replay import parallel_hindsight, save_recorded
from learner.replay.hindsight import checked_steps
from learner.replay.named import NamedFunction

N_VALID = 360  # of 1797 digits
MAX_LR = 0.01


def main(argv: list[str] | None = None) -> None:
    """Run a command; the demo if none is named."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and (command := COMMANDS.get(argv[0])):
        command(argv[1:])
    else:
        demo(argv)


def runs(argv: list[str]) -> None:
    """List the runs in a folder: how they ended, their config, their last values."""
    parser = _parser("runs", runs)
    parser.add_argument("folder", help="with runs in it")
    with _told():
        print(Run.list(parser.parse_args(argv).folder))


def report(argv: list[str]) -> None:
    """Write the report of a run, one page with all that is on record, and say where it is."""
    parser = _parser("report", report)
    parser.add_argument("path", help="the folder of the run")
    parser.add_argument("--out", help="the file (report.html in the folder)")
    args = parser.parse_args(argv)
    with _told():
        print(Run.open(args.path).report(args.out))


def compare(argv: list[str]) -> None:
    """Write a page that compares runs, and say where it is."""
    parser = _parser("compare", compare)
    parser.add_argument("runs", nargs="+", help="folders of runs, or one folder with runs in it")
    parser.add_argument("--out", help="the file (compare.html beside the first run)")
    args = parser.parse_args(argv)
    with _told():
        print(compare_runs(args.runs[0] if len(args.runs) == 1 else args.runs, args.out))


def hindsight(argv: list[str]) -> None:
    """Record what callbacks would have recorded, had they been there, by parts of a training in several processes."""
    parser = _parser("hindsight", hindsight)
    parser.add_argument("learner", help="the function that makes a learner as the one that trained: train.py:make")
    parser.add_argument("path", help="the folder of its checkpoints")
    parser.add_argument("callbacks", help="the function that makes callbacks to record: look.py:callbacks")
    parser.add_argument("--steps", default=":", help="optimizer steps, as 1000:1400 (all that there are)")
    parser.add_argument("--processes", type=int, default=2, help="how many at once (2)")
    parser.add_argument("--out", default="hindsight.pt", help="the file of what they recorded (hindsight.pt)")
    args = parser.parse_args(argv)
    if args.processes < 1:
        parser.error(f"--processes must be at least 1, got {args.processes}")
    with _told(ValueError):
        steps = _steps_of(args.steps)
    with _told(LearnerError):  # alone: an error of the functions themselves keeps its traceback
        make_learner, make_cbs = NamedFunction.of(args.learner), NamedFunction.of(args.callbacks)
        make_learner.find()
        save_recorded(args.out, parallel_hindsight(make_learner, args.path, make_cbs, steps, args.processes))
    print(args.out)


def _steps_of(text: str) -> slice:
    """Return the steps that a text says, as `1000:1400`, `1000:` or `:1400`.

    Raises:
        ValueError: if it says none.
    """
    start, colon, stop = text.partition(":")
    if not colon or not all(part.isdecimal() or not part for part in (start, stop)):
        raise ValueError(f"--steps must be optimizer steps from one to another, got {text!r}; do 1000:1400.")
    steps = slice(int(start or 0), int(stop) if stop else None)
    checked_steps(steps)
    return steps


COMMANDS = {"runs": runs, "report": report, "compare": compare, "hindsight": hindsight}


def _parser(name: str, command: Callable[[list[str]], None]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m learner {name}", description=command.__doc__)


@contextmanager
def _told(*kinds: type[Exception]) -> Iterator[None]:
    """End the program by the message of an error that a person can put right, without a traceback."""
    kinds = kinds or (LearnerError, FileNotFoundError, ValueError)
    try:
        yield
    except kinds as error:
        raise SystemExit(str(error)) from None


def demo(argv: list[str]) -> None:
    """Train a small convolutional network on the digits of scikit-learn; record every sample, and write a report."""
    parser = argparse.ArgumentParser(
        prog="python -m learner",
        description=demo.__doc__,
        epilog="Other commands, each with --help: "
        + "; ".join(f"{name}: {(command.__doc__ or '').rstrip('.')}" for name, command in COMMANDS.items()),
    )
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
    page = run.report()
    print(f"accuracy {learn.metrics['valid']['accuracy']:.2%} on {N_VALID} digits it was not trained on; see {page}")


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
