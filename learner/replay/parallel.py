"""Run a part of a training again in several processes at once, each from a checkpoint of its own, to record more of it.

A checkpoint is exact, so what comes after one can be had without what comes before: the steps are cut at checkpoints,
and what callbacks keep of each part is joined in order.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from pathlib import Path
from typing import Any

from learner.checkpoint.file import read_checkpoint
from learner.data.numbers import whole_number
from learner.errors import LearnerError
from learner.loop.callbacks import flattened
from learner.loop.types import Learner
from learner.replay.find import Checkpoints, at_step
from learner.replay.hindsight import checked_steps
from learner.replay.recorded import keep_joined, require_joinable, save_recorded

_Warnings = list[tuple[str, type[Warning]]]


def parallel_hindsight(
    make_learner: Callable[[], Learner],
    path: str | os.PathLike[str],
    make_cbs: Callable[[], Any],
    steps: slice,
    n_processes: int = 2,
) -> list[Any]:
    """Record what callbacks would have recorded, had they been there, in several processes at once.

    It is `learn.hindsight(path, make_cbs(), steps)`, cut at checkpoints into about equal parts, one for each process.
    The callbacks must be able to join what they keep: besides `state`, or `state_dict` and `load_state_dict`, they have
    a method `join_parts(states)`, which returns one state for those of several parts in order. `RecorderCallback`,
    `ActivationStats`, `GradientStats` and `SelfCheckCallback` do. One that is called every so often counts from the
    beginning of each part.

    The processes are new ones, as `multiprocessing` spawns them, so both functions must be at the top level of a file,
    which trains only `if __name__ == "__main__"`.

    Args:
        make_learner: makes a learner as the one that trained.
        path: as for `learn.rewind`.
        make_cbs: makes the callbacks, always the same ones.
        steps: as for `learn.hindsight`.
        n_processes: how many at most; fewer, where there are too few checkpoints between the steps.

    Returns:
        The callbacks, with all that they have recorded.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range, or a function cannot be imported by
            another process.
        LearnerError: as for `learn.hindsight`; if a process ends before its part is done.

    Example, in a file of its own:
        def make_learner():
            return Learner(make_model(), make_loaders(), loss_f, cbs=CheckpointCallback("runs/checkpoints", keep="all"))

        if __name__ == "__main__":
            [stats] = parallel_hindsight(make_learner, "runs/checkpoints", ActivationStats, slice(1000, 1400), 4)
            stats.plot_stats()
    """
    _check_function(make_learner, "make_learner")
    _check_function(make_cbs, "make_cbs")
    parts = parts_of(Checkpoints(path), steps, _checked_count(n_processes))
    cbs = require_joinable(flattened(make_cbs()))
    context = multiprocessing.get_context("spawn")  # a fork could use neither CUDA nor the threads of this process
    with tempfile.TemporaryDirectory(prefix="hindsight-") as folder, ProcessPoolExecutor(len(parts), context) as pool:
        files = [Path(folder, f"{k}.pt") for k in range(len(parts))]
        jobs = [
            pool.submit(record_part, make_learner, os.fspath(path), make_cbs, part, file)
            for part, file in zip(parts, files, strict=True)
        ]
        try:
            warned = [job.result() for job in jobs]
        except BrokenProcessPool as error:
            raise LearnerError(
                "each process must live until its part is done, but one has ended before; what it said is above. "
                "`make_learner` and `make_cbs` must be at the top level of a file, which trains only `if __name__ == "
                '"__main__"`.'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
        keep_joined(cbs, [read_checkpoint(file) for file in files])
    for text, category in dict.fromkeys(each for part in warned for each in part):
        warnings.warn(text, category, stacklevel=2)
    return cbs


def _check_function(f: Any, name: str) -> None:
    """Refuse what another process cannot import.

    Raises:
        TypeError: if it is no function.
        ValueError: if it is of no file, or within another function.
    """
    if not callable(f):
        raise TypeError(f"`{name}` must be a function, got {f!r}.")
    of_no_file = getattr(f, "__module__", None) == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    try:
        pickle.dumps(f)
    except (pickle.PicklingError, AttributeError, TypeError):
        of_no_file = True
    if of_no_file:
        raise ValueError(
            f"`{name}` must be a function at the top level of a file, since other processes import it, got {f!r}; put "
            f"it there, or do `learn.hindsight` in this process."
        )


def _checked_count(n: Any) -> int:
    count = whole_number(n, "n_processes")
    if count < 1:
        raise ValueError(f"`n_processes` must be at least 1, got {count}.")
    return count


def parts_of(checkpoints: Checkpoints, steps: slice, n: int) -> list[slice]:
    """Cut steps into parts that begin at checkpoints, about equal.

    Args:
        checkpoints: of the run.
        steps: as for `learn.hindsight`.
        n: how many parts at most.

    Raises:
        TypeError, ValueError: if they are no steps.
        LearnerError: if they begin before the first checkpoint.
    """
    start, last = checked_steps(steps)
    first = steps.start or 0
    checkpoints.nearest(start)  # now is the time to hear that there is none

    def last_before(step: int) -> int:
        n_steps: int = checkpoints.nearest(at_step(step))[1]["loop"]["n_steps"]
        return n_steps

    length = (last_before(sys.maxsize) if last is None else last) - first
    cuts = {last_before(first + length * k // n) for k in range(1, n)} if length > 0 else set()
    begins = sorted({first, *(cut for cut in cuts if cut > first)})
    return [slice(a, b) for a, b in pairwise([*begins, last])]


def record_part(
    make_learner: Callable[[], Learner], path: str, make_cbs: Callable[[], Any], part: slice, file: Path
) -> _Warnings:
    """Record a part in this process, and write what callbacks keep to a file; return what was warned of.

    Raises:
        TypeError: if what is made is not a learner.
        Exception: of any kind, with a note of the part.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            learn, cbs = make_learner(), flattened(make_cbs())
            if not hasattr(learn, "hindsight"):
                raise TypeError(f"`make_learner` must return a Learner, got {type(learn).__name__}.")
            learn.hindsight(path, cbs, part)
            save_recorded(file, cbs)
    except Exception as error:
        error.add_note(f"in the part from step {part.start} to {'the end' if part.stop is None else part.stop}")
        raise
    return [(str(one.message), one.category) for one in caught]
