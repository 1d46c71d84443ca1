"""What the Learner costs on a GPU, and what it saves there: `python benchmarks/device.py`, about four minutes.

An MLP, convolutions with residuals over pictures of 32 pixels, and a GPT of 10 million parameters, each trained by hand
and by the Learner, as it is, compiled, and (Learner alone) with whole steps as one CUDA graph. All have the same
weights, batches and optimizer, whose step can be recorded. Contestants take turns, round after round.

A machine without CUDA runs what it can: `--quick` in less than a minute, to see that the script works.
"""

from __future__ import annotations

import argparse
import copy
import gc
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from callbacks import CompileCallback, DeviceCallback
from learner import Callback, Learner, LearnerError

HAS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
MODE = "reduce-overhead" if HAS_CUDA else None
LR = 1e-3
N_WARM = 10  # steps that are not timed: a graph is recorded in the fifth
Batches = list[tuple[Tensor, Tensor]]


# -- models --------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)) for _ in range(2)]
        self.layers = nn.Sequential(*layers[0], nn.ReLU(), *layers[1])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, n_layers: int, width: int, n_heads: int, length: int, n_words: int = 256) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(n_words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, n_heads) for _ in range(n_layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_words))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.blocks(self.words(x) + self.places(places))).transpose(1, 2)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def convolutions(width: int, n_blocks: int) -> nn.Module:
    blocks = (nn.Sequential(Residual(width), nn.AvgPool2d(2) if i % 2 else nn.Identity()) for i in range(n_blocks))
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )


@dataclass
class Task:
    name: str
    model: nn.Module
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]

    def batches(self, n: int, device: torch.device) -> Batches:
        torch.manual_seed(1)
        return [(self.inputs().to(device), self.targets().to(device)) for _ in range(n)]


