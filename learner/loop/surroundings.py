"""What around a fit would spoil it: a block of autocast, a fit in another thread."""

from __future__ import annotations

import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from learner.errors import LearnerError
from learner.loop.types import Learner

_fits: Counter[int] = Counter()  # by thread
_lock = threading.Lock()


def refuse_autocast() -> None:
    """Refuse a fit inside a block of autocast, which keeps the weights that it has cast until the block ends.

    Raises:
        LearnerError: if there is one that does so.
    """
    devices = {"cpu"}
    if torch.accelerator.is_available():
        devices.add(torch.accelerator.current_accelerator().type)  # type: ignore[union-attr]  # there is one
    if torch.is_autocast_cache_enabled() and any(map(torch.is_autocast_enabled, devices)):
        raise LearnerError(
            "`fit` must not be called inside `torch.autocast`, which keeps the weights it has cast until its block "
            "ends, so that no batch would see what was trained; enter it for each batch, in a callback: "
            "`def around_predict(self, learn, action): with torch.autocast(...): action()`, `around_get_loss` alike."
        )


@contextmanager
def alone_in_its_thread() -> Iterator[None]:
    """Say that fits in several threads disturb each other's random numbers."""
    me = threading.get_ident()
    with _lock:
        if any(thread != me for thread in _fits):
            warnings.warn(
                "another fit runs in another thread, and all threads share the random generators of Python, NumPy and "
                "torch: a validation in one rewinds them under the other, so its random numbers come again. Run fits "
                "in processes of their own (`multiprocessing`, joblib's 'loky', Optuna with `n_jobs=1`).",
                RuntimeWarning,
                stacklevel=4,
            )
        _fits[me] += 1
    try:
        yield
    finally:
        with _lock:
            _fits[me] -= 1
            if not _fits[me]:
                del _fits[me]


def warn_of_processes(learn: Learner) -> None:
    """Say what goes wrong where a model that exchanges gradients by itself is trained without the other processes."""
    distributed = sys.modules.get("torch.distributed")
    if learn.job.world > 1 or distributed is None or not distributed.is_available():
        return
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    wrapper = type(learn.model).__name__
    is_sharded = any(type(p).__name__ == "DTensor" for p in learn.model.parameters())
    if wrapper in ("DistributedDataParallel", "FullyShardedDataParallel") or is_sharded:
        warnings.warn(
            f"a model that is spread over processes by hand ({'sharded' if is_sharded else wrapper}) is trained by a "
            f"learner that does not know of the others: metrics, history and the best epoch are those of each process "
            f"alone, each of them writes all files, an accumulated step weighs shares wrongly, and one that stops "
            f"leaves the others waiting. Pass the plain model, and add a DistributedCallback or a ShardCallback.",
            RuntimeWarning,
            stacklevel=4,
        )
