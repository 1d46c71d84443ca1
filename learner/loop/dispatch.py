"""Who is called for each signal and action, and in what order: resolved once, when the callbacks change."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from learner.callback import SIGNALS
from learner.errors import (
    ERROR,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    severity,
)
from learner.loop.callbacks import is_first_alone, method_of, sort_callbacks
from learner.loop.diagnose import annotate
from learner.loop.foreign import no_data_in_action
from learner.loop.frequency import Gate, Guard
from learner.loop.naming import ACTIONS, AROUND, HANDLERS, STAGES
from learner.loop.ownership import check_owned, owned_state, set_too_early
from learner.loop.types import Handler, Learner
from learner.ranks.job import ALONE, Job

_CANCEL_OF = {"batch": CancelBatchException, "epoch": CancelEpochException, "fit": CancelFitException}


class Led:
    """A handler that only the first of several processes calls; what it does must not need the others."""

    __slots__ = ("job", "method")

    def __init__(self, method: Handler, job: Job) -> None:
        self.method, self.job = method, job

    def __call__(self, learn: Learner) -> None:
        """Hear a signal."""
        with self.job.leading():
            self.method(learn)


class Dispatch:
    """Who is called for each signal and action: resolved once, read at every batch.

    Args:
        cbs: callbacks in any order.
        extra_signals: what a subclass of Learner has besides.
        former: what this one takes the place of; who stays goes on counting.

    Attributes:
        cbs: the callbacks in running order, those of other processes as well.
        job: the processes that train together, as one of the callbacks has them.
        gates: by the `id` of a callback that is not always called, what decides when it is.
        listeners: for each signal a tuple of bound methods in the order in which they are called.
        turns: for each stage its `before_` and `cleanup_` methods side by side, callback by callback.
        actions: for an action that is taken over, its owner or None, and its wrappers, the outermost first.
    """

    def __init__(self, cbs: Iterable[Any], extra_signals: Iterable[str] = (), former: Dispatch | None = None) -> None:
        self.cbs = sort_callbacks(cbs)
        self.job = job_of(self.cbs)
        here = [cb for cb in self.cbs if self.job.is_first or not is_first_alone(cb)]
        self._here = here
        self.gates = {id(cb): gate for cb in self.cbs if not (gate := Gate(cb)).is_always_open}
        for key, gate in former.gates.items() if former else ():
            if gate.means_the_same(self.gates.get(key)):
                self.gates[key] = gate
        signals = dict.fromkeys((*SIGNALS, *extra_signals))
        for cb in self.cbs:
            for name in HANDLERS.keys() - signals.keys() - set(ACTIONS) - set(AROUND):
                if method_of(cb, name):
                    raise ValueError(
                        f"`{type(cb).__name__}.{name}` must be a signal of this learner, which has none of "
                        f"that name; declare it in the `signals` of its class."
                    )
        self.listeners: dict[str, tuple[Handler, ...]] = {
            signal: tuple(self._in_order(signal, reverse=signal.startswith("cleanup_"))) for signal in signals
        }
        self.turns: dict[str, tuple[tuple[Handler | None, Handler | None], ...]] = {}
        for stage in STAGES:
            pairs = [(self._handler(cb, f"before_{stage}"), self._handler(cb, f"cleanup_{stage}")) for cb in here]
            self.turns[stage] = tuple(pair for pair in pairs if any(pair))
        self.actions: dict[str, tuple[Any, list[Any]]] = {}
        for action in ACTIONS:
            owner = self._owner_of(action)
            wrappers = [cb for cb in here if method_of(cb, f"around_{action}")]
            if owner is not None or wrappers:
                self.actions[action] = (owner, wrappers)

    def renewed(self, cbs: Iterable[Any], extra_signals: Iterable[str]) -> Dispatch:
        """Return what takes the place of this one when the callbacks change."""
        return Dispatch(cbs, extra_signals, self)

    def bare(self) -> Dispatch:
        """Return one that puts nothing around what it calls: this one."""
        return self

    def prepared(self, function: Callable[..., Any], owner: Any, at: str) -> Callable[..., Any]:
        """Return what to call for a function: here itself; a dispatch that watches puts something around it.

        Args:
            function: a handler, a wrapper or an action.
            owner: the callback, or the learner, that it belongs to.
            at: the signal or action, or `around_` and the action.
        """
        return function

    def batches_of(self, learn: Learner) -> Iterable[Any]:
        """Return what the batches of a pass are taken from."""
        return learn.dl  # type: ignore[no-any-return]

    def _owner_of(self, action: str) -> Any:
        """Return the callback that has an action, or None if it is the learner's own."""
        owners = [cb for cb in self.cbs if method_of(cb, action)]
        if len(owners) > 1:
            names = " and ".join(type(cb).__name__ for cb in owners)
            raise ValueError(
                f"`{action}` must have one owner, got {names}; take one out, or let it wrap the other "
                f"with `around_{action}(self, learn, action)`."
            )
        if owners and (id(owners[0]) in self.gates or is_first_alone(owners[0])):
            raise ValueError(
                f"`{type(owners[0]).__name__}` must not set `every`, `loaders` or `ranks`, for it owns `{action}`, "
                f"which each batch needs; let it wrap the action with `around_{action}(self, learn, action)`."
            )
        return owners[0] if owners else None

    def _in_order(self, signal: str, *, reverse: bool) -> Iterator[Handler]:
        for cb in reversed(self._here) if reverse else self._here:
            if handler := self._handler(cb, signal):
                yield handler

    def _handler(self, cb: Any, signal: str) -> Handler | None:
        """Return what to call for a signal: a method, guarded where the callback asked for it."""
        method, gate = method_of(cb, signal), self.gates.get(id(cb))
        if method is None:
            return None
        if self.job.world > 1 and is_first_alone(cb):
            method = Led(method, self.job)
        method = self.prepared(method, cb, signal)
        if gate is None or signal.endswith("_fit") or signal not in SIGNALS:
            return method
        return gate.guard(method, is_of_epoch=signal.endswith("_epoch"))

    def enter(self, learn: Learner, stage: str, owed: list[Handler]) -> None:
        """Emit `before_<stage>`; put down in `owed` the clean-up of each callback whose turn came and did not fail."""
        is_batch = stage == "batch"
        for before, cleanup in self.turns[stage]:
            try:
                if before and is_batch:
                    before(learn)
                    if learn.xb is not None or learn.yb is not None:
                        raise set_too_early(learn, self.name_of(before, "before_batch"))
                elif before:
                    owned = owned_state(learn)
                    before(learn)
                    check_owned(learn, owned, self.name_of(before, f"before_{stage}"))
            except CancelException:  # a decision, not a failure
                if cleanup:
                    owed.append(cleanup)
                raise
            except BaseException as error:
                annotate(error, learn, self.name_of(before, f"before_{stage}"))  # type: ignore[arg-type]
                raise
            if cleanup:
                owed.append(cleanup)

    def leave(self, learn: Learner, stage: str, owed: list[Handler], reason: BaseException | None = None) -> None:
        """Emit `cleanup_<stage>` to those it is owed to, last first, whatever happens on the way.

        A failing clean-up never hides the error that ended the stage, it becomes a note on it. Where none did, or
        only a Cancel, the first failure is raised when all clean-ups have run; of Cancels, the one that ends more.
        """
        worst, outer, learn.ended_by = reason, learn.ended_by, reason
        # Not later: a clean-up that writes the last checkpoint has to see it.
        if learn._pending.interrupt is not None and learn._pending.is_agreed:
            learn.interrupt = learn._pending.interrupt
        while owed:
            cleanup = owed.pop()
            try:
                cleanup(learn)
            except BaseException as failure:
                if not isinstance(failure, CancelException):
                    annotate(failure, learn, self.name_of(cleanup, f"cleanup_{stage}"))
                if severity(failure) > severity(worst):
                    worst = failure
                elif worst is not None and severity(failure) == ERROR:
                    worst.add_note(f"and in cleanup_{stage}: {type(failure).__name__}: {failure}")
        learn.ended_by = outer
        if worst is not reason and worst is not None and not isinstance(worst, _CANCEL_OF[stage]):
            raise worst

    def bound_actions(self, learn: Learner) -> dict[str, Callable[[], None]]:
        """Return for each action that is taken over what the learner calls in its place: the owner, in its wrappers."""
        bound = {}
        for action, (owner, wrappers) in self.actions.items():
            by_hand = learn._by_hand.get(action)
            if owner is not None and by_hand is not None:
                raise ValueError(
                    f"`{action}` must have one owner, got {type(owner).__name__} and what was set as "
                    f"`learn.{action} = ...`; take one out."
                )
            if by_hand is not None:
                act = self.prepared(by_hand, learn, action)
            else:
                who = learn if owner is None else owner
                method = getattr(type(learn), action) if owner is None else getattr(owner, action)
                act = _named(learn, action, f"{type(who).__name__}.{action}", self.prepared(method, who, action))
            for cb in reversed(wrappers):
                act = _named(learn, action, f"{type(cb).__name__}.around_{action}", self.wrapper(cb, action), act)
            bound[action] = act
        return bound

    def wrapper(self, cb: Any, action: str) -> Callable[[Learner, Callable[[], object]], object]:
        """Return what to call around an action, with the learner and the action."""
        name = f"around_{action}"
        method: Any = self.prepared(getattr(cb, name), cb, name)
        guarded = self.gates[id(cb)].guard(method) if id(cb) in self.gates else method
        return guarded.around if isinstance(guarded, Guard) else guarded

    def restart(self, n_steps: int) -> None:
        """Let each callback that is called every so often count from here; `n_steps` optimizer steps were made."""
        for gate in self.gates.values():
            gate.pace.restart(n_steps)

    def check_loaders(self, names: Iterable[str]) -> None:
        """Refuse a callback that asks for a loader that is none of these."""
        for gate in self.gates.values():
            gate.check_loaders(names)

    def state_dict(self) -> list[dict[str, float]]:
        """Return how far each callback that counts is, so that a sandbox can put it back."""
        return [gate.pace.state_dict() for gate in self.gates.values()]

    def load_state_dict(self, state: list[dict[str, float]]) -> None:
        """Count on from a state."""
        for gate, its in zip(self.gates.values(), state, strict=True):
            gate.pace.load_state_dict(its)

    def name_of(self, handler: Handler, signal: str) -> str:
        """Return `Class.signal` of a handler, for an error's note."""
        method = handler.method if isinstance(handler, Guard) else handler
        method = method.method if isinstance(method, Led) else method
        owners = [type(cb).__name__ for cb in self.cbs if method_of(cb, signal) == method]
        return f"{owners[0] if owners else repr(method)}.{signal}"