def tasks(is_quick: bool) -> list[Task]:
    torch.manual_seed(0)
    size, width, length = (8, 16, 16) if is_quick else (256, 64, 256)
    gpt = GPT(2, 32, 2, length) if is_quick else GPT(6, 384, 6, length)
    return [
        Task("MLP", mlp(8 * width), partial(torch.randn, 2 * size, 784), partial(torch.randint, 10, (2 * size,))),
        Task(
            "convolutions, 32 px",
            convolutions(width, 2 if is_quick else 8),
            partial(torch.randn, size, 3, 32, 32),
            partial(torch.randint, 10, (size,)),
        ),
        Task(
            f"GPT, {sum(p.numel() for p in gpt.parameters()) / 1e6:.1f} M",
            gpt,
            partial(torch.randint, 256, (size // 8, length)),
            partial(torch.randint, 256, (size // 8, length)),
        ),
    ]


# -- contestants ---------------------------------------------------------------------------------------------------


def synchronize() -> None:
    if HAS_CUDA:
        torch.cuda.synchronize()


class Clocked:
    """Batches that know when the first step was done, and how long those after the first few took."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.first, self.ms = batches, 0.0, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        begin = start = time.perf_counter()
        for i, batch in enumerate(self.batches):
            if i in (1, N_WARM):
                synchronize()
                start = time.perf_counter()
                self.first = start - begin if i == 1 else self.first
            yield batch
        synchronize()
        self.ms = (time.perf_counter() - start) / (len(self.batches) - N_WARM) * 1e3


def optimizer(params: Any, lr: float = LR) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=lr, capturable=HAS_CUDA)


Run = Callable[[Any], object]


def by_hand(model: nn.Module, is_compiled: bool = False) -> Run:
    opt = optimizer(model.parameters())
    forward = torch.compile(model, mode=MODE) if is_compiled else model

    def run(loader: Any) -> None:
        total = torch.zeros((), device=DEVICE)
        for x, y in loader:
            loss = cross_entropy(forward(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach()
        total.item()

    return run


def by_learner(model: nn.Module, *cbs: Callback) -> Run:
    learn = Learner(model, {"train": []}, cross_entropy, LR, optimizer, cbs)

    def run(loader: Any) -> None:
        learn.dls = {"train": loader}
        learn.fit(1)

    return run


CONTESTANTS: dict[str, Callable[[nn.Module], Run]] = {
    "by hand, eager": by_hand,
    "Learner, eager": by_learner,
    "by hand, compiled": partial(by_hand, is_compiled=True),
    "Learner, compiled": lambda model: by_learner(model, CompileCallback(MODE)),
    "Learner, step graph": lambda model: by_learner(model, CompileCallback(step=True)),
}


# -- measuring -----------------------------------------------------------------------------------------------------


@dataclass
class Result:
    ms: list[float] = field(default_factory=list)
    first: float = 0.0  # [s]
    memory: float = 0.0  # [MiB]
    n_syncs: float = 0.0  # a step
    difference: float = 0.0


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


class Watched:
    """Batches that have each wait of the host for the device told as a warning, once all is warm."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(self.batches):
            if i == N_WARM:
                torch.cuda.set_sync_debug_mode("warn")
            yield batch
        torch.cuda.set_sync_debug_mode("default")


def n_syncs(run: Run, batches: Batches) -> float:
    """Return how often a step waits for the device, once all is warm."""
    if not HAS_CUDA:
        return 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(Watched(batches))
    return sum("synchroniz" in str(one.message) for one in caught) / (len(batches) - N_WARM)


def compare(task: Task, names: list[str], n: int, n_rounds: int) -> dict[str, Result]:
    batches, results, runs = task.batches(n, DEVICE), {}, {}
    reference: Tensor | None = None
    for name in names:
        gc.collect()
        model = copy.deepcopy(task.model).to(DEVICE)
        if HAS_CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        result, clocked = Result(), Clocked(batches[:50])
        try:
            runs[name] = CONTESTANTS[name](model)
            runs[name](clocked)
        except LearnerError as error:
            print(f"{task.name}: {name} cannot run here: {error}")
            runs.pop(name, None)
            continue
        result.first = clocked.first
        result.memory = torch.cuda.max_memory_allocated() / 2**20 if HAS_CUDA else 0.0
        now = weights(model)
        reference = now if reference is None else reference
        result.difference = float((now - reference).abs().max())
        result.n_syncs = n_syncs(runs[name], batches)
        results[name] = result
    for _ in range(n_rounds):
        for name, run in runs.items():
            clocked = Clocked(batches)
            run(clocked)
            results[name].ms.append(clocked.ms)
    return results


def table(task: Task, results: dict[str, Result]) -> None:
    print(f"\n### {task.name}\n")
    print("| contestant | ms a step | times eager by hand | first step [s] | peak [MiB] | waits a step | difference |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    base = results["by hand, eager"].ms
    for name, r in results.items():
        times = statistics.median(ms / first for ms, first in zip(r.ms, base, strict=True))
        memory, syncs = (f"{r.memory:.0f}", f"{r.n_syncs:.2f}") if HAS_CUDA else ("-", "-")
        ms = statistics.median(r.ms)
        print(f"| {name} | {ms:.3f} | {times:.3f} | {r.first:.2f} | {memory} | {syncs} | {r.difference:.1e} |")


# -- copies ahead --------------------------------------------------------------------------------------------------


def idle_per_step(run: Run, loader: Any, n: int) -> float:
    """Return for how long the device computes nothing between its first and its last kernel [µs a step]."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        run(loader)
        synchronize()
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in prof.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "Memcpy" not in event.name
    )
    idle, until = 0.0, kernels[0][1]
    for start, end in kernels:
        idle += max(0.0, start - until)
        until = max(until, end)
    return idle / n


def prefetching(is_quick: bool, n: int) -> None:
    """Print what copying the next batch ahead is worth: batches of pictures in pinned memory of the host."""
    size, pixels, width = (4, 32, 8) if is_quick else (128, 224, 64)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, width, 7, stride=4, padding=3), nn.ReLU(), *(Residual(width) for _ in range(4)))
    model = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    x, y = torch.randn(size, 3, pixels, pixels), torch.randint(10, (size,))
    host = (x.pin_memory(), y.pin_memory()) if HAS_CUDA else (x, y)
    there = x.to(DEVICE), y.to(DEVICE)
    ways = {
        "batches are on the device": (there, None),
        "copied when they are due": (host, None),
        "copied ahead (`prefetch=1`)": (host, 1),
    }
    print(f"\n### Copies ahead: batches of {size} x 3 x {pixels} x {pixels}\n")
    print("| way | ms a step | share of the rate with all on the device | device idle [µs a step] |")
    print("|---|--:|--:|--:|")
    base = 0.0
    for name, (batch, prefetch) in ways.items():
        run = by_learner(copy.deepcopy(model), DeviceCallback(DEVICE, prefetch=prefetch))
        clocked = Clocked([batch] * n)
        for _ in range(2):
            run(clocked)
        base = base or clocked.ms
        idle = f"{idle_per_step(run, [batch] * n, n):.0f}" if HAS_CUDA else "-"
        print(f"| {name} | {clocked.ms:.3f} | {base / clocked.ms:.1%} | {idle} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="very small: to see that it works")
    is_quick = parser.parse_args().quick
    torch.set_float32_matmul_precision("high")
    if not HAS_CUDA:
        torch.set_num_threads(1)
    card = torch.cuda.get_device_name() if HAS_CUDA else f"no CUDA: the CPU, {platform.machine()}"
    print(f"torch {torch.__version__}, {card}; optimizer AdamW, matmuls in TF32 where there is any")
    n, n_rounds = (60, 1) if is_quick else (200, 3)
    for k, task in enumerate(tasks(is_quick)):
        # To compile for a CPU takes long; one shows that it works.
        is_alone = is_quick and not HAS_CUDA and k
        table(task, compare(task, list(CONTESTANTS)[: 2 if is_alone else None], n, n_rounds))
    prefetching(is_quick, 30 if is_quick else 60)


if __name__ == "__main__":
    main()
