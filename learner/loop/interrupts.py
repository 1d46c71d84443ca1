"""Ctrl-C and SIGTERM wait for the batch to be done, so that no step is left half made."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from learner.loop.diagnose import annotate
from learner.loop.tell import tell
from learner.loop.types import Learner

# What each is by default; a program that handles one of them otherwise has its own plans, and keeps them.
_DEFAULTS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_TERMINATED = 128 + signal.SIGTERM  # exit status, as shells count
_CHILD_ENDED: int | None = getattr(signal, "SIGCHLD", None)  # not on Windows


class Pending:
    """A signal that has come and waits: whatever is put back meanwhile, as by a sandbox, it is not undone."""

    interrupt: BaseException | None = None
    is_agreed = True  # whether all processes of the training stop for it, after the same batch

    def agree(self) -> None:
        """Stop when this batch is done, as all processes do, whichever of them has got the signal."""
        self.is_agreed = True
        if self.interrupt is None:
            self.interrupt = SystemExit(_TERMINATED)


@contextmanager
def deferred_interrupts(learn: Learner) -> Iterator[None]:
    """Put a first Ctrl-C or SIGTERM down in `learn._pending`, for the loop to raise; obey a second one at once.

    What comes when there is no batch any more is raised at the end of the block, and so is what comes before something
    fails between two batches, as a loader whose workers were stopped as well; that error is then its cause. The
    handlers that were there are put back however the block ends. In another thread than the main one, which hears no
    signals, nothing is changed.
    """
    learn.job.begin_fit(learn._pending)
    former: dict[int, Any] = {}
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:  # Python asks for its repr, which must be a short one
        _handle(learn, process, former, number)

    if threading.current_thread() is threading.main_thread():
        former.update((number, default) for number, default in _DEFAULTS.items() if signal.getsignal(number) is default)
    try:
        for number in list(former):
            signal.signal(number, handle)
        yield
    except Exception as error:
        interrupt = learn._pending.interrupt
        if interrupt is None or learn.is_in_batch:
            raise
        annotate(interrupt, learn, "an interrupt, between two batches")
        raise interrupt from error
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) in (handle, _ignore):  # else somebody has set another one meanwhile
                signal.signal(number, handler)
        interrupt, learn._pending.interrupt, learn.interrupt = learn._pending.interrupt, None, None
        learn._pending.is_agreed = True
    if interrupt is not None:
        annotate(interrupt, learn, "an interrupt, when the last batch was done")
        raise interrupt


def _handle(learn: Learner, process: int, former: dict[int, Any], number: int) -> None:
    if os.getpid() != process:  # a worker of a loader, made by a fork: it goes when its parent does
        if number == signal.SIGTERM:
            os._exit(_TERMINATED)
        return
    interrupt = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(_TERMINATED)
    if learn._pending.interrupt is not None:
        raise interrupt
    learn._pending.interrupt = interrupt
    if _CHILD_ENDED is not None and (learn.is_in_batch or learn.is_side_pass):
        # A signal to all processes of a job ends the workers too. Torch would raise that here and now, in the batch.
        former[_CHILD_ENDED] = signal.signal(_CHILD_ENDED, _ignore)
    with suppress(Exception):  # the terminal may be gone, or something else is just being written to it
        tell(f"{signal.Signals(number).name}: stops after this batch; once more to stop at once.", to="stderr")


def _ignore(number: int, frame: FrameType | None) -> None:
    """Nothing; unlike `SIG_IGN`, it leaves it to the parent to ask how a child has ended."""


def stop_if_interrupted(learn: Learner) -> None:
    """Raise what was put down, when a batch of the fit's own is done.

    Not within a pass within a pass: what is around it has to be whole as well.
    """
    if learn.interrupt is not None and not learn.is_side_pass:
        annotate(learn.interrupt, learn, f"an interrupt, after batch {learn.i}")
        raise learn.interrupt
