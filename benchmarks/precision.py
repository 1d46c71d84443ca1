"""What mixed precision costs in Python: `python benchmarks/precision.py`.

A network of 64-64-10, batches of 32, SGD, one thread: so small that the Python around the kernels shows. Each way runs
in turn for 100 batches, over and over, on a copy of the same network, so that what else the machine does hits all
alike; CPU time of the thread. By hand is a loop with `torch.autocast`, and `GradScaler` for float16. What the callback
costs is what a Learner takes more with it than without, less what the loop by hand takes more with it than without, in
the same round.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from activations import Clocked
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import MixedPrecisionCallback
from learner import Learner

WIDTH, BATCH_SIZE, BURST = 64, 32, 100
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def by_hand(model: nn.Module, batches: list, precision: str | None) -> Callable[[], float]:
    model = copy.deepcopy(model)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")

    def burst() -> float:
        start = time.thread_time()
        for x, y in batches:
            with torch.autocast("cpu", DTYPES[precision]) if precision else nullcontext():
                preds = model(x)
            loss = cross_entropy(preds.float(), y)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
        return (time.thread_time() - start) / BURST * 1e6

    burst.model = model
    return burst


def by_learner(model: nn.Module, batches: list, precision: str | None) -> Callable[[], float]:
    model, loader = copy.deepcopy(model), Clocked(batches)
    cb = MixedPrecisionCallback(precision) if precision else None
    learn = Learner(model, {"train": loader}, cross_entropy, lr=0.01, cbs=cb)

    def burst() -> float:
        learn.fit(1)
        return loader.time / BURST * 1e6

    burst.model = model
    return burst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="bursts of each way")
    n_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    batches = list(zip(torch.randn(BURST, BATCH_SIZE, WIDTH), torch.randint(0, 10, (BURST, BATCH_SIZE)), strict=True))
    ways = {"by hand": by_hand, "Learner": by_learner}
    bursts = {(way, p): make(model, batches, p) for way, make in ways.items() for p in (None, "bf16", "fp16")}
    times: dict[tuple[str, str | None], list[float]] = {key: [] for key in bursts}
    keys = list(bursts)
    for i in range(n_rounds):
        for key in keys[i % len(keys) :] + keys[: i % len(keys)]:  # nobody always runs after the same one
            times[key].append(bursts[key]())
    for p in (None, *DTYPES):  # the same training
        of_hand, of_learner = (bursts[way, p].model.parameters() for way in ways)
        assert all(map(torch.equal, of_hand, of_learner))

    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {n_rounds} rounds of {BURST} batches\n")
    print("| | by hand [µs/batch] | Learner [µs/batch] | times by hand | the callback alone [µs/batch] |")
    print("|---|--:|--:|--:|--:|")
    for p in (None, *DTYPES):
        hand, mine = times["by hand", p], times["Learner", p]
        ratio = statistics.median(b / a for a, b in zip(hand, mine, strict=True))
        plain = zip(times["by hand", None], times["Learner", None], strict=True)
        added = [(b - a) - (d - c) for a, b, (c, d) in zip(hand, mine, plain, strict=True)]
        low, middle, high = statistics.quantiles(added, n=4)
        cell = f"{middle:+.1f} ({low:+.1f} to {high:+.1f})" if p else "-"
        medians = f"{statistics.median(hand):.0f} | {statistics.median(mine):.0f}"
        print(f"| {f'`{p}`' if p else 'float32'} | {medians} | {ratio:.3f} | {cell} |")


if __name__ == "__main__":
    main()
