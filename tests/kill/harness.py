"""Kill a training, start it again until it ends, and compare what came out with a training that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple

import pandas  # noqa: F401  # imported here, once, what each process would else import while it trains
import pyarrow.dataset  # noqa: F401
import torch._dynamo  # noqa: F401

from tests.kill.training import (
    DIGEST,
    FILE_POINTS,
    LOOP_POINTS,
    N_BATCHES,
    N_EPOCHS,
    N_TRAIN,
    POINTS,
    Kill,
    Setting,
    main,
)

ROOT = Path(__file__).parents[2]
LIMIT = 120  # [s] for one process; it takes about one
GRACE = 10  # [s] for workers to see that their parent is gone
SIZE = 25_000  # [bytes] of a checkpoint, about

SETTINGS = tuple(
    Setting(*values)
    for values in product(
        (0, 2),
        ("shuffle", "weighted"),
        ("sgd", "one-cycle"),
        ("dropout", "batch norm", "augmentation"),
        (1, 3),
        (1, 7, "epoch"),
    )
)


class Case(NamedTuple):
    """A training and what befalls it: each kill is of a new process, which goes on where the one before was killed.

    Attributes:
        setting: what is trained.
        kills: points, or moments [0-1 of the time of a whole training].
        workers: of the loaders after the first kill; as before, if None.
        is_fresh: whether each process is a new Python, not a fork of one that has imported everything.
    """

    setting: Setting
    kills: tuple[Kill | float, ...]
    workers: int | None = None
    is_fresh: bool = False


class Result(NamedTuple):
    """What came of a case.

    Attributes:
        n_kills: how often a process was killed; one may have ended before it was to be.
        differing: what was not, bit for bit, as in the training that was left alone.
        n_left: how many of them left a worker behind for good.
    """

    n_kills: int
    differing: tuple[str, ...]
    n_left: int


class Reference(NamedTuple):
    """A training that was left alone.

    Attributes:
        digest: by part of what came out.
        n_operations: changes of the file system.
        seconds: that it took.
    """

    digest: dict[str, str]
    n_operations: int
    seconds: float


def reference(setting: Setting, home: Path) -> Reference:
    """Train without a kill, once for each setting and home."""
    folder = home / f"reference {' '.join(map(str, setting))}"
    done = folder / "reference.json"
    if not done.exists():
        start = time.perf_counter()
        process = Process(setting, folder)
        process.wait()
        seconds = time.perf_counter() - start
        process.clear_away()
        told = json.loads((folder / DIGEST).read_text())
        done.write_text(json.dumps([told["digest"], told["operations"], seconds]))
    return Reference(*json.loads(done.read_text()))


def examine(case: Case, home: Path) -> Result:
    """Train, kill as said, start again until it ends, and compare; a process that fails or hangs is a difference."""
    expected = reference(case.setting, home)
    folder = home / f"case {os.getpid()} {time.monotonic_ns()}"
    processes, n_kills, setting = [], 0, case.setting
    try:
        for kill in (*case.kills, None):
            moment = kill * expected.seconds if isinstance(kill, float) else None
            processes.append(Process(setting, folder, None if moment else kill, is_fresh=case.is_fresh))
            n_kills += processes[-1].wait(moment)  # the next one does not wait for the workers of this one
            if case.workers is not None:
                setting = setting._replace(workers=case.workers)
        told = json.loads((folder / DIGEST).read_text())
        differing = [name for name, digest in expected.digest.items() if told["digest"][name] != digest]
        differing += [f"{path} is left over" for path in told["left over"]]
    except RuntimeError as error:
        differing = [str(error)]
    finally:
        n_left = sum(process.clear_away() for process in processes)
        shutil.rmtree(folder, ignore_errors=True)
    return Result(n_kills, tuple(differing), n_left)


# -- processes ---------------------------------------------------------------------------------------------------------


class Process:
    """A training in a process of its own, in a process group of its own.

    Args:
        setting: what is trained.
        folder: where checkpoints and records are.
        kill: where the process kills itself.
        is_fresh: whether to start a Python, instead of a fork.
    """

    def __init__(self, setting: Setting, folder: Path, kill: Kill | None = None, is_fresh: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.job, self.log = json.dumps([setting, str(folder), kill]), folder / "log.txt"
        # Held by the process and by all that it starts: at its end when the last of them is gone.
        self._all_gone, alive = os.pipe()
        try:
            self._pid = self._start_python(alive) if is_fresh else self._fork()
        finally:
            os.close(alive)
        with suppress(OSError):  # it has done so itself
            os.setpgid(self._pid, self._pid)

    def wait(self, moment: float | None = None) -> bool:
        """Wait until it ends; return whether it was killed.

        Args:
            moment: when to kill it [s], unless it ends before.

        Raises:
            RuntimeError: if it failed, or hangs; with what it said.
        """
        start, is_late = time.perf_counter(), False
        while not (ended := os.waitpid(self._pid, os.WNOHANG))[0]:
            seconds = time.perf_counter() - start
            is_late = seconds > LIMIT
            if is_late or (moment is not None and seconds >= moment):
                os.kill(self._pid, signal.SIGKILL)
                ended = os.waitpid(self._pid, 0)
                break
            time.sleep(0.001)
        code = os.waitstatus_to_exitcode(ended[1])
        if is_late or code not in (0, -signal.SIGKILL):
            what = f"took more than {LIMIT} s" if is_late else f"ended with {code}"
            raise RuntimeError(f"{self.job} {what}:\n{self.log.read_text()}")
        return code != 0

    def clear_away(self) -> bool:
        """Return whether it has left a worker behind, which then is killed."""
        is_gone = bool(select.select([self._all_gone], [], [], GRACE)[0])
        os.close(self._all_gone)
        if not is_gone:
            os.killpg(self._pid, signal.SIGKILL)
        return not is_gone

    def _fork(self) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setpgid(0, 0)
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
            main(self.job)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _start_python(self, alive: int) -> int:
        os.set_inheritable(alive, True)
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tests.kill.training", self.job],
            {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setpgroup=0,
        )


def pool(n: int) -> ProcessPoolExecutor:
    """Return `n` processes that kill trainings; all are forks of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(n, mp_context=context)


