"""What the Learner costs over a careful hand-written loop, and what others cost: `python benchmarks/overhead.py`.

The same tiny network, the same batches (made beforehand, in a list), the same number of steps; one thread; CPU time.
Contestants take turns in random order, round after round; a ratio is taken within a round, and the median of the
rounds is printed. Peers are run if they are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from tqdm import tqdm

from callbacks import ActivationStats, DeviceCallback, MetricsCallback, ProgressCallback, accuracy
from learner import Learner

Run = Callable[[], object]
Batches = list[tuple[Tensor, Tensor]]
LR = 0.01


def make_model(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def make_batches(n: int) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(64, 64, generator=generator), torch.randint(0, 10, (64,), generator=generator)) for _ in range(n)
    ]


class Held(Dataset[Any]):
    """Batches as skorch takes a dataset, and as Lightning takes one loader: a list it would take for several."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.batches[i]


# -- by hand -----------------------------------------------------------------------------------------------------


def bare_by_hand(model: nn.Module, train: Batches, valid: Batches) -> Run:
    opt = torch.optim.SGD(model.parameters(), lr=LR)

    def run() -> None:
        model.train()
        for x, y in train:
            loss = cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()

    return run


def metrics_by_hand(model: nn.Module, train: Batches, valid: Batches, *, has_bar: bool = False) -> Run:
    """Compute loss and accuracy of both passes without waiting for a value before the end of a pass."""
    opt = torch.optim.SGD(model.parameters(), lr=LR)

    def watched(batches: Batches) -> Any:
        return tqdm(batches, leave=False) if has_bar else batches

    def run() -> list[float]:
        found = []
        model.train()
        losses, hits, n = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for x, y in watched(train):
            preds = model(x)
            loss = cross_entropy(preds, y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses += loss.detach() * len(y)
            hits += (preds.detach().argmax(1) == y).sum()
            n += len(y)
        found += [losses.item() / n, hits.item() / n]
        model.eval()
        losses, hits, n = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        with torch.no_grad():
            for x, y in watched(valid):
                preds = model(x)
                losses += cross_entropy(preds, y) * len(y)
                hits += (preds.argmax(1) == y).sum()
                n += len(y)
        return [*found, losses.item() / n, hits.item() / n]

    return run


def hooks_by_hand(model: nn.Module, train: Batches, valid: Batches) -> Run:
    """Train as `bare_by_hand` with hooks that keep what the course's do: mean, std and histogram of the CPU copy."""
    inner = bare_by_hand(model, train, valid)

    def run() -> None:
        kept: list[tuple[Tensor, Tensor, Tensor]] = []

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            acts = output.detach().cpu()
            kept.append((acts.mean(), acts.std(), acts.abs().histc(40, 0, 10)))

        handles = [layer.register_forward_hook(hook) for layer in model]
        inner()
        for handle in handles:
            handle.remove()

    return run


# -- the Learner --------------------------------------------------------------------------------------------------


def learner(*cbs: Callable[[], Any], is_validating: bool = True) -> Callable[..., Run]:
    def make(model: nn.Module, train: Batches, valid: Batches) -> Run:
        dls = {"train": train, "valid": valid} if is_validating else {"train": train}
        learn = Learner(model, dls, cross_entropy, lr=LR, cbs=[cb() for cb in cbs])
        return lambda: learn.fit(1)

    return make


def measuring() -> MetricsCallback:
    return MetricsCallback(accuracy=accuracy)


# -- others, each in its own way ------------------------------------------------------------------------------------


def ignite(model: nn.Module, train: Batches, valid: Batches, *, has_metrics: bool) -> Run:
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    opt = torch.optim.SGD(model.parameters(), lr=LR)
    transform = (lambda x, y, preds, loss: (preds.detach(), y)) if has_metrics else (lambda x, y, preds, loss: None)
    trainer = create_supervised_trainer(model, opt, cross_entropy, output_transform=transform)
    if has_metrics:
        evaluator = create_supervised_evaluator(model, {"loss": Loss(cross_entropy), "accuracy": Accuracy()})
        Loss(cross_entropy).attach(trainer, "loss")
        Accuracy().attach(trainer, "accuracy")
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run(valid))
    return lambda: trainer.run(train, max_epochs=1)


