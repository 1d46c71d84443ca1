"""What an average of the weights costs: `python benchmarks/averages.py`.

The update alone, with nothing else around it: 100 tensors of 64x64, and those of a small network, one thread. Each way
runs in turn, over and over, so that what else the machine does hits all alike; times are CPU time of the thread. Then
the same network trained with and without it, batch by batch.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from callbacks import EMACallback
from learner import Learner

DECAY, BURST = 0.999, 50
BEST = "by hand, `torch._foreach_lerp_`"


def large() -> nn.Module:
    return nn.ParameterList(torch.randn(64, 64) for _ in range(100))


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def ways_of(model: nn.Module) -> dict[str, Callable[[], object]]:
    """Return for each way of averaging what is called after a step."""
    one_by_one = [p.detach().clone() for p in model.parameters()]
    joined = [p.detach().clone() for p in model.parameters()]
    parameters = list(model.parameters())
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    averaged.update_parameters(model)
    ema, learn = EMACallback(DECAY), Learner(model, {"train": []})
    ema.before_fit(learn)
    ema.after_backward(learn)

    @torch.no_grad()
    def by_hand() -> None:
        for a, p in zip(one_by_one, parameters, strict=True):
            a.lerp_(p, 1 - DECAY)

    @torch.no_grad()
    def by_hand_joined() -> None:
        torch._foreach_lerp_(joined, parameters, 1 - DECAY)

    def callback() -> None:
        ema.after_backward(learn)
        ema.after_step(learn)

    return {
        "by hand, one tensor after the other": by_hand,
        BEST: by_hand_joined,
        "`AveragedModel(multi_avg_fn=get_ema_multi_avg_fn(0.999))`": lambda: averaged.update_parameters(model),
        "`EMACallback(0.999)`": callback,
    }


def burst_of(update: Callable[[], object]) -> float:
    start = time.thread_time()
    for _ in range(BURST):
        update()
    return (time.thread_time() - start) / BURST * 1e6


def times_of(ways: dict[str, Callable[[], float]], n_rounds: int) -> dict[str, list[float]]:
    """Run each way once a round, nobody always after the same one; return the times [µs]."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(n_rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(ways[name]())
    return times


def clocked(batches: list, times: list[float]) -> object:
    """Return a loader that puts down the time of the pass over it."""

    class Clocked:
        def __iter__(self):
            start = time.thread_time()
            yield from batches
            times.append((time.thread_time() - start) / len(batches) * 1e6)

    return Clocked()


def training(cb: object) -> Callable[[], float]:
    """Return a function that trains the small network for an epoch and tells the time of a batch [µs]."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(BURST, 64, 64, generator=generator), torch.randint(10, (BURST, 64), generator=generator)
    torch.manual_seed(0)
    model, times = small(), []
    loader = clocked(list(zip(x, y, strict=True)), times)
    learn = Learner(model, {"train": loader}, cross_entropy, lr=0.01, cbs=cb)

    def burst() -> float:
        learn.fit(1)
        return times[-1]

    burst.model = model
    return burst


def ratio(times: dict[str, list[float]], name: str) -> float:
    """Return the median over the rounds of what a way took in relation to the better one by hand."""
    return median(t / by_hand for t, by_hand in zip(times[name], times[BEST], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="bursts of each way")
    n_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {n_rounds} rounds of {BURST} updates\n")
    columns = ("100 tensors of 64x64 [µs]", "fastest round [µs]", "to by hand", "small network [µs]", "to by hand")
    print(f"| | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    of_large, of_small = (
        times_of({name: partial(burst_of, update) for name, update in ways_of(model).items()}, n_rounds)
        for model in (large(), small())
    )
    for name in of_large:
        cells = [median(of_large[name]), min(of_large[name]), ratio(of_large, name)]
        cells += [median(of_small[name]), ratio(of_small, name)]
        print("| {} | {:.0f} | {:.0f} | {:.2f} | {:.0f} | {:.2f} |".format(name, *cells))
    bursts = {"without": training(None), "with": training(EMACallback(DECAY))}
    times = times_of(bursts, n_rounds)
    for p, q in zip(bursts["without"].model.parameters(), bursts["with"].model.parameters(), strict=True):
        assert torch.equal(p, q)
    added = median(a - b for a, b in zip(times["with"], times["without"], strict=True))
    print(f"\nA batch of the small network takes {median(times['without']):.0f} µs, and {added:.0f} µs more with it.")


if __name__ == "__main__":
    main()
