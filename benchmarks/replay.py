"""What it costs to be able to go back in time: `python benchmarks/replay.py`.

The loss of each batch on record: what a batch pays for it, and the reading of it at a checkpoint, against the time of a
batch of the demo's network alone. A rewind: how long it takes to come to a step, against going on from the same
checkpoint by `fit(resume=path)` to the same step. Both in CPU time of the process. Files that `keep="spread"` has after
so many steps, one checkpoint every 100.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy

from callbacks import CheckpointCallback
from learner import Callback, CancelFitException, Learner
from learner.__main__ import digits, make_model
from learner.checkpoint.folder import spread
from learner.checkpoint.losses import LossRecord
from learner.ranks.job import ALONE

ROUNDS = 15
N_EPOCHS, STEP, FROM = 4, 91, 69  # of 23 batches an epoch; the step that is gone to, and the checkpoint before it


class StopBefore(Callback):
    """End the fit when it has come to a step."""

    order = 100

    def before_batch(self, learn: Learner) -> None:
        if learn.training and learn.n_steps == STEP:
            raise CancelFitException


def make(folder: Path, *cbs: Callback) -> Learner:
    torch.manual_seed(0)
    checkpoints = CheckpointCallback(folder, keep="all")
    return Learner(make_model(), digits(), cross_entropy, 0.01, torch.optim.AdamW, cbs=[checkpoints, *cbs])


def of_record() -> tuple[float, float]:
    """Return what a batch pays, and what the reading of 256 costs [µs]."""
    record, learn = LossRecord(tempfile.mkdtemp()), SimpleNamespace(loss=torch.ones(()), job=ALONE)
    adding, reading = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(10_000):
            record.add(learn)
        adding.append((time.process_time() - start) / 10_000)
        record.take(ALONE)
        for _ in range(255):
            record.add(learn)
        start = time.process_time()
        record.take(ALONE)
        reading.append(time.process_time() - start)
    return statistics.median(adding) * 1e6, statistics.median(reading) * 1e6


def of_rewind(folder: Path) -> tuple[float, list[float]]:
    """Return the time of a batch in the fit [µs], and how many times as long a rewind takes, round by round."""
    learn = make(folder / "run")
    start = time.process_time()
    learn.fit(N_EPOCHS)
    per_batch = (time.process_time() - start) / (23 * N_EPOCHS)
    path, ratios = folder / "run" / f"step-{FROM:08d}.pt", []
    for k in range(ROUNDS):
        other = make(folder / f"by-hand-{k}", StopBefore())
        start = time.process_time()
        other.fit(N_EPOCHS, resume=path)
        by_hand = time.process_time() - start
        learn = make(folder / "run")
        start = time.process_time()
        with learn.rewind(path, step=STEP):
            ratios.append((time.process_time() - start) / by_hand)
    return per_batch * 1e6, ratios


def main() -> None:
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    adding, reading = of_record()
    with tempfile.TemporaryDirectory() as folder:
        per_batch, ratios = of_rewind(Path(folder))
    share = (adding + reading / 256) / per_batch
    print(f"loss on record: {adding:.2f} µs a batch, {reading:.0f} µs to read 256: {share:.2%} of {per_batch:.0f} µs")
    print(f"rewind: {statistics.median(ratios):.2f} times a fit from the checkpoint to the same batch", end=" ")
    low, _, high = statistics.quantiles(ratios, n=4)
    print(f"({low:.2f} to {high:.2f})")
    for n_steps in (10**3, 10**5, 10**7):
        kept: list[int] = []
        for step in range(0, n_steps + 1, 100):
            kept = spread([*kept, step])
        print(f"spread: {len(kept)} files after {n_steps} steps")


if __name__ == "__main__":
    main()
