"""Kill processes of torchrun at random, and write down what came of it: `python -m tests.kill ranks`."""

from __future__ import annotations

import platform
import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from learner.ranks import launch
from tests.kill.ranks import N_BATCHES, POINTS, Strike, torchrun, train

RESULTS = Path(__file__).with_name("ranks.md")
WORLDS = (2, 2, 2, 2, 2, 2, 2, 2, 4, 4)  # a training for each
N_KILLS = 2  # in each

TEXT = """# Killed processes of a job

**{n_kills} processes killed in {n} trainings, {n_same} trainings the same, bit for bit, as ones that nobody killed.**
Written by `python -m tests.kill ranks`, with {versions}.

Each line is a training ([ranks.py](ranks.py)) by `torchrun --standalone --max-restarts {per_training}`: three epochs of
ten batches, with dropout, noise of samples, a metric, a record of each sample, and a checkpoint every third batch. One
of its processes gets SIGKILL at a random batch and point; torchrun starts all of them again, and one of these is
killed, too. Compared are weights, history, counts, all records and the random generators of the first process.

| processes | killed: rank, batch, signal | the same |
| --- | --- | --- |
{rows}
"""


def strikes(world: int, rng: random.Random) -> list[Strike]:
    """Return where the processes of a training are killed, each later than the one before."""
    batches = sorted(rng.sample(range(1, N_BATCHES), N_KILLS))
    return [Strike(i, rng.randrange(world), batch, rng.choice(POINTS)) for i, batch in enumerate(batches)]


def main() -> int:
    """Run it all; return how many trainings differ."""
    home, rng = Path(tempfile.mkdtemp(prefix="kill-ranks-")), random.Random(0)
    whole = {world: launch(train, world, home / f"whole-{world}") for world in set(WORLDS)}
    rows, n_same = [], 0
    for i, world in enumerate(WORLDS):
        kills = strikes(world, rng)
        outcome = torchrun(world, home / f"{i}", kills, N_KILLS)
        differing = [name for name, digest in whole[world].items() if (outcome.digest or {}).get(name) != digest]
        if outcome.status:
            differing.append(f"torchrun ended with {outcome.status}")
            sys.stdout.write(outcome.output)
        n_same += not differing
        told = "; ".join(f"{kill.rank}, {kill.batch}, `{kill.point}`" for kill in kills)
        rows.append(f"| {world} | {told} | {'no: ' + ', '.join(differing) if differing else 'yes'} |")
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    shutil.rmtree(home)
    values = {
        "n": len(WORLDS),
        "n_kills": len(WORLDS) * N_KILLS,
        "n_same": n_same,
        "per_training": N_KILLS,
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}",
        "rows": "\n".join(rows),
    }
    RESULTS.write_text(TEXT.format(**values), encoding="utf-8")
    return len(WORLDS) - n_same
