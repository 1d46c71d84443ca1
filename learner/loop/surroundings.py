"""What around a fit would spoil it: a block of autocast, a fit in another thread."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from learner.errors import LearnerError

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