def accelerate(model: nn.Module, train: Batches, valid: Batches, *, has_metrics: bool) -> Run:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    accelerator = Accelerator(cpu=True)
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    loaders = [DataLoader(batches, batch_size=None) for batches in (train, valid)]  # type: ignore[arg-type]
    model, opt, train_dl, valid_dl = accelerator.prepare(model, opt, *loaders)

    def count(preds: Tensor, loss: Tensor, y: Tensor, sums: list[Tensor]) -> None:
        sums[0] += loss.detach() * len(y)
        sums[1] += (preds.detach().argmax(1) == y).sum()

    def run() -> None:
        model.train()
        sums = [torch.zeros(()), torch.zeros(())]
        for x, y in train_dl:
            preds = model(x)
            loss = cross_entropy(preds, y)
            accelerator.backward(loss)
            opt.step()
            opt.zero_grad()
            if has_metrics:
                count(preds, loss, y, sums)
        if has_metrics:
            model.eval()
            with torch.no_grad():
                for x, y in valid_dl:
                    preds = model(x)
                    count(preds, cross_entropy(preds, y), y, sums)

    return run


def skorch(model: nn.Module, train: Batches, valid: Batches, *, has_metrics: bool) -> Run:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import EpochScoring
    from skorch.helper import predefined_split

    on_train = EpochScoring("accuracy", on_train=True, lower_is_better=False)
    net = NeuralNetClassifier(
        model,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=LR,
        max_epochs=1,
        verbose=0,
        callbacks=[("train_acc", on_train)] if has_metrics else None,
        **({} if has_metrics else {"callbacks__valid_acc": None}),
        train_split=predefined_split(Held(valid)) if has_metrics else None,
        iterator_train=lambda dataset, **kw: dataset.batches,
        iterator_valid=lambda dataset, **kw: dataset.batches,
        classes=list(range(10)),
    ).initialize()
    held = Held(train)
    return lambda: net.partial_fit(held, None)


def lightning(model: nn.Module, train: Batches, valid: Batches, *, has_metrics: bool) -> Run:
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, i: int) -> Tensor:
            return self.measured(batch, "train")

        def validation_step(self, batch: Any, i: int) -> None:
            self.measured(batch, "valid")

        def measured(self, batch: Any, name: str) -> Tensor:
            x, y = batch
            preds = self.model(x)
            loss = cross_entropy(preds, y)
            if has_metrics:
                hits = (preds.detach().argmax(1) == y).float().mean()
                values = {f"{name}/loss": loss.detach(), f"{name}/accuracy": hits}
                self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()

    def run() -> None:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, Held(train), Held(valid) if has_metrics else None)

    return run


def fastai(model: nn.Module, train: Batches, valid: Batches, *, has_metrics: bool) -> Run:
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner as FastaiLearner
    from fastai.metrics import accuracy as fastai_accuracy
    from fastai.optimizer import OptimWrapper

    class Listed(list[Any]):
        device = torch.device("cpu")
        n, bs = len(train) * 64, 64

        def to(self, device: Any) -> Any:
            return self

    def opt_func(params: Any, lr: float, **kw: Any) -> Any:
        return OptimWrapper(params, torch.optim.SGD, lr=lr)

    learn = FastaiLearner(
        DataLoaders(Listed(train), Listed(valid if has_metrics else valid[:1])),
        model,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=opt_func,
        lr=LR,
        metrics=[fastai_accuracy] if has_metrics else None,
    )

    def run() -> None:
        with learn.no_logging():
            learn.fit(1)

    return run


PEERS = {"ignite": ignite, "skorch": skorch, "accelerate": accelerate, "lightning": lightning, "fastai": fastai}


