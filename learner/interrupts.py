"""Ctrl-C and SIGTERM wait for the batch to be done, so that no step is left half made."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from learner.diagnose import annotate

if TYPE_CHECKING:
    from learner.learner import Learner

# What each is by default; a program that handles one of them otherwise has its own plans, and keeps them.
_DEFAULTS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_TERMINATED = 128 + signal.SIGTERM  # exit status, as shells count


@contextmanager
def deferred_interrupts(learn: Learner) -> Iterator[None]:
    """Put a first Ctrl-C or SIGTERM down in `learn.interrupt`, for the loop to raise; obey a second one at once.

    What comes when there is no batch any more is raised at the end of the block. The handlers that were there are put
    back however the block ends. In another thread than the main one, which hears no signals, nothing is changed.
    """
    handle = partial(_handle, learn, os.getpid())
    learn.interrupt = None
    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        former = {number: default for number, default in _DEFAULTS.items() if signal.getsignal(number) is default}
    try:
        for number in former:
            signal.signal(number, handle)
        yield
        _raise_interrupt(learn)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        learn.interrupt = None


def _handle(learn: Learner, process: int, number: int, frame: FrameType | None) -> None:
    if os.getpid() != process:  # a worker of a loader, made by a fork: it goes when its parent does
        if number == signal.SIGTERM:
            os._exit(_TERMINATED)
        return
    interrupt = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(_TERMINATED)
    if learn.interrupt is not None:
        raise interrupt
    learn.interrupt = interrupt
    with suppress(RuntimeError, ValueError):  # while something else is being written, or to a closed file
        sys.stderr.write(f"{signal.Signals(number).name}: stops after this batch; once more to stop at once.\n")


def _raise_interrupt(learn: Learner) -> None:
    if learn.interrupt is not None:
        raise learn.interrupt


def stop_if_interrupted(learn: Learner) -> None:
    """Raise what was put down, when a batch of the fit's own is done.

    Not within a pass within a pass: what is around it has to be whole as well.
    """
    if learn.interrupt is not None and not learn.is_side_pass:
        annotate(learn.interrupt, learn, f"an interrupt, after batch {learn.i}")
        _raise_interrupt(learn)
