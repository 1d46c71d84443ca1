"""What mixed precision costs in Python: `python benchmarks/precision.py`.

First a whole training: a network of 64-64-10, batches of 32, SGD, one thread. Each way runs in turn for 20 batches,
over and over, on a copy of the same network, so that what else the machine does hits all alike; CPU time of the thread.
By hand is a loop with `torch.autocast`, and `GradScaler` for float16.

Then what comes with the callback alone, around a model that does nothing and a loss that is there: the shortest of
many times, so what is in the processor's caches stays there.
"""

import argparse
import contextlib
import copy
import statistics
import sys
import time
import timeit
from collections.abc import Callable

import torch
from activations import Clocked
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from callbacks import MixedPrecisionCallback
from learner import Learner

WIDTH, BATCH_SIZE, BURST = 64, 32, 20
GIVEN = torch.zeros(4, 10, dtype=torch.bfloat16)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def by_hand(model: nn.Module, batches: list, precision: str | None) -> Callable[[], float]:
    model = copy.deepcopy(model)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")

    def burst() -> float:
        start = time.thread_time()
        for x, y in batches:
            with torch.autocast("cpu", DTYPES[precision]) if precision else contextlib.nullcontext():
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


class Given(Learner):
    """A learner that predicts what is there."""

    def predict(self) -> None:
        self.preds = GIVEN


def shortest(f: Callable[[], object], n: int = 5000) -> float:
    return min(timeit.repeat(f, number=n, repeat=40)) / n * 1e6


def print_alone() -> None:
    """Print what there is around a model and a loss."""

    def hand() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            preds = GIVEN
        return preds.float()

    def batch(learn: Learner) -> Callable[[], None]:
        learn.loss = torch.zeros(())

        def run() -> None:
            learn.predict()
            learn.callback("after_loss")

        return run

    plain, mixed = (
        Given(nn.Linear(1, 1), {"valid": [GIVEN]}, cross_entropy, cbs=cb) for cb in (None, MixedPrecisionCallback())
    )
    mixed.cbs[0].before_epoch(mixed)
    by_hand, without, with_it = shortest(hand), shortest(batch(plain)), shortest(batch(mixed))
    print("\n| predict and after_loss, a model that does nothing | µs/batch |\n|---|--:|")
    print(f"| by hand: `with torch.autocast(...)`, `.float()` | {by_hand:.1f} |")
    print(f"| Learner, float32 | {without:.1f} |")
    print(f"| Learner, `MixedPrecisionCallback('bf16')` | {with_it:.1f} |")
    print(f"| the callback beyond autocast by hand | {with_it - without - by_hand:+.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="bursts of each way")
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
    print("| | by hand [µs/batch] | Learner [µs/batch] | times by hand | middle half of the rounds |")
    print("|---|--:|--:|--:|--:|")
    for p in (None, *DTYPES):
        hand, mine = times["by hand", p], times["Learner", p]
        low, ratio, high = statistics.quantiles([b / a for a, b in zip(hand, mine, strict=True)], n=4)
        medians = f"{statistics.median(hand):.0f} | {statistics.median(mine):.0f}"
        print(f"| {f'`{p}`' if p else 'float32'} | {medians} | {ratio:.3f} | {low:.3f} to {high:.3f} |")
    print_alone()


if __name__ == "__main__":
    main()
