"""What activation statistics cost: `python benchmarks/activations.py`.

Ten layers `Linear(256)` with ReLU between, batches of 256, one thread. Each way runs in turn for ten batches, over and
over, on a copy of the same network, so that what else the machine does hits all alike. Added time is the median
over the rounds of what a way took more than no hooks in the same round, in CPU time of the thread.
"""

import argparse
import contextlib
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from callbacks import ActivationStats
from learner import Hooks, Learner

N_LAYERS, WIDTH, BATCH_SIZE, BURST = 10, 256, 256, 10


def course_stats(hook, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    """Keep what the course keeps, in its way."""
    if not hasattr(hook, "stats"):
        hook.stats = ([], [], [])
    acts = output.detach().cpu()
    hook.stats[0].append(acts.mean())
    hook.stats[1].append(acts.std())
    hook.stats[2].append(acts.abs().histc(40, 0, 10))


class Clocked:
    """A loader that measures the pass over it, without what comes before and after."""

    def __init__(self, batches: list) -> None:
        self.batches, self.time = batches, 0.0

    def __iter__(self) -> Iterator[tuple]:
        start = time.thread_time()
        yield from self.batches
        self.time = time.thread_time() - start


def make_burst(model: nn.Module, batches: list, cb: object = None, *, is_course: bool = False) -> Callable[[], float]:
    model, loader = copy.deepcopy(model), Clocked(batches)
    learn = Learner(model, {"train": loader}, cross_entropy, lr=0.01, cbs=cb)

    def burst() -> float:
        linears = [module for module in model if isinstance(module, nn.Linear)]
        with Hooks(linears, course_stats) if is_course else contextlib.nullcontext():
            learn.fit(1)
        return loader.time / len(batches) * 1e6

    burst.model = model
    return burst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="bursts of each way")
    n_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    blocks = [part for _ in range(N_LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = nn.Sequential(*blocks[:-1])
    labels = torch.randint(0, WIDTH, (BURST, BATCH_SIZE))
    batches = list(zip(torch.randn(BURST, BATCH_SIZE, WIDTH), labels, strict=True))

    def stats(**kwargs: int) -> ActivationStats:
        return ActivationStats(mod_filter=lambda module: isinstance(module, nn.Linear), **kwargs)

    bursts = {
        "no hooks": make_burst(model, batches),
        "forward hooks: mean, std, histc of the CPU copy": make_burst(model, batches, is_course=True),
        "`ActivationStats()`": make_burst(model, batches, stats()),
        "`ActivationStats(hist_rows=16)`": make_burst(model, batches, stats(hist_rows=8)),
        "`ActivationStats(hist_every=10)`": make_burst(model, batches, stats(hist_every=10)),
        "`ActivationStats(every=10)`": make_burst(model, batches, stats(every=10)),
    }
    times: dict[str, list[float]] = {name: [] for name in bursts}
    names = list(bursts)
    for i in range(n_rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:  # nobody always runs after the same one
            times[name].append(bursts[name]())
    plain, course, *_ = names
    for burst in bursts.values():  # whoever looks changes nothing
        for p, q in zip(burst.model.parameters(), bursts[plain].model.parameters(), strict=True):
            assert torch.equal(p, q)

    def added(name: str) -> float:
        return statistics.median(mine - none for mine, none in zip(times[name], times[plain], strict=True))

    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {n_rounds} rounds of {BURST} batches\n")
    print("| | ms/batch | added [µs/batch] | added [µs/layer] | ratio to the forward hooks |\n|---|--:|--:|--:|--:|")
    for name in bursts:
        extra = added(name)
        cells = f"{extra:.0f} | {extra / N_LAYERS:.1f} | {extra / added(course):.2f}" if name != plain else "- | - | -"
        print(f"| {name} | {statistics.median(times[name]) / 1e3:.2f} | {cells} |")


if __name__ == "__main__":
    main()
