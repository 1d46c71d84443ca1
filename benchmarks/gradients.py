"""What gradient statistics cost: `python benchmarks/gradients.py`.

Two networks, one thread: ten layers `Linear(256)` with ReLU between on batches of 256, and the network of the demo on
batches of 64, both with AdamW. Each way runs in turn for some batches, over and over, on a copy of the same network, so
that what else the machine does hits all alike. Added time is the median over the rounds of what a way took more than
nothing watched in the same round, in CPU time of the thread.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from callbacks import GradientStats
from learner import Learner
from learner.__main__ import make_model

BURST = 20


class ByHand:
    """What one would write: `.norm()` for each parameter, before the step and of what it changed, as numbers."""

    def __init__(self, *, has_zeros: bool) -> None:
        self.has_zeros = has_zeros

    def before_fit(self, learn: Learner) -> None:
        self.rows = []

    def around_step(self, learn: Learner, action: Callable[[], object]) -> None:
        before = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
        row = {name: [p.grad.norm().item(), before[name].norm().item()] for name, p in learn.model.named_parameters()}
        if self.has_zeros:
            for name, p in learn.model.named_parameters():
                size = p.grad.abs()
                row[name] += [size.log10().histc(40, -9, 3), (size == 0).float().mean().item()]
        action()
        for name, p in learn.model.named_parameters():
            row[name].append((p.detach() - before[name]).norm().item() / row[name][1] if row[name][1] else 0.0)
        self.rows.append(row)


class Clocked:
    """A loader that measures the pass over it, without what comes before and after."""

    def __init__(self, batches: list) -> None:
        self.batches, self.time = batches, 0.0

    def __iter__(self) -> Iterator[tuple]:
        start = time.thread_time()
        yield from self.batches
        self.time = time.thread_time() - start


def make_burst(model: nn.Module, batches: list, cb: object = None) -> Callable[[], float]:
    model, loader = copy.deepcopy(model), Clocked(batches)
    learn = Learner(model, {"train": loader}, cross_entropy, lr=0.001, opt_func=torch.optim.AdamW, cbs=cb)

    def burst() -> float:
        learn.fit(1)
        return loader.time / len(batches) * 1e6

    burst.model = model
    return burst


def compare(model: nn.Module, batches: list, n_rounds: int) -> None:
    bursts = {
        "nothing watched": make_burst(model, batches),
        "by hand: `.norm()` of each": make_burst(model, batches, ByHand(has_zeros=False)),
        "by hand: and histogram, zeros": make_burst(model, batches, ByHand(has_zeros=True)),
        "`GradientStats()`": make_burst(model, batches, GradientStats()),
        "`GradientStats(hist_every=10)`": make_burst(model, batches, GradientStats(hist_every=10)),
        "`GradientStats(every=10)`": make_burst(model, batches, GradientStats(every=10)),
    }
    times: dict[str, list[float]] = {name: [] for name in bursts}
    names = list(bursts)
    for i in range(n_rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:  # nobody always runs after the same one
            times[name].append(bursts[name]())
    plain, norms, whole, *_ = names
    for burst in bursts.values():  # whoever looks changes nothing
        for p, q in zip(burst.model.parameters(), bursts[plain].model.parameters(), strict=True):
            assert torch.equal(p, q)

    def added(name: str) -> float:
        return statistics.median(mine - none for mine, none in zip(times[name], times[plain], strict=True))

    parameters = list(model.parameters())
    print(f"\n{len(parameters)} parameters, {sum(p.numel() for p in parameters)} numbers\n")
    print("| | ms/batch | added [µs/batch] | of the norms by hand | of all by hand |\n|---|--:|--:|--:|--:|")
    for name in bursts:
        cells = " | ".join(f"{x:.2f}" for x in (added(name) / added(norms), added(name) / added(whole)))
        cells = f"{added(name):.0f} | {cells}" if name != plain else "- | - | -"
        print(f"| {name} | {statistics.median(times[name]) / 1e3:.2f} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="bursts of each way")
    n_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {n_rounds} rounds of {BURST} batches")
    model = nn.Sequential(*[part for _ in range(10) for part in (nn.Linear(256, 256), nn.ReLU())][:-1])
    labels = torch.randint(0, 256, (BURST, 256))
    compare(model, list(zip(torch.randn(BURST, 256, 256), labels, strict=True)), n_rounds)
    images, labels = torch.rand(BURST, 64, 1, 8, 8), torch.randint(0, 10, (BURST, 64))
    compare(make_model(), list(zip(images, labels, strict=True)), n_rounds)


if __name__ == "__main__":
    main()
