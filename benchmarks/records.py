"""What keeping samples on record costs, in time, memory and on disk: `python benchmarks/records.py`.

Time: epochs of the demo, with and without `CollectCallback`: its network and loaders; device, metrics, activation
statistics, schedule, bar and a CSV file, or bare: metrics alone. And a loop by hand that measures as much as the bare
one, with and without lists of the same columns. Who takes part trains in turn, in random order, round
after round; what is added is the median over the rounds of what an epoch took more than one of its own kind that
collects nothing, in the same round, in CPU time of the process. All that train in one way end with the same weights.

Memory: the highest resident set of a process of its own that collects 10,000 or 100,000 rows with an embedding of 512
numbers, above what it had before (Linux alone tells); each several times. Disk: what 100,000 such rows take, and how
long it is to read one column of numbers, by the clock on the wall.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from callbacks import (
    ActivationStats,
    ClassificationMetricsCollector,
    CollectCallback,
    CSVLoggerCallback,
    DeviceCallback,
    EmbeddingsMetricsCollector,
    MetricsCallback,
    ProgressCallback,
    SchedulerCallback,
    accuracy,
    collect_metrics,
)
from learner import Learner, Loaders
from learner.__main__ import digits, make_model
from learner.records import Samples

N_EPOCHS = 4  # a run of one contestant
EMBEDDING = "4"  # flattens what the convolutions give, 64 numbers a sample
WIDTH = 512
MIB = 2**20

Train = Callable[[], nn.Module]


# -- time: the demo -----------------------------------------------------------------------------------------------


def by_learner(folder: Path, collecting: Callable[[], CollectCallback] | None, *, is_bare: bool) -> Train:
    """Train as the demo does; bare: with loss and accuracy alone."""
    dls = digits()

    def train() -> nn.Module:
        model = make_model()
        cbs: list[Any] = [MetricsCallback(accuracy=accuracy)]
        if not is_bare:
            stats = ActivationStats(mod_filter=lambda module: isinstance(module, nn.ReLU | nn.Linear))
            schedule = SchedulerCallback(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01))
            csv = CSVLoggerCallback(Path(tempfile.mkdtemp(dir=folder)) / "history.csv")
            cbs = [DeviceCallback(), *cbs, stats, schedule, ProgressCallback(), csv]
        if collecting is not None:
            cbs.append(collecting())
        Learner(model, dls, cross_entropy, opt_func=torch.optim.AdamW, cbs=cbs).fit(N_EPOCHS)
        return model

    return train


def by_hand(folder: Path, *, is_collecting: bool) -> Train:
    """Train in a loop; the columns go into Python lists, and into a file at the end of each pass."""
    arrays = {name: loader.dataset.tensors for name, loader in digits().items()}
    loaders = Loaders.from_arrays(**{name: (x, y, torch.arange(len(y))) for name, (x, y) in arrays.items()})

    def train() -> nn.Module:
        model = make_model()
        opt = torch.optim.AdamW(model.parameters())
        for epoch in range(N_EPOCHS):
            for split, loader in loaders.items():
                is_training = split == "train"
                model.train(is_training)
                rows: dict[str, list[Any]] = {}
                total, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
                with torch.set_grad_enabled(is_training):
                    for x, y, ids in loader:
                        preds = model(x)
                        loss = cross_entropy(preds, y)
                        if is_training:
                            loss.backward()
                            opt.step()
                            opt.zero_grad()
                        total += loss.detach() * len(y)
                        hits += (preds.detach().argmax(1) == y).sum()
                        if is_collecting:
                            keep(rows, preds.detach(), y, example_id=ids)
                total.item(), hits.item()
                if is_collecting:
                    n_rows = len(rows["loss"])
                    table = pa.table({**rows, "epoch": [epoch] * n_rows, "split": [split] * n_rows})
                    parquet.write_table(table, folder / f"by-hand-{split}-{epoch}.parquet", compression="zstd")
        return model

    return train


def keep(rows: dict[str, list[Any]], logits: Tensor, y: Tensor, **columns: Tensor) -> None:
    """Add the columns of a `ClassificationMetricsCollector` to lists."""
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    columns |= {
        "label": y,
        "predicted": predicted,
        "loss": cross_entropy(logits, y, reduction="none"),
        "accuracy": (predicted == y).float(),
        "confidence": confidence,
        "true_probability": probabilities.gather(1, y[:, None])[:, 0],
        "margin": logits.gather(1, y[:, None])[:, 0] - others,
        "entropy": torch.special.entr(probabilities).sum(1),
    }
    for name, column in columns.items():
        rows.setdefault(name, []).extend(column.tolist())


def race(ways: dict[str, Train], n_rounds: int) -> dict[str, list[float]]:
    """Let everyone train once a round, in random order; return CPU times of an epoch [ms] by name."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    shuffled = list(ways)
    for i in range(-1, n_rounds):  # a first time, not counted
        random.shuffle(shuffled)
        ends = {}
        for name in shuffled:
            torch.manual_seed(i)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                start = time.process_time()
                ends[name] = ways[name]()
                taken = time.process_time() - start
            if i >= 0:
                times[name].append(taken / N_EPOCHS * 1e3)
        for name, model in ends.items():  # whoever looks on changes nothing
            for p, q in zip(model.parameters(), ends[base_of(name, ways)].parameters(), strict=True):
                assert torch.equal(p, q)
    return times


