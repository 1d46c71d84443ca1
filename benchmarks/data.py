"""What it costs to feed any batch to a model: `python benchmarks/data.py`.

First the Predictor by itself, with a model that does nothing, so that only what it adds is seen; then the Learner that
trains on such batches, against loops that take them apart by hand; then hooks that are put on once against hooks that
come and go. One thread, CPU time, contestants in turn: `overhead.py` does the race and says how the tables are made.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from typing import Any

import torch
from overhead import LR, Run, machine, race, report
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from learner import Learner, Predictor

BATCH_SIZE, N_PIXELS, N_EXTRA, N_CLASSES = 64, 64, 8, 10


class Nothing(nn.Module):
    """Give back the first input: all that is left of the time of a batch is how it came in."""

    def forward(self, pixels: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        return pixels


class OneInput(nn.Module):
    """Classify pixels."""

    def __init__(self, width: int, n_inputs: int = N_PIXELS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, N_CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)


class ThreeInputs(OneInput):
    """Classify pixels and two features more."""

    def __init__(self, width: int) -> None:
        super().__init__(width, N_PIXELS + 2 * N_EXTRA)

    def forward(self, pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self.net(torch.cat([pixels, rows, columns], dim=1))


def make_batches(n: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def randn(width: int) -> Tensor:
        return torch.randn(BATCH_SIZE, width, generator=generator)

    return [
        {
            "pixels": randn(N_PIXELS),
            "rows": randn(N_EXTRA),
            "columns": randn(N_EXTRA),
            "digit": torch.randint(0, N_CLASSES, (BATCH_SIZE,), generator=generator),
        }
        for _ in range(n)
    ]


# -- ways to call a model: `call` is what a person would write for that kind of batch -------------------------------


def call_pair(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    x, y = batch
    return model(x), y


def call_four(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    pixels, rows, columns, y = batch
    return model(pixels, rows, columns), y


def call_mapping(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(pixels=batch["pixels"], rows=batch["rows"], columns=batch["columns"]), batch["digit"]


def calling(model: nn.Module, batches: list[Any], call: Callable[[nn.Module, Any], Any]) -> Run:
    def run() -> None:
        for batch in batches:
            call(model, batch)

    return run


def predicting(model: nn.Module, batches: list[Any]) -> Run:
    """Do what the Learner does of each batch up to the predictions."""
    predictor = Predictor(model)

    def run() -> None:
        for batch in batches:
            xb, _yb, _size = predictor.split(batch)
            predictor.feed(model, xb)

    return run


def training(model: nn.Module, batches: list[Any], call: Callable[[nn.Module, Any], Any]) -> Run:
    opt = torch.optim.SGD(model.parameters(), lr=LR)

    def run() -> None:
        model.train()
        for batch in batches:
            preds, y = call(model, batch)
            loss = cross_entropy(preds, y)
            loss.backward()
            opt.step()
            opt.zero_grad()

    return run


def learning(model: nn.Module, batches: list[Any]) -> Run:
    learn = Learner(model, {"train": batches}, cross_entropy, lr=LR)
    return lambda: learn.fit(1)


# -- hidden layers --------------------------------------------------------------------------------------------------


def hooked(model: OneInput, batches: list[Tensor]) -> Run:
    """Keep a copy of what two layers give, by hooks that are put on by hand, once."""

    @torch.no_grad()
    def run() -> None:
        found: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[module] = output.clone()

        handles = [layer.register_forward_hook(keep) for layer in (model.net[0], model.net[1])]
        for batch in batches:
            model(batch)
        for handle in handles:
            handle.remove()

    return run


def hooked_by_predictor(model: nn.Module, batches: list[Tensor], *, is_once: bool) -> Run:
    predictor = Predictor(model, layers=("net.0", "net.1"))

    @torch.no_grad()
    def run() -> None:
        if not is_once:
            for batch in batches:
                predictor(batch)
            return
        with predictor.with_hooks():
            for batch in batches:
                predictor(batch)

    return run


def main() -> None:
    """Run the races."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--batches", type=int, default=1000, help="a run")
    parser.add_argument("--width", type=int, default=128, help="of the network that is trained")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    mappings = make_batches(args.batches)
    fours = [tuple(batch.values()) for batch in mappings]
    pairs = [(batch["pixels"], batch["digit"]) for batch in mappings]

    def show(title: str, runs: dict[str, Run]) -> None:
        report(title, race(runs, args.rounds), args.batches)

    print(machine())
    show(
        "`Predictor.split` and `feed`, a model that does nothing: (x, y)",
        {"by hand": calling(Nothing(), pairs, call_pair), "Predictor": predicting(Nothing(), pairs)},
    )
    show(
        "`Predictor.split` and `feed`, a model that does nothing: three inputs and a target",
        {
            "tuple, by hand": calling(Nothing(), fours, call_four),
            "mapping, by hand": calling(Nothing(), mappings, call_mapping),
            "tuple, Predictor": predicting(Nothing(), fours),
            "mapping, Predictor": predicting(Nothing(), mappings),
        },
    )
    show(
        "Training: (x, y)",
        {
            "by hand": training(OneInput(args.width), pairs, call_pair),
            "Learner": learning(OneInput(args.width), pairs),
        },
    )
    show(
        "Training: three inputs and a target",
        {
            "tuple, by hand": training(ThreeInputs(args.width), fours, call_four),
            "mapping, by hand": training(ThreeInputs(args.width), mappings, call_mapping),
            "tuple, Learner": learning(ThreeInputs(args.width), fours),
            "mapping, Learner": learning(ThreeInputs(args.width), mappings),
        },
    )
    model, xs = OneInput(args.width), [batch["pixels"] for batch in mappings]
    show(
        "Two hidden layers, without gradients",
        {
            "hooks by hand, put on once": hooked(model, xs),
            "`with predictor.with_hooks()`": hooked_by_predictor(model, xs, is_once=True),
            "hooks that come and go with each call": hooked_by_predictor(model, xs, is_once=False),
        },
    )


if __name__ == "__main__":
    main()
