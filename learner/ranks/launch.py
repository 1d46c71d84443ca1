"""Call a function in several processes of this machine, from a notebook or a script."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from learner.data.numbers import whole_number
from learner.errors import LearnerError
from learner.ranks.agreement import OtherProcessError
from learner.ranks.join import leave

_GRACE = 20.0  # [s] for the other processes to end when one has failed


def launch(f: Callable[..., Any], n: int, *args: Any) -> Any:
    """Call `f(*args)` in `n` processes that train together; return what it returns in the first one.

    In `f`, make a `DistributedCallback` first, then data, model and learner. The processes are forks of this one, so
    `f` may be a function of a notebook, and what this process holds is there; what they do to it stays with them. Each
    computes on one thread of the CPU.

    Args:
        f: what each process does.
        n: how many there are, at least 1.
        *args: what it is called with.

    Raises:
        TypeError, ValueError: if `f` is no function, or `n` no number of processes.
        LearnerError: if CUDA is in use in this process, which a fork cannot use again; if the system has no fork; if
            the result cannot be sent, or a process ends without one.
        Exception: what `f` has raised in a process, with its traceback as a note.

    Example:
        >>> def train():
        ...     from callbacks import DistributedCallback
        ...     from learner import Learner, Loaders
        ...     ranks = DistributedCallback()
        ...     x = torch.linspace(-1, 1, 20)[:, None]
        ...     learn = Learner(torch.nn.Linear(1, 1), Loaders.from_arrays(train=(x, 2 * x), batch_size=4),
        ...                     torch.nn.functional.mse_loss, cbs=ranks)
        ...     learn.fit(2)
        ...     return learn.job.world, learn.n_steps
        >>> launch(train, 2)
        (2, 10)
    """
    if not callable(f):
        raise TypeError(f"`f` must be a function that each process calls, got {f!r}.")
    if whole_number(n, "n") < 1:
        raise ValueError(f"`n` must be at least 1 process, got {n}.")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise LearnerError(
            "`launch` must come before anything uses CUDA in this process, for its forks cannot; restart the notebook, "
            "and make data and model in the function."
        )
    if "fork" not in multiprocessing.get_all_start_methods():
        raise LearnerError("`launch` must have a system that forks processes, got one without; use `torchrun`.")
    context = multiprocessing.get_context("fork")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        _flush()  # else each fork writes what waits
        processes = [context.Process(target=_run, args=(f, args, rank, n, port, Path(folder))) for rank in range(n)]
        for process in processes:
            process.start()
        try:
            _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return _result([process.exitcode for process in processes], Path(folder))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _run(f: Callable[..., Any], args: tuple[Any, ...], rank: int, n: int, port: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    torch.set_num_threads(1)  # the threads of the process that was forked are not here
    status = 0
    try:
        result = f(*args)
        try:
            message = pickle.dumps(result) if rank == 0 else b""
        except Exception as error:
            raise LearnerError(f"what `f` returns must be something that pickle takes: {error}.") from error
        (folder / f"{rank}.done").write_bytes(message)
    except BaseException as error:
        status = 1
        (folder / f"{rank}.error").write_bytes(_packed(error))
    finally:
        leave()
        _flush()
        os._exit(status)  # nothing of the parent, as its exit handlers, is this process's to do


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _packed(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
        return pickle.dumps((error, text))
    except Exception:  # one that holds what cannot be sent, or wants other arguments
        return pickle.dumps((LearnerError(f"{type(error).__name__}: {error}"), text))


def _wait(processes: list[Any]) -> None:
    """Wait for all; when one has failed, not for long."""
    deadline = None
    while alive := [process for process in processes if process.is_alive()]:
        if deadline is None and any(process.exitcode not in (None, 0) for process in processes):
            deadline = time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            return
        alive[0].join(0.05)


def _result(statuses: list[int | None], folder: Path) -> Any:
    errors = {rank: folder / f"{rank}.error" for rank in range(len(statuses))}
    there = sorted((file.stat().st_mtime_ns, rank) for rank, file in errors.items() if file.exists())
    # Whose own it is comes first: others fail when they are told, or when that process is gone.
    failed = [(rank, *pickle.loads(errors[rank].read_bytes())) for _, rank in there]
    failed.sort(key=lambda one: isinstance(one[1], OtherProcessError))
    if failed:
        rank, error, text = failed[0]
        error.add_note(f"in process {rank} of {len(statuses)}:\n{text}")
        raise error
    for rank, status in enumerate(statuses):
        if status != 0:
            raise LearnerError(f"process {rank} of {len(statuses)} has ended without a result, with status {status}.")
    return pickle.loads((folder / "0.done").read_bytes())