# -- what to kill ------------------------------------------------------------------------------------------------------


def places(point: str, setting: Setting) -> list[int]:
    """Return the batches at which there is this point, or a file is written; each is another place."""
    if point in FILE_POINTS:
        return list(range(1, N_EPOCHS * N_TRAIN + 1, setting.every if isinstance(setting.every, int) else N_TRAIN))
    batches = {i: i % N_BATCHES for i in range(N_EPOCHS * N_BATCHES)}
    if point in ("backward", "stepped"):
        return [i for i, of_epoch in batches.items() if of_epoch < N_TRAIN]
    if point == "after a pass":
        return [i for i, of_epoch in batches.items() if of_epoch in (N_TRAIN - 1, N_BATCHES - 1)]
    return list(batches)


def sample(setting: Setting, rng: random.Random) -> list[Case]:
    """Return what every setting has to stand: a random moment, a point of each kind, twice in a row, three times."""

    def point_of(points: Sequence[str]) -> Kill:
        point = rng.choice(points)
        return Kill(point, rng.choice(places(point, setting)), rng.randrange(SIZE))

    twice = point_of(POINTS)
    return [
        Case(setting, (rng.random(),)),
        Case(setting, (point_of(LOOP_POINTS),)),
        Case(setting, (point_of(FILE_POINTS),)),
        Case(setting, (twice, twice)),
        Case(setting, (rng.random() / 2, point_of(POINTS), rng.random() / 2), workers=rng.choice((0, 2))),
    ]


def exhaustive(setting: Setting, n_operations: int) -> list[Case]:
    """Return a kill at every point of every batch of a training, at every change of files, and at the end."""
    kills = [Kill(point, at, at * SIZE // (N_EPOCHS * N_BATCHES)) for point in POINTS for at in places(point, setting)]
    kills += [Kill("operation", at) for at in range(1, n_operations + 1)]
    return [Case(setting, (kill,)) for kill in (*kills, Kill("end", 0))]


def at_each_batch(setting: Setting) -> Case:
    """Return a training that is killed at each of its batches, one after the other."""
    points = cycle(("fetched", "before the save", "during the save"))
    return Case(setting, tuple(Kill(next(points), at) for at in range(N_EPOCHS * N_BATCHES)))
