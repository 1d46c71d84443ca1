"""What several processes cost over DistributedDataParallel by hand, and how they scale: `python benchmarks/ranks.py`.

The same network, the same shares of the same batches, gloo, one thread for each process. Contestants take turns in
random order within one start, round after round; a ratio is taken within a round, and the median of the rounds is
printed. It needs as many free cores as processes: a process that waits for a core makes all others wait, which here is
part of a step. On GPUs look at the same ratios, and at whether gradients are sent while the backward runs.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from callbacks import DistributedCallback
from learner import Learner
from learner.data.shares import share
from learner.ranks import launch

Batches = list[tuple[Tensor, Tensor]]
LR = 0.01
AGREE = ("step", "batch", None)
WIDTHS = (64, 256, 1024)  # the last one takes about 10 ms a batch
BATCH = 64


def make_model(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def make_batches(n: int, size: int) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 64, generator=generator), torch.randint(0, 10, (size,), generator=generator))
        for _ in range(n)
    ]


def by_hand(width: int, batches: Batches) -> Callable[[], object]:
    """Return a careful loop over this process's shares, which were cut beforehand."""
    model = make_model(width)
    start, stop = share(len(batches[0][0]), dist.get_rank(), dist.get_world_size())
    shares = [(x[start:stop], y[start:stop]) for x, y in batches]
    ddp = DistributedDataParallel(model)
    opt = torch.optim.SGD(model.parameters(), lr=LR)

    def run() -> None:
        ddp.train()
        for x, y in shares:
            cross_entropy(ddp(x), y).backward()
            opt.step()
            opt.zero_grad()

    return run


def by_callback(width: int, batches: Batches, agree: str | None) -> Callable[[], object]:
    cbs = DistributedCallback(agree=agree)  # type: ignore[arg-type]
    learn = Learner(make_model(width), {"train": batches}, cross_entropy, lr=LR, cbs=cbs)
    return lambda: learn.fit(1)


def seconds(run: Callable[[], object]) -> float:
    """Return how long all processes take."""
    if dist.is_initialized():
        dist.barrier()
    start = time.perf_counter()
    run()
    if dist.is_initialized():
        dist.barrier()
    return time.perf_counter() - start


def against_hand(width: int, n_batches: int, n_rounds: int) -> tuple[float, dict[str, list[float]]]:
    """Return the time of a batch by hand [s], and for each contestant the ratios of the rounds."""
    DistributedCallback()
    batches = make_batches(n_batches, BATCH)
    runs = {"by hand": by_hand(width, batches)}
    runs |= {f"agree={agree!r}": by_callback(width, batches, agree) for agree in AGREE}
    for run in runs.values():
        run()
    order, times = random.Random(0), []
    for _ in range(n_rounds):
        names = list(runs)
        order.shuffle(names)  # alike in all processes
        times.append({name: seconds(runs[name]) for name in names})
    ratios = {name: [round_[name] / round_["by hand"] for round_ in times] for name in runs}
    return statistics.median(round_["by hand"] for round_ in times) / n_batches, ratios


def a_word(n: int) -> float:
    """Return how long a word takes [s]."""
    job = DistributedCallback().job

    def speak() -> None:
        for _ in range(n):
            job.talk.word(0, "a benchmark")  # type: ignore[attr-defined]

    speak()
    return statistics.median(seconds(speak) for _ in range(5)) / n


def a_batch(width: int, size: int, n_batches: int, n_rounds: int) -> float:
    """Return how long a batch of the whole job takes [s]."""
    run = by_callback(width, make_batches(n_batches, size), "step")
    run()
    return statistics.median(seconds(run) for _ in range(n_rounds)) / n_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds of the smallest network")
    quick = parser.parse_args().quick
    n_batches, n_rounds = (20, 3) if quick else (60, 15)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f} when this began\n")

    print("### Two processes, against DistributedDataParallel by hand\n")
    print("| width | by hand, ms a batch | " + " | ".join(f"`agree={agree!r}`" for agree in AGREE) + " |")
    print("|--:|--:|" + "--:|" * len(AGREE))
    for width in WIDTHS[: 1 if quick else None]:
        hand, ratios = launch(against_hand, 2, width, n_batches, n_rounds)
        cells = [f"{statistics.median(ratios[f'agree={agree!r}']):.2f}" for agree in AGREE]
        print(f"| {width} | {hand * 1e3:.2f} | {' | '.join(cells)} |")

    print("\n### Scaling\n")
    print("A batch of 256 samples for all (strong), or for each (weak), width 1024, against one process.\n")
    print("| processes | a word, µs | strong: times as fast | weak: samples a second, times as many |")
    print("|--:|--:|--:|--:|")
    sizes = (256, 5, 3) if quick else (256, 20, 9)
    one = launch(a_batch, 1, 1024, *sizes)
    for world in (1, 2, 4):
        if world > max(cores, 2):
            print(f"| {world} | more than there are cores | | |")
            continue
        word = launch(a_word, world, 200) if world > 1 else 0.0
        strong = one / launch(a_batch, world, 1024, *sizes)
        weak = world * one / launch(a_batch, world, 1024, sizes[0] * world, *sizes[1:])
        print(f"| {world} | {word * 1e6:.0f} | {strong:.2f} | {weak:.2f} |")


if __name__ == "__main__":
    main()
