"""Kill trainings of every kind at every point, and write down what came of it: `python -m tests.kill`.

`python -m tests.kill ranks` kills processes of jobs by torchrun.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from tests.kill import ranks_table
from tests.kill.harness import SETTINGS, Case, Reference, Result, examine, exhaustive, pool, reference, sample
from tests.kill.training import Kill, Setting

RESULTS = Path(__file__).with_name("results.md")
SMALL_RUNS = (Setting(), Setting(workers=2, sampler="weighted", optimizer="sgd", every=7))
COLUMNS = [(workers, every) for workers in (0, 2) for every in (1, 7, "epoch")]

TEXT = """# Killed trainings

**{total}, as if nothing had happened.** Written by `python -m tests.kill`, with {versions}.

A training ([training.py](training.py)) is killed by SIGKILL ([harness.py](harness.py)), and the same command is given
again until it ends. Compared are weights and buffers, the optimizer, the schedule, counters, the history, metrics, the
best epoch and its weights, all random generators, every sample on record, and the scalars. A cell is "trainings that
came out the same / trainings (processes killed)".

## Every setting

Each is killed at a random moment; at a random point of a batch; at a random point in the writing of a file; at one
point twice in a row; and three times in turn, where the number of workers may change on the way. The last column says
whether the trainings that were left alone are the same for any number of workers and any frequency of checkpoints.

{matrix}

## Every point

A training with batch norm, dropout and augmentation, killed at each of its batches at each point of it, and before each
change of the file system that it makes (operation).

{points}

## A new Python for each start

Above, each process is the fork of one that has imported everything. In these it is not: {pythons}.

## Workers

{left} killed processes left a worker behind. Workers of torch see that their parent is gone only if it goes after they
have begun, which takes a few milliseconds.

## Trainings that differ

{differing}
"""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def told(results: Sequence[Result]) -> str:
    n_same = sum(not result.differing for result in results)
    return f"{n_same}/{len(results)} ({sum(result.n_kills for result in results)})"


def matrix(done: Sequence[tuple[Case, Result]], references: dict[Setting, Reference]) -> str:
    """Return a row for each training; in its columns how it is read and how often it is saved."""
    rows = []
    for training in dict.fromkeys(setting._replace(workers=0, every=1) for setting in SETTINGS):
        cells = [training._replace(workers=workers, every=every) for workers, every in COLUMNS]
        n_digests = len({tuple(references[cell].digest.values()) for cell in cells})
        row = [training.sampler, training.optimizer, training.model, training.accumulate]
        row += [told([result for case, result in done if case.setting == cell]) for cell in cells]
        rows.append([*row, "yes" if n_digests == 1 else f"no, {n_digests}"])
    head = ["sampler", "optimizer", "model", "accumulation"]
    head += [f"{workers} workers, {frequency(every)}" for workers, every in COLUMNS]
    return table([*head, "all six the same"], rows)


def frequency(every: int | str) -> str:
    return {1: "every batch", "epoch": "every epoch"}.get(every, f"every {every} batches")


def by_point(done: Sequence[tuple[Case, Result]]) -> str:
    """Return a row for each point."""
    found: dict[str, dict[Setting, list[Result]]] = {}
    for case, result in done:
        (kill,) = case.kills
        if isinstance(kill, Kill):
            found.setdefault(kill.point, {}).setdefault(case.setting, []).append(result)
    head = [
        f"{setting.workers} workers, {setting.sampler}, {setting.optimizer}, accumulation {setting.accumulate}, "
        + frequency(setting.every)
        for setting in SMALL_RUNS
    ]
    rows = [[point, *(told(cells[setting]) for setting in SMALL_RUNS)] for point, cells in found.items()]
    return table(["point", *head], rows)


def what_differs(result: Result) -> str:
    return ", ".join("a process failed" if "\n" in name else name for name in result.differing)


def main() -> int:
    """Run it all; return how many cases differ."""
    home = Path(tempfile.mkdtemp(prefix="kill-"))
    rng = random.Random(0)
    of_matrix = [case for setting in SETTINGS for case in sample(setting, rng)]
    of_python = [case._replace(is_fresh=True) for setting in rng.sample(SETTINGS, 4) for case in sample(setting, rng)]
    with pool(os.cpu_count() or 1) as executor:
        settings = (*SETTINGS, *SMALL_RUNS)
        references = dict(zip(settings, executor.map(partial(reference, home=home), settings), strict=True))
        of_points = [case for setting in SMALL_RUNS for case in exhaustive(setting, references[setting].n_operations)]
        cases = [*of_matrix, *of_python, *of_points]
        results = []
        for result in executor.map(partial(examine, home=home), cases):
            results.append(result)
            sys.stdout.write(f"\r{len(results)} of {len(cases)}, {sum(bool(r.differing) for r in results)} differ")
            sys.stdout.flush()
    shutil.rmtree(home)
    sys.stdout.write("\n")
    done = list(zip(cases, results, strict=True))
    n, m = len(of_matrix), len(of_matrix) + len(of_python)
    n_same = sum(not result.differing for result in results)
    n_kills, n_left = (sum(counts) for counts in zip(*((r.n_kills, r.n_left) for r in results), strict=True))
    failures = [(case, result) for case, result in done if result.differing]
    values = {
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}",
        "total": f"{len(cases)} trainings, {n_kills} processes killed, {n_same} trainings the same, bit for bit",
        "matrix": matrix(done[:n], references),
        "points": by_point(done[m:]),
        "pythons": told(results[n:m]),
        "left": f"{n_left} of {n_kills}",
        "differing": "\n".join(f"- `{case}`: {what_differs(result)}" for case, result in failures) or "None.",
    }
    RESULTS.write_text(TEXT.format(**values), encoding="utf-8")
    for case, result in failures:
        sys.stdout.write(f"{case}:\n{', '.join(result.differing)}\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(min(ranks_table.main() if sys.argv[1:] == ["ranks"] else main(), 1))
