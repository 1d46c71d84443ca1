"""What checkpoints cost while a model trains, and what it costs to go on from one: `python benchmarks/checkpoints.py`.

Time: epochs of the demo, with its loaders, network and callbacks, or bare: with the metrics alone. Without a
`CheckpointCallback`; with one that writes nothing but the checkpoint at the end of the fit, which leaves what the order
of the data as a function of position costs; every 100 batches; and after every batch. An epoch of the demo has but 23
batches, so a run is 13 epochs: 299 batches, with checkpoints after 100 and 200 of them and at the end. Who takes part
trains in turn, in random order, round after round, and what is compared is compared within a round: by the clock on the
wall, since the file is written beside the training, and in CPU time of the process, which counts that as well. All that
have a `CheckpointCallback` end with the same weights. What one checkpoint takes, at once and in the thread that writes
it, is measured in such runs as well: that is far less noisy than the difference of two.

Besides: what a batch pays at which nothing is due; reading samples one by one, each with noise of its own; how long a
fit takes to its first batch, new and gone on with; and how many samples are read when it goes on at 90 % of an epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    ActivationStats,
    CheckpointCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    DeviceCallback,
    MetricsCallback,
    ProgressCallback,
    RunCallback,
    SchedulerCallback,
    accuracy,
)
from learner import Callback, Learner
from learner.__main__ import digits, make_model
from learner.data import ordered
from learner.records import Run

N_EPOCHS = 13  # a run of one contestant
NEVER = 10**9  # batches

Make = Callable[[Path], Learner]


def quietly(function: Callable[[], Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function()


# -- an epoch ---------------------------------------------------------------------------------------------------------


class ClockedCheckpoints(CheckpointCallback):
    """Measure what checkpoints take [ms of CPU time]: at once, and in the thread that writes them."""

    at_once: ClassVar[list[float]] = []
    beside: ClassVar[list[float]] = []

    def __init__(self, path: Path, every: int) -> None:
        super().__init__(path, every=every)
        self._folder.save = partial(self._write, self._folder.save)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        start = time.thread_time()
        super()._save(*args, **kwargs)
        self.at_once.append((time.thread_time() - start) * 1e3)

    def _write(self, write: Callable[..., Path], *args: Any, **kwargs: Any) -> Path:
        start = time.thread_time()
        try:
            return write(*args, **kwargs)
        finally:
            self.beside.append((time.thread_time() - start) * 1e3)


def maker(every: int | None, *, is_bare: bool, kind: type[CheckpointCallback] = CheckpointCallback) -> Make:
    """Return what makes the learner of the demo, in a folder; bare: one that measures loss and accuracy alone."""
    dls = digits()

    def make(folder: Path) -> Learner:
        cbs: list[Any] = [MetricsCallback(accuracy=accuracy)]
        if not is_bare:
            cbs = [
                DeviceCallback(),
                *cbs,
                ActivationStats(mod_filter=lambda module: isinstance(module, nn.ReLU | nn.Linear)),
                SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01)),
                ProgressCallback(),
                CollectCallback(ClassificationMetricsCollector(classes=[str(digit) for digit in range(10)])),
                RunCallback(Run.create(folder / "run")),
            ]
        if every is not None:
            cbs.append(kind(folder / "checkpoints", every=every))
        return Learner(make_model(), dls, cross_entropy, opt_func=torch.optim.AdamW, cbs=cbs)

    return make


def fit(make: Make, seed: int) -> tuple[nn.Module, float, float]:
    """Make a learner and let it train; return its model, wall and CPU time of an epoch [ms]."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        learn = make(Path(folder))
        gc.collect()  # nobody clears away after those before
        start = time.perf_counter(), time.process_time()
        quietly(lambda: learn.fit(N_EPOCHS))
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
    return learn.model, taken[0] / N_EPOCHS * 1e3, taken[1] / N_EPOCHS * 1e3


