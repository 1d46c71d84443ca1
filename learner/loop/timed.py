"""Time who is called, while a person asks for it: what stands behind `Learner.timed`.

A `TimedDispatch` takes the place of the learner's `Dispatch` for a block of code and hands out each handler and action
with a stopwatch around it. Without it nothing of this is there, and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

from learner.errors import LearnerError
from learner.loop.checks import refuse_while_running
from learner.loop.dispatch import Dispatch, bind_actions
from learner.loop.frequency import Guard
from learner.loop.naming import ACTIONS
from learner.loop.timings import Entry, Timings
from learner.loop.types import Handler, Learner

_ABSENT = object()
# Passes within a handler have callbacks of their own for a while, and leave an equal tuple.
_UNWATCHED = frozenset({"cbs"})


class Stopwatch:
    """Book each moment on the row of what runs then, and what it replaces in a learner's state.

    Args:
        state: the attributes of a learner, `vars(learn)`.

    Example:
        >>> watch = Stopwatch(state := {"batch": 1})
        >>> former = watch.switch(watch.timings.entry("Mix", "before_batch", "callback"))
        >>> state["batch"] = 2
        >>> watch.timings.entry("Mix", "before_batch", "callback") is watch.switch(former)
        True
        >>> list(watch.timings.entry("Mix", "before_batch", "callback").replaced)
        ['batch']
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.timings = Timings()
        self.loop = self.timings.entry("Learner", "the loop itself", "loop")
        self.running: Entry | None = None
        self._state, self._seen = state, dict[str, Any]()
        self._since = 0

    @property
    def is_in_handler(self) -> bool:
        """Whether what runs now is a handler, of which all that it calls is a part."""
        return self.running is not None and self.running.is_whole

    def switch(self, entry: Entry | None) -> Entry | None:
        """Stop the time of what was running, and start that of another row, or none; return what was running.

        The clock stands still while attributes are compared, so that this is in no row.
        """
        now = perf_counter_ns()
        former = self.running
        if former is not None:
            former.ns += now - self._since
            if former is not self.loop:
                seen = self._seen
                for name, value in self._state.items():
                    if value is not seen.get(name, _ABSENT) and name not in _UNWATCHED:
                        former.replaced[name] = None
        self.running = entry
        self._seen = dict(self._state)
        self._since = perf_counter_ns()
        return former


class Timed:
    """A handler, wrapper or action with a stopwatch around it."""

    __slots__ = ("entry", "function", "watch")

    def __init__(self, function: Callable[..., Any], watch: Stopwatch, entry: Entry) -> None:
        self.function, self.watch, self.entry = function, watch, entry

    def __call__(self, *args: Any) -> Any:
        """Call it, on its own time."""
        watch = self.watch
        if watch.is_in_handler:
            return self.function(*args)
        former = watch.switch(self.entry)
        self.entry.calls += 1
        try:
            return self.function(*args)
        finally:
            watch.switch(former)


class TimedBatches:
    """The batches of a loader, with a stopwatch around the wait for each, and for the first workers."""

    def __init__(self, loader: Any, watch: Stopwatch, entry: Entry) -> None:
        self._watch, self._entry = watch, entry
        former = watch.switch(entry)
        try:
            self._batches = iter(loader)
        finally:
            watch.switch(former)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        watch = self._watch
        former = watch.switch(self._entry)
        try:
            batch = next(self._batches)
            self._entry.calls += 1
            watch.timings.n_batches += 1
            return batch
        finally:
            watch.switch(former)