def job_of(cbs: Iterable[Any]) -> Job:
    """Return the processes that train together, as a callback has them in its `job`; else the one that trains alone.

    Raises:
        ValueError: if there are two of that kind.
    """
    jobs = [(type(cb).__name__, cb.job) for cb in cbs if isinstance(getattr(cb, "job", None), Job)]
    if any(job is not jobs[0][1] for _, job in jobs):  # one of yours may hold that of another
        names = " and ".join(name for name, _ in jobs)
        raise ValueError(f"`cbs` must hold one callback that knows the processes of a job, got {names}; take one out.")
    return jobs[0][1] if jobs else ALONE


def bind_actions(learn: Learner) -> None:
    """Put in place what callbacks take over of the actions, around what a person has set as `learn.step = f`."""
    for action in ACTIONS:
        now = vars(learn).get(action)
        if now is None:
            learn._by_hand.pop(action, None)
        elif now is not learn._bound.get(action):
            learn._by_hand[action] = now
    bound = learn._dispatch.bound_actions(learn)
    for action in learn._bound:
        vars(learn).pop(action, None)
    learn._bound = bound
    vars(learn).update({**learn._by_hand, **bound})


def unbound_state(learn: Learner) -> dict[str, Any]:
    """Return what a learner holds without what `bind_actions` puts in place, to be pickled or copied."""
    return {
        **{name: value for name, value in vars(learn).items() if name not in learn._bound},
        **learn._by_hand,
        "_dispatch": learn._dispatch.bare(),
        "_bound": {},
    }


def _named(
    learn: Learner, action: str, place: str, function: Callable[..., object], *args: Callable[[], None]
) -> Callable[[], None]:
    """Return a function that calls another with the learner, and says whose that is when it fails.

    The learner holds it as an attribute, so it must not hold the learner: a cycle would keep the weights in memory.
    """
    ref = weakref.ref(learn)

    def act(*data: Any) -> None:
        if data:
            raise no_data_in_action(action, data)
        try:
            function(ref(), *args)
        except CancelException:
            raise
        except BaseException as error:
            annotate(error, ref(), place)  # type: ignore[arg-type]  # it is there: it has called this
            raise

    return act