def race(ways: dict[str, Make], n_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Let everyone train once a round, in random order; return wall and CPU times of an epoch [ms] by name."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    shuffled = list(ways)
    for i in range(-1, n_rounds):  # a first time, not counted
        random.shuffle(shuffled)
        ends = {}
        for name in shuffled:
            ends[name], *taken = fit(ways[name], seed=i)
            if i >= 0:
                times[name].append((taken[0], taken[1]))
        first, *others = (list(model.parameters()) for name, model in ends.items() if name != "no checkpoints")
        for other in others:  # however often it is written down
            assert all(map(torch.equal, first, other))
    return times


def compare(n_rounds: int) -> None:
    """Print what checkpoints add to an epoch."""
    print("\n| | ms/epoch | of no checkpoints | middle half of the rounds | in CPU time | middle half |")
    print("|---|--:|--:|--:|--:|--:|")
    for group in ("demo", "bare"):
        make = partial(maker, is_bare=group == "bare")
        ways = {"no checkpoints": make(None), "the order alone": make(NEVER), "every 100 batches": make(100)}
        print_rows(group, race(ways, n_rounds))
        extreme = race({"no checkpoints": ways["no checkpoints"], "every batch": make(1)}, n_rounds // 5)
        print_rows(group, extreme, leave_out=1)


def print_rows(group: str, times: dict[str, list[tuple[float, float]]], leave_out: int = 0) -> None:
    """Print a row for each, but for the first ones."""
    none, *_ = times.values()
    for name, taken in list(times.items())[leave_out:]:
        cells = " | ".join(ratio([t[i] for t in taken], [t[i] for t in none]) for i in (0, 1))
        milliseconds = statistics.median(wall for wall, _ in taken)
        print(f"| {group}: {name} | {milliseconds:.1f} | {cells if taken is not none else '| | |'} |", flush=True)


def print_one(n_rounds: int) -> None:
    """Print what one checkpoint of those every 100 batches takes, and how much that is of 100 batches."""
    print("\n| one checkpoint | at once [ms] | beside [ms] | of 100 batches | middle half of the rounds |")
    print("|---|--:|--:|--:|--:|")
    for group in ("demo", "bare"):
        make = maker(100, is_bare=group == "bare", kind=ClockedCheckpoints)
        clocks = ClockedCheckpoints.at_once, ClockedCheckpoints.beside
        rows = []
        for i in range(-1, n_rounds):  # a first time, not counted
            clocks[0].clear(), clocks[1].clear()
            *_, epoch = fit(make, seed=i)
            if i >= 0:
                taken = sum(clocks[0]) + sum(clocks[1])
                rows.append((statistics.mean(clocks[0]), statistics.mean(clocks[1]), taken, epoch * N_EPOCHS - taken))
        at_once, beside, *_ = (statistics.median(column) for column in zip(*rows, strict=True))
        share = ratio([taken for *_, taken, _ in rows], [rest for *_, rest in rows])
        print(f"| {group} | {at_once:.1f} | {beside:.1f} | {share} |", flush=True)


def ratio(mine: list[float], base: list[float]) -> str:
    """Return the median of ratios, and their middle half, as two cells."""
    ratios = sorted(a / b for a, b in zip(mine, base, strict=True))
    return f"{statistics.median(ratios):.3f} | {ratios[len(ratios) // 4]:.3f} to {ratios[-len(ratios) // 4]:.3f}"


# -- a batch ----------------------------------------------------------------------------------------------------------


class AtTheEnd(Callback):
    """Do something while a fit runs, when its batches are done."""

    def __init__(self, function: Callable[[Learner], None]) -> None:
        self.function = function

    def after_epoch(self, learn: Learner) -> None:
        if learn.training:
            self.function(learn)


def print_batch(n_times: int) -> None:
    """Print what a batch pays when nothing is due."""
    n_calls, taken = 10_000, []
    with tempfile.TemporaryDirectory() as folder:
        keep = CheckpointCallback(folder, every=NEVER)

        def measure(learn: Learner) -> None:
            for _ in range(n_times):
                start = time.perf_counter()
                for _ in range(n_calls):
                    keep.cleanup_batch(learn)
                taken.append((time.perf_counter() - start) / n_calls * 1e6)

        Learner(make_model(), digits(), cross_entropy, cbs=[keep, AtTheEnd(measure)]).fit(1)
    print(f"\n`cleanup_batch` when nothing is due: {statistics.median(taken):.2f} µs (median of {n_times})")


class OneByOne:
    """Samples that are read one by one, some with noise; counts them."""

    def __init__(self, *tensors: Tensor, noise: float = 0.0) -> None:
        self.tensors, self.noise = tensors, noise
        self.n_read = torch.zeros((), dtype=torch.int64).share_memory_()  # workers count as well

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.n_read += 1
        x, y = (tensor[i] for tensor in self.tensors)
        return x + self.noise * torch.rand_like(x), y


def print_reading(n_rounds: int) -> None:
    """Print what order and noise by position cost a batch when samples are read one by one."""
    loaders: dict[str, DataLoader[Any]] = {}
    tensors = digits()["train"].dataset.tensors
    for name, dataset in (("`TensorDataset`", TensorDataset(*tensors)), ("with noise", OneByOne(*tensors, noise=0.1))):
        loaders[name] = DataLoader(dataset, batch_size=64, shuffle=True)
        loaders[f"{name}, ordered"] = ordered(loaders[name], seed=0)
    taken: dict[str, list[float]] = {name: [] for name in loaders}
    for i in range(-1, n_rounds):
        for name, loader in loaders.items():
            start = time.thread_time()
            n_batches = sum(1 for _ in loader)
            if i >= 0:
                taken[name].append((time.thread_time() - start) / n_batches * 1e6)
    print("\n| read 64 samples | µs | ordered | added |\n|---|--:|--:|--:|")
    for name in list(loaders)[::2]:
        pairs = list(zip(taken[name], taken[f"{name}, ordered"], strict=True))
        plain, with_order = (statistics.median(column) for column in zip(*pairs, strict=True))
        added = statistics.median(b - a for a, b in pairs)
        print(f"| {name} | {plain:.0f} | {with_order:.0f} | {added:+.0f} |")


# -- going on ---------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a power cut."""


class StopAt(Callback):
    """Put down when batches begin, and end the fit before one of them."""

    def __init__(self, i: int | None = None) -> None:
        self.i, self.began = i, []

    def before_batch(self, learn: Learner) -> None:
        if learn.training:
            self.began.append(time.perf_counter())
            if learn.i == self.i:
                raise Stopped


def learner(loader: DataLoader[Any], folder: Path, *cbs: Any) -> Learner:
    torch.manual_seed(0)
    keep = CheckpointCallback(folder, every=1)
    return Learner(make_model(), {"train": loader}, cross_entropy, opt_func=torch.optim.AdamW, cbs=[keep, *cbs])


def print_resume(n_times: int) -> None:
    """Print how long it takes to go on, and how much is read."""
    x, y = (torch.cat([tensor] * 5)[:6400] for tensor in digits()["train"].dataset.tensors)
    print(
        "\n| go on at batch 90 of 100 | a new fit: to its first batch [ms] | gone on with [ms] | samples read of 640 |"
    )
    print("|---|--:|--:|--:|")
    for n_workers in (0, 2):
        new, again, read = [], [], []
        for _ in range(n_times):
            dataset = OneByOne(x, y)
            loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=n_workers)
            with tempfile.TemporaryDirectory() as name:
                stop = StopAt(90)
                start = time.perf_counter()
                with contextlib.suppress(Stopped):
                    learner(loader, Path(name), stop).fit(1)
                new.append((stop.began[0] - start) * 1e3)
                dataset.n_read.zero_()
                stop = StopAt()
                start = time.perf_counter()
                quietly(lambda: learner(loader, Path(name), stop).fit(1, resume=True))  # noqa: B023
                again.append((stop.began[0] - start) * 1e3)
                assert len(stop.began) == 10
                read.append(int(dataset.n_read))
        cells = f"{statistics.median(new):.1f} | {statistics.median(again):.1f} | {max(read)}"
        print(f"| {n_workers} workers | {cells} |")


def machine() -> str:
    """Name the processor and the versions."""
    name = platform.processor() or "unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Measure it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="runs of each way; of a checkpoint every batch, a fifth")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    print(f"{machine()}; {args.rounds} rounds of {N_EPOCHS} epochs")
    compare(args.rounds)
    print_one(args.rounds)
    print_batch(n_times=9)
    print_reading(n_rounds=25)
    print_resume(n_times=9)


if __name__ == "__main__":
    main()