def base_of(name: str, ways: dict[str, Train]) -> str:
    """Return who trains in the same way and collects nothing: the first one of the group."""
    group = name.split(":")[0]
    return next(other for other in ways if other.split(":")[0] == group)


def compare(folder: Path, n_rounds: int) -> None:
    """Print what collecting adds to an epoch."""

    def kinds() -> dict[str, Callable[[], CollectCallback] | None]:
        classes = [str(digit) for digit in range(10)]
        return {
            "nothing collected": None,
            "`source='step'`": lambda: CollectCallback(ClassificationMetricsCollector(classes)),
            "`source='step'`, and 64 numbers of a layer": lambda: CollectCallback(
                [ClassificationMetricsCollector(classes), EmbeddingsMetricsCollector([EMBEDDING])]
            ),
            "`source='pass'`": lambda: CollectCallback(ClassificationMetricsCollector(classes), source="pass"),
        }

    ways: dict[str, Train] = {}
    for group, is_bare in (("demo", False), ("bare", True)):
        ways |= {f"{group}: {kind}": by_learner(folder, make, is_bare=is_bare) for kind, make in kinds().items()}
    ways["by hand: nothing collected"] = by_hand(folder, is_collecting=False)
    ways["by hand: Python lists"] = by_hand(folder, is_collecting=True)
    times = race(ways, n_rounds)
    print("\n| | ms/epoch | added [ms/epoch] | of nothing collected | middle half of the rounds |")
    print("|---|--:|--:|--:|--:|")
    for name, taken in times.items():
        base = times[base_of(name, ways)]
        ratios = sorted(mine / none for mine, none in zip(taken, base, strict=True))
        added = statistics.median(mine - none for mine, none in zip(taken, base, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
        cells = f"{added:+.1f} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f}"
        print(f"| {name} | {statistics.median(taken):.1f} | {cells if base is not taken else '| |'} |")


# -- memory and disk ----------------------------------------------------------------------------------------------


class Numbers(Dataset[Any]):
    """Samples made when they are asked for: the data take no memory."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.sin(i * torch.arange(1.0, 9.0)), i % 10


def wide_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10)).requires_grad_(False)


def collect_wide(n_rows: int, dtype: torch.dtype | None = None) -> Samples:
    """Collect rows with an embedding of `WIDTH` numbers."""
    options = {} if dtype is None else {"dtype": dtype}
    collectors = [ClassificationMetricsCollector(), EmbeddingsMetricsCollector(["0"], **options)]
    return collect_metrics(Numbers(n_rows), collectors, wide_model())


def keep_wide(n_rows: int, folder: Path, *, is_plain: bool) -> None:
    """Keep them in lists, of arrays or of Python's numbers, and write them at the end."""
    model, kept, rows = wide_model(), [], {}
    for x, y in DataLoader(Numbers(n_rows), batch_size=64):
        embedding = model[0](x)
        keep(rows, model[1](embedding), y)
        kept.append(embedding.tolist() if is_plain else embedding.numpy())
    if is_plain:
        vectors = pa.array([row for batch in kept for row in batch], pa.list_(pa.float32()))
    else:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(kept).reshape(-1)), WIDTH)
    parquet.write_table(pa.table({**rows, "embedding": vectors}), folder / "by-hand.parquet", compression="zstd")


