"""What opening the doors costs: `python benchmarks/imports.py`.

Each import runs in processes of its own, with bytecode at hand, after torch and what the table names were imported. Its
cost is the CPU time of the one statement [ms], the median over nine processes. What torch has made is kept out of
garbage collections: else one of them, of 40 ms, falls to whichever import comes upon it. Every public name of
`callbacks` is imported once to find the dearest ones, which are then measured as the others are.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import callbacks

ROOT = Path(__file__).parents[1]
N_PROCESSES, N_DEAREST = 9, 3
LOOP = "from learner import Learner"  # which whatever callback comes first reads as well


def import_time(before: str, statement: str) -> float:
    """Return the CPU time of an import in a new process [ms]."""
    script = f"""
import gc, time, torch
{before}
gc.collect()
gc.freeze()
start = time.process_time()
{statement}
print((time.process_time() - start) * 1e3)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # reading the source anew each time is another thing to measure
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    """Print a row for each import."""
    names = {name: f"from callbacks import {name}" for name in callbacks.__all__}
    for name in names:
        import_time("", names[name])  # writes the bytecode
    dearest = sorted(names, key=lambda name: import_time(LOOP, names[name]), reverse=True)[:N_DEAREST]
    doors = [
        ("import torch", "import learner"),
        ("import torch", "from learner import Learner"),
        ("import learner", "import callbacks"),
        *[(LOOP, names[name]) for name in dearest],
    ]
    print("| after | import | CPU time [ms] |")
    print("|---|---|--:|")
    for before, statement in doors:
        times = [import_time(before, statement) for _ in range(N_PROCESSES)]
        print(f"| `{before}` | `{statement}` | {statistics.median(times):.1f} |")


if __name__ == "__main__":
    main()