# -- the race -----------------------------------------------------------------------------------------------------


def race(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Let everyone run once a round, in random order; return CPU times [s] by name."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        quietly(run)  # a first time, not counted
    shuffled = list(runs)
    for _ in range(rounds):
        random.shuffle(shuffled)
        for name in shuffled:
            start = time.process_time()
            quietly(runs[name])
            times[name].append(time.process_time() - start)
    return times


def quietly(run: Run) -> None:
    """Keep tables off the screen; a bar still draws, on a stream that takes itself for a terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(_Screen()):
        run()


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(title: str, times: dict[str, list[float]], n_batches: int) -> None:
    """Print a table: median ratio to the first contestant, spread, and what is added per batch."""
    base = next(iter(times))
    per_batch = statistics.median(times[base]) / n_batches * 1e6
    print(f"\n### {title}\n")
    print(f"Hand-written: {per_batch:.3g} µs per batch; {n_batches} batches a run, {len(times[base])} rounds.\n")
    print("| contestant | times hand-written | middle half of the rounds | added µs per batch |\n|---|--:|--:|--:|")
    for name, taken in times.items():
        ratios = sorted(t / b for t, b in zip(taken, times[base], strict=True))
        added = statistics.median(t - b for t, b in zip(taken, times[base], strict=True)) / n_batches * 1e6
        low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
        print(f"| {name} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {added:+.1f} |")


def peers(width: int, train: Batches, valid: Batches, *, has_metrics: bool) -> Iterator[tuple[str, Run]]:
    """Give the frameworks that are installed, set up for the same work."""
    for name, make in PEERS.items():
        try:
            yield name, make(make_model(width), train, valid, has_metrics=has_metrics)
        except ImportError as error:
            print(f"{name}: not installed ({error})", file=sys.stderr)


def import_time() -> float:
    """Return what `import learner` adds to `import torch` [ms], the median of several processes."""
    code = "import time, torch; t = time.perf_counter(); import learner; print(time.perf_counter() - t)"
    found = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(7)]
    return statistics.median(found) * 1e3


def machine() -> str:
    """Name the processor and the versions."""
    name = platform.processor() or "unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Run the races that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=1000, help="training batches a run; a quarter to validate")
    parser.add_argument("--width", type=int, default=128, help="of the network; sets the time of a batch")
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    train, valid = make_batches(args.batches), make_batches(args.batches // 4)
    n_both = len(train) + len(valid)

    def start(make: Callable[..., Run], **options: Any) -> Run:
        return make(make_model(args.width), train, valid, **options)

    def others(*, has_metrics: bool) -> dict[str, Run]:
        return {} if args.no_peers else dict(peers(args.width, train, valid, has_metrics=has_metrics))

    print(machine())
    runs = {"by hand": start(bare_by_hand), "Learner": start(learner(is_validating=False))}
    report("Bare: training alone", race({**runs, **others(has_metrics=False)}, args.rounds), len(train))
    runs = {"by hand": start(metrics_by_hand), "Learner": start(learner(measuring))}
    report("Loss and accuracy, with validation", race({**runs, **others(has_metrics=True)}, args.rounds), n_both)
    runs = {
        "by hand, tqdm": start(metrics_by_hand, has_bar=True),
        "Learner": start(learner(DeviceCallback, measuring, ProgressCallback)),
    }
    report("Device, loss and accuracy, progress, with validation", race(runs, args.rounds), n_both)
    runs = {
        "by hand": start(bare_by_hand),
        "by hand, hooks with mean, std, histc": start(hooks_by_hand),
        "Learner, ActivationStats": start(learner(ActivationStats, is_validating=False)),
    }
    report("Activation statistics of all layers (see also activations.py)", race(runs, args.rounds), len(train))
    print(f"\n`import learner` adds {import_time():.0f} ms to `import torch` (median of 7 processes).")


if __name__ == "__main__":
    main()