def peak(way: str, n_rows: int) -> None:
    """Print how far above its start the resident set of this process went [MiB]."""
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[int], Any]] = {
            "collect_metrics": collect_wide,
            "numpy lists": lambda n: keep_wide(n, Path(folder), is_plain=False),
            "python lists": lambda n: keep_wide(n, Path(folder), is_plain=True),
        }
        ways[way](64)  # what is loaded at the first use is no part of it
        start = resident("VmRSS")
        ways[way](n_rows)
        print(resident("VmHWM") - start)


def resident(key: str) -> float:
    """Return what Linux says of the memory of this process [MiB].

    `resource.getrusage` starts with the peak of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def print_memory(n_times: int) -> None:
    print("\n| | 10,000 rows [MiB] | 100,000 rows [MiB] | difference [MiB] |\n|---|--:|--:|--:|")
    for way in ("collect_metrics", "numpy lists", "python lists"):
        few, many = (
            [
                float(subprocess.check_output([sys.executable, __file__, "--peak", way, "--rows", str(n)], text=True))
                for _ in range(n_times)
            ]
            for n in (10_000, 100_000)
        )
        cells = [statistics.median(few), statistics.median(many)]
        print(f"| {way} | {' | '.join(f'{cell:.0f}' for cell in cells)} | {cells[1] - cells[0]:.0f} |")


def print_disk(n_times: int) -> None:
    n_rows = 100_000
    samples, half = collect_wide(n_rows), collect_wide(n_rows, torch.float16)

    def size(samples: Samples, folder: str) -> float:
        paths = [part.source.parent.parent for part in samples._parts.parts]
        return sum(path.stat().st_size for path in (paths[0] / folder).glob("*.parquet")) / MIB

    print(f"\n{n_rows:,} rows, {n_rows * WIDTH * 4 / MIB:.0f} MiB of embeddings in memory\n")
    print("| file | MiB |\n|---|--:|")
    print(f"| all columns of numbers | {size(samples, 'samples'):.1f} |")
    print(f"| embeddings, float32 | {size(samples, 'vectors'):.1f} |")
    print(f"| embeddings, float16 | {size(half, 'vectors'):.1f} |")
    reads = {"`numpy('loss')`": lambda: samples.numpy("loss"), "`to_arrow()`": samples.to_arrow}
    reads["`to_arrow()` of all columns"] = lambda: samples.to_arrow(samples.columns)
    taken: dict[str, list[float]] = {name: [] for name in reads}
    for i in range(-1, n_times):
        for name, read in reads.items():
            start = time.perf_counter()
            read()
            if i >= 0:
                taken[name].append((time.perf_counter() - start) * 1e3)
    *_, everything = taken.values()
    print("\n| read | ms | of reading all columns |\n|---|--:|--:|")
    for name, times in taken.items():
        ratio = statistics.median(mine / whole for mine, whole in zip(times, everything, strict=True))
        print(f"| {name} | {statistics.median(times):.1f} | {ratio:.3f} |")


def machine() -> str:
    """Name the processor and the versions."""
    name = platform.processor() or "unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, pyarrow {pa.__version__}"
    return f"{name}, {os.cpu_count()} cores, {versions}"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="runs of each way")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each number of the memory")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    if args.peak:
        peak(args.peak, args.rows)
        return
    random.seed(0)
    print(f"{machine()}; {args.rounds} rounds of {N_EPOCHS} epochs")
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.rounds)
    print_memory(args.repeats)
    print_disk(n_times=9)


if __name__ == "__main__":
    main()