class TimedDispatch(Dispatch):
    """A `Dispatch` that times whom it calls.

    Args:
        watch: what to time with.
        cbs, extra_signals, former: as for `Dispatch`.
    """

    def __init__(self, watch: Stopwatch, cbs: Iterable[Any], extra_signals: Iterable[str], former: Dispatch) -> None:
        self.watch = watch
        super().__init__(cbs, extra_signals, former)
        for action in ACTIONS:  # those of the learner itself as well
            self.actions.setdefault(action, (None, []))

    def renewed(self, cbs: Iterable[Any], extra_signals: Iterable[str]) -> Dispatch:
        """Go on timing when callbacks come and go."""
        return TimedDispatch(self.watch, cbs, extra_signals, self)

    def bare(self) -> Dispatch:
        """Return one that does not time: for when the block ends, and for copies of the learner."""
        return Dispatch(self.cbs, self.listeners, self)

    def prepared(self, function: Callable[..., Any], owner: Any, at: str) -> Callable[..., Any]:
        """Return a function with a stopwatch around it."""
        is_action = at in ACTIONS
        is_whole = not is_action and not at.startswith("around_")
        entry = self.watch.timings.entry(self._label(owner), at, "action" if is_action else "callback", is_whole)
        return Timed(function, self.watch, entry)

    def batches_of(self, learn: Learner) -> Iterable[Any]:
        """Return the batches of the pass, with a stopwatch around the wait for each."""
        if self.watch.is_in_handler:
            return super().batches_of(learn)
        entry = self.watch.timings.entry(f"loader {learn.dl_name!r}", "next batch", "loader")
        return TimedBatches(learn.dl, self.watch, entry)

    def enter(self, learn: Learner, stage: str, owed: list[Handler]) -> None:
        """Start the time of the loop where it begins."""
        if _is_outermost(learn, stage):
            self.watch.loop.calls += 1
            self.watch.switch(self.watch.loop)
        super().enter(learn, stage, owed)

    def leave(self, learn: Learner, stage: str, owed: list[Handler], reason: BaseException | None = None) -> None:
        """Stop the time where the loop ends: what else a block of code does is none of its business."""
        try:
            super().leave(learn, stage, owed, reason)
        finally:
            if _is_outermost(learn, stage):
                self.watch.switch(None)

    def name_of(self, handler: Handler, signal: str) -> str:
        """Return `Class.signal` of the handler that a stopwatch is around."""
        method = handler.method if isinstance(handler, Guard) else handler
        return super().name_of(method.function if isinstance(method, Timed) else method, signal)

    def _label(self, owner: Any) -> str:
        """Return the name of a callback's class, with a number where there are several; or the learner's."""
        alike = [cb for cb in self.cbs if type(cb) is type(owner)]
        numbers = [i for i, cb in enumerate(alike, start=1) if cb is owner and len(alike) > 1]
        return " ".join([type(owner).__name__, *map(str, numbers)])


def _is_outermost(learn: Learner, stage: str) -> bool:
    """Tell whether a stage is a fit, or a pass outside of one."""
    return stage == "fit" or (stage == "epoch" and not learn._is_fitting and learn._n_passes == 1)


@contextmanager
def timed(learn: Learner) -> Iterator[Timings]:
    """Time a block of code: what each callback costs at each signal, and which attributes it replaces here.

    It answers which callback makes training slow, and who changed the batch. The actions and the wait for the
    next batch are rows as well, and so is the loop itself; they add up to the whole. A wrapper (`around_predict`)
    is net of what it wraps; a pass that a handler runs, as `ValidateCallback` does, is a part of that handler. It
    is time of the host: see `Timings` for what that means beside an accelerator. Without it nothing is paid.

    Raises:
        LearnerError: within another `timed`, or while this learner runs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from learner import Learner
        >>> data = [(torch.ones(2, 1), torch.ones(2, 1))]
        >>> learn = Learner(nn.Linear(1, 1), {"train": data}, nn.functional.mse_loss)
        >>> with learn.timed() as timings:
        ...     learn.fit(2)
        >>> [row.replaced for row in timings.rows if row.at == "predict"]
        [('output', 'preds')]
        >>> timings
        2 batches, ... µs each: actions ...%, waiting for the loader ...%, callbacks 0%, the loop itself ...%
        who             at  ...µs a batch  share  calls  replaced
        ...
    """
    refuse_while_running(learn, "timed")
    if isinstance(learn._dispatch, TimedDispatch):
        raise LearnerError("`timed` must not be called within another `timed`; take the timings of the one around it.")
    watch = Stopwatch(vars(learn))
    try:
        learn._dispatch = TimedDispatch(watch, learn.cbs, learn.signals, learn._dispatch)
        bind_actions(learn)
        yield watch.timings
    finally:
        learn._dispatch = learn._dispatch.bare()
        bind_actions(learn)
        watch.timings.device = next((p.device.type for p in learn.model.parameters()), "cpu")
