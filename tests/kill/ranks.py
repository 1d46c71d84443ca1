"""A training of several processes that torchrun starts, and starts again when one of them is killed.

    torchrun --standalone --nproc-per-node 2 --max-restarts 2 -m tests.kill.ranks JOB

trains as `JOB` says, a JSON: where to write, and which process does what to itself, or to torchrun, in which batch of
which try. Kept out of the way of a real training is nothing: dropout, noise of samples, a metric, a record of each
sample, a checkpoint every third batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from callbacks import (
    CheckpointCallback,
    ClassificationMetricsCollector,
    CollectCallback,
    DistributedCallback,
    MetricsCallback,
    RunCallback,
    accuracy,
)
from learner import Callback, Learner
from learner.records.run import Run
from tests.ranks import Noisy

ROOT = Path(__file__).parents[2]
N_EPOCHS, N_TRAIN, BATCH_SIZE = 3, 77, 8  # ten batches, the last one of five samples
N_BATCHES = N_EPOCHS * -(-N_TRAIN // BATCH_SIZE)
LIMIT = 300  # [s] for all tries of a training, which take about ten
TIMEOUT = 60.0  # [s] after which a process that waits in vain fails


class Strike(NamedTuple):
    """What happens to a process in a batch.

    Attributes:
        attempt: in which try, from 0.
        rank: to which process.
        batch: when it has trained so many batches of the fit.
        point: the signal at which it comes.
        is_kill: whether it is SIGKILL to the process, or SIGTERM to the torchrun that has started it.
    """

    attempt: int
    rank: int
    batch: int
    point: str = "after_backward"
    is_kill: bool = True


POINTS = "before_batch", "after_loss", "after_backward", "after_step", "after_batch"


class Struck(Callback):
    """Let a strike come."""

    def __init__(self, strikes: Sequence[Strike]) -> None:
        attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        self.strikes = [strike for strike in strikes if strike.attempt == attempt]
        for point in POINTS:
            setattr(self, point, lambda learn, point=point: self._at(learn, point))

    def _at(self, learn: Learner, point: str) -> None:
        if not learn.training:
            return
        batch = learn.epoch * -(-N_TRAIN // BATCH_SIZE) + learn.i
        for strike in self.strikes:
            if (strike.rank, strike.batch, strike.point) == (learn.job.rank, batch, point):
                os.kill(*((os.getpid(), signal.SIGKILL) if strike.is_kill else (os.getppid(), signal.SIGTERM)))


def train(folder: str | os.PathLike[str], strikes: Sequence[Strike] = ()) -> dict[str, str] | None:
    """Train, going on with what is there; return what came out, as digests by part, or None in another process."""
    torch.set_num_threads(1)
    distributed = DistributedCallback(timeout=TIMEOUT)
    folder = Path(folder)
    torch.manual_seed(0)
    layers = nn.Linear(10, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2)
    model = nn.Sequential(*layers).double()
    dls = {
        "train": DataLoader(Noisy(N_TRAIN), BATCH_SIZE, shuffle=True),
        "valid": DataLoader(Noisy(21, seed=1), BATCH_SIZE),
    }
    run = Run.open(folder / "run") if (folder / "run" / "run.json").exists() else Run.create(folder / "run")
    collect = CollectCallback(ClassificationMetricsCollector(), run=run)
    cbs = [
        distributed,
        CheckpointCallback(folder / "checkpoints", every=3),
        MetricsCallback(accuracy=accuracy),
        RunCallback(run),
        collect,
        Struck(strikes),
    ]
    learn = Learner(model, dls, cross_entropy, 0.3, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), cbs)
    learn.fit(N_EPOCHS, resume=True)
    if not distributed.is_first:
        return None
    columns = {name: collect.samples.numpy(name).tolist() for name in ("example_id", "epoch", "loss")}
    parts = {
        "weights": [p.tolist() for p in model.parameters()],
        "history": learn.history.to_dict(),
        "counts": [learn.n_steps, learn.n_samples],
        "records": columns,
        "noise": torch.get_rng_state().tolist(),
    }
    return {name: hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest() for name, value in parts.items()}


class Outcome(NamedTuple):
    """What came of a training by torchrun.

    Attributes:
        status: of torchrun.
        output: of all processes.
        digest: of what came out; None where it did not end.
    """

    status: int
    output: str
    digest: Mapping[str, str] | None


def torchrun(world: int, folder: Path, strikes: Sequence[Strike], max_restarts: int) -> Outcome:
    """Train by torchrun, with what strikes."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    job = json.dumps([str(folder), list(strikes)])
    done = subprocess.run(
        [sys.executable, *command, f"--max-restarts={max_restarts}", "-m", "tests.kill.ranks", job],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    digest = folder / "digest.json"
    return Outcome(done.returncode, done.stdout, json.loads(digest.read_text()) if digest.exists() else None)


def main(job: str) -> None:
    """Train as a job says; the first process writes what came out."""
    folder, strikes = json.loads(job)
    digest: Any = train(folder, [Strike(*strike) for strike in strikes])
    if digest is not None:
        (Path(folder) / "digest.json").write_text(json.dumps(digest))


if __name__ == "__main__":
    main(sys.argv[1])
