"""Callbacks: the table of signals, who listens to which, and in what order.

`Callback` below *is* the table: one documented, empty method for each signal, in firing order.
`Dispatch` turns a list of callbacks into tuples of bound methods, once, when the list changes.
"""

from __future__ import annotations

import difflib
import heapq
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any

from learner.frequency import Gate, Guard

if TYPE_CHECKING:
    from learner.learner import Learner

Handler = Callable[["Learner"], object]

_OPTIONS = ("order", "after", "before", "every", "loaders", "state")
STAGES = ("fit", "epoch", "batch")
ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")


class Callback:
    """Base of callbacks: override what you want to hear, each method takes the learner.

    A callback may also *own* an action, by a method named `predict`, `get_loss`, `backward`, `step` or
    `zero_grad` that takes the learner, or *wrap* one: `def around_predict(self, learn, action)`, which calls
    `action()` inside whatever it needs. A plain class with methods of these names works as well.

    Attributes:
        order: smaller runs earlier; ties run in list order. The library keeps to: -100 sets the run up (seed,
            device), -50 changes training (accumulate, clip), -10 measures (metrics), 0 yours, 50 acts on what
            was measured (schedules, stopping), 100 shows and writes.
        after: classes of callbacks that this one runs after, whatever the numbers.
        before: classes of callbacks that this one runs before.
        every: how often it is called: a number of batches, or "10 batches", "2 epochs", "30 s", "10 min", "1 h".
        state: attributes that checkpoints and `Learner.save` hold, each plain data or an object with `state_dict` and
            `load_state_dict`; in their place a callback may have these two methods itself. They are put back after
            `before_fit` and, in the middle of a pass, once more after `before_epoch`, where `learn.i` then says with
            which batch the pass goes on. A method `differences(state)` may say, in a few words each, what of a saved
            state does not fit, before anything is put back. Of callbacks of order 100 and more, which only show and
            write, a fit that goes on may have others.
        loaders: the passes that it is called in, by the names of their loaders: "valid", "valid*", ("train", "valid2").

    `every` and `loaders` mean the same for each callback. Signals of a fit always come. `loaders` leaves out all
    other signals, and the wrapping of actions, in passes over other loaders. `every` in batches leaves out signals and
    wrapping for all but the n-th, 2n-th, … batch that this callback would hear, counted over passes and epochs from the
    beginning of the fit; in seconds, for all but the first one after so long. Signals of a pass come as ever. In epochs
    it leaves out all of a round but those of rounds n - 1, 2n - 1, … (from 0). What is left out costs a call or two,
    and a callback that sets neither pays nothing. They are read when callbacks are added and when a fit begins. A pass
    outside of a fit counts on its own and belongs to no round. Who owns an action cannot be away: that is an error.

    Raises:
        ValueError: when the class is made, if a public method is nearly a signal but none.
        TypeError: when the class is made, if a handler cannot be called with the learner alone.

    Example:
        >>> class Count(Callback):
        ...     def before_fit(self, learn): self.n = 0
        ...     def after_batch(self, learn): self.n += 1
        >>> class Peek(Callback):
        ...     every, loaders = 10, "train*"
        ...     def after_loss(self, learn): print(learn.loss)
        >>> class Typo(Callback):
        ...     def befor_batch(self, learn): ...
        Traceback (most recent call last):
        ValueError: `Typo.befor_batch` must be named like a signal, ... did you mean `before_batch`?...
    """

    order: float = 0
    after: tuple[type, ...] = ()
    before: tuple[type, ...] = ()
    state: tuple[str, ...] = ()
    every: int | str | None = None
    loaders: str | tuple[str, ...] | None = None

    def before_fit(self, learn: Learner) -> None:
        """Come first in a fit: the model, the optimizer and `learn.epochs` are there."""

    def before_epoch(self, learn: Learner) -> None:
        """Come before a pass over one loader; `learn.dl` may be replaced here."""

    def before_batch(self, learn: Learner) -> None:
        """Come before a batch; `learn.batch` may be replaced, `xb` and `yb` are taken from it next."""

    def after_predict(self, learn: Learner) -> None:
        """Come when `learn.preds` is there."""

    def after_loss(self, learn: Learner) -> None:
        """Come when `learn.loss` is there; not for `infer` loaders."""

    def after_backward(self, learn: Learner) -> None:
        """Come when the gradients are there; training only, like the next one."""

    def after_step(self, learn: Learner) -> None:
        """Come when the optimizer has made its step, before the gradients are cleared."""

    def after_batch(self, learn: Learner) -> None:
        """Come when a batch went well."""

    def cleanup_batch(self, learn: Learner) -> None:
        """Come last in a batch however it ended, in reverse order."""

    def after_epoch(self, learn: Learner) -> None:
        """Come when a pass went well; `learn.metrics[learn.dl_name]` is there."""

    def cleanup_epoch(self, learn: Learner) -> None:
        """Come last in a pass however it ended, in reverse order."""

    def after_fit(self, learn: Learner) -> None:
        """Come when the fit went well."""

    def cleanup_fit(self, learn: Learner) -> None:
        """Come last in a fit however it ended, in reverse order."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse misspelt signals and handlers of the wrong shape as soon as the class exists."""
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if inspect.isfunction(value):
                check_handler(cls.__name__, name, value.__get__(object()))
            elif not name.startswith("_") and name not in _OPTIONS:
                for option in difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.85):
                    raise ValueError(f"`{cls.__name__}.{name}` must be named otherwise, or did you mean `{option}`?")


SIGNALS = tuple(name for name, value in vars(Callback).items() if not name.startswith("_") and callable(value))
AROUND = tuple(f"around_{action}" for action in ACTIONS)
HANDLERS = dict.fromkeys((*SIGNALS, *ACTIONS, *AROUND))  # and the signals that Learner subclasses declare


def declare_signals(owner: str, names: Iterable[str]) -> None:
    """Make the signals of a `Learner` subclass known, so that callbacks may listen to them.

    Raises:
        TypeError: if `names` is a string or holds something that is no identifier.
    """
    if isinstance(names, str) or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise TypeError(f"`{owner}.signals` must be a tuple of method names, got {names!r}.")
    HANDLERS.update(dict.fromkeys(names))


def check_handler(owner: str, name: str, method: Callable[..., Any]) -> None:
    """Refuse a method that looks like a signal and is none, or that the loop could not call."""
    if name.startswith("_"):
        return
    if name in HANDLERS:
        args = ("learn", "action") if name in AROUND else ("learn",)
        try:
            inspect.signature(method).bind(*args)
        except TypeError as error:
            raise TypeError(
                f"`{owner}.{name}` must take ({', '.join(args)}), got {name}{inspect.signature(method)}: {error}; "
                f"write `def {name}(self, {', '.join(args)})`."
            ) from None
        except ValueError:  # no signature to be had, of a builtin for instance
            return
    elif near := _nearest_signal(name):
        raise ValueError(
            f"`{owner}.{name}` must be named like a signal, and there is none of that name; did you mean "
            f"`{near}`? Start the name with an underscore if it is no handler, or declare it in the "
            f"`signals` of your Learner subclass."
        )


def _nearest_signal(name: str) -> str | None:
    """Return the signal that a name was probably meant to be, or None if it is a name of its own."""
    if name.startswith("on_") and name.endswith(("start", "begin", "end")):  # as other frameworks call theirs
        stage = next((stage for stage in ("batch", "epoch") if stage in name), "fit")
        return f"{'after' if name.endswith('end') else 'before'}_{stage}"
    begins_like_one = name.startswith(("before_", "after_", "cleanup_", "around_"))
    match: list[str] = difflib.get_close_matches(name.lower(), HANDLERS, n=1, cutoff=0.0 if begins_like_one else 0.85)
    if not match:
        return None
    # Verbs are everyday words: `steps` or `get_losses` may well be methods of somebody's own.
    is_verb = match[0] in ACTIONS
    if is_verb and difflib.SequenceMatcher(None, name, match[0]).ratio() < 0.9:
        return None
    return match[0]


def flattened(cbs: Any) -> list[Any]:
    """Return callbacks as one list, from None, a callback, or any nest of lists."""
    if cbs is None:
        return []
    if not isinstance(cbs, list | tuple):
        return [cbs]
    return [inner for cb in cbs for inner in (flattened(cb) if isinstance(cb, list | tuple) else [cb])]


def checked_callbacks(cbs: list[Any], known: Iterable[Any] = ()) -> list[Any]:
    """Return callbacks that are fit to be added, each once, or say what is wrong with one; `known` ones are fit."""
    fit = {id(cb) for cb in known}
    for i, cb in enumerate(cbs):
        if id(cb) not in fit:
            check_callback(cb)
        if any(cb is other for other in cbs[:i]):
            raise ValueError(f"`cbs` must hold a callback once, got the same {type(cb).__name__} twice; take one out.")
    return cbs


def check_callback(cb: Any) -> None:
    """Refuse what is no callback, each with the reason, before it is added.

    Raises:
        TypeError: for None, a class, an `order` that is no number, or a handler of the wrong shape.
        ValueError: for an `order` that is NaN, or a misspelt signal.
    """
    if cb is None or isinstance(cb, type | str | int | float):
        hint = f"pass {cb.__name__}(), not {cb.__name__}" if isinstance(cb, type) else "leave it out"
        raise TypeError(f"a callback must be an object with methods named like signals, got {cb!r}; {hint}.")
    _check_options(cb)
    owner = type(cb).__name__
    for name in dir(cb):
        if name.startswith("_") or isinstance(inspect.getattr_static(cb, name), property):
            continue
        value = getattr(cb, name)
        if name in HANDLERS and not callable(value):
            raise TypeError(f"`{owner}.{name}` must be a method, got {value!r}; the name belongs to a signal.")
        if callable(value) and not isinstance(value, type):
            check_handler(owner, name, value)
    if not isinstance(cb, Callback) and not any(_method(cb, name) for name in HANDLERS):
        raise TypeError(
            f"a callback must have a method named like a signal, such as `after_batch`, got a {owner} that has none."
        )


def _check_options(cb: Any) -> None:
    """Refuse an `order`, `after` or `before` that cannot be sorted by, and a `state` that names nothing."""
    owner, order = type(cb).__name__, getattr(cb, "order", 0)
    if not isinstance(order, Real | int) or isinstance(order, bool):
        raise TypeError(f"`{owner}.order` must be a number, got {order!r}; smaller runs earlier.")
    if math.isnan(order):
        raise ValueError(f"`{owner}.order` must be a number, got nan; smaller runs earlier.")
    for side in ("after", "before"):
        classes = getattr(cb, side, ())
        if not isinstance(classes, tuple | list) or not all(isinstance(c, type) for c in classes):
            raise TypeError(f"`{owner}.{side}` must be a tuple of callback classes, got {classes!r}.")
    state = getattr(cb, "state", ())
    if not isinstance(state, tuple | list) or not all(isinstance(name, str) for name in state):
        raise TypeError(f"`{owner}.state` must be a tuple of names of attributes, got {state!r}; do ('n_seen',).")


def sort_callbacks(cbs: Iterable[Any]) -> list[Any]:
    """Return callbacks in running order: by `order`, ties as listed, then what `after`/`before` ask for.

    Raises:
        ValueError: if `after`, `before` and the orders that were given contradict each other.
    """
    given = list(cbs)
    follows = _constraints(given)
    ready = [(getattr(cb, "order", 0), i) for i, cb in enumerate(given) if not follows[i]]
    heapq.heapify(ready)
    done: list[int] = []
    while ready:
        _, i = heapq.heappop(ready)
        done.append(i)
        for j, waits_for in enumerate(follows):
            if i in waits_for:
                waits_for.remove(i)
                if not waits_for:
                    heapq.heappush(ready, (getattr(given[j], "order", 0), j))
    if len(done) < len(given):
        names = ", ".join(type(given[i]).__name__ for i in range(len(given)) if i not in done)
        raise ValueError(f"`after` and `before` of {names} must not contradict each other; take one of them out.")
    return [given[i] for i in done]


def _constraints(given: list[Any]) -> list[set[int]]:
    """Return for each callback the positions of those that have to run before it, by `after` and `before`."""
    follows: list[set[int]] = [set() for _ in given]
    for (i, cb), (j, other) in itertools.permutations(enumerate(given), 2):
        if isinstance(other, tuple(getattr(cb, "after", ()))):
            _require_agreement(other, cb, says=cb)
            follows[i].add(j)
        if isinstance(other, tuple(getattr(cb, "before", ()))):
            _require_agreement(cb, other, says=cb)
            follows[j].add(i)
    return follows


def _require_agreement(first: Any, second: Any, says: Any) -> None:
    """Refuse `after`/`before` that says the opposite of the number its own class was given."""
    own, a, b = getattr(says, "order", 0), getattr(first, "order", 0), getattr(second, "order", 0)
    if own != 0 and a > b:
        raise ValueError(
            f"`{type(says).__name__}` must not contradict itself: its order {own} puts {type(second).__name__} before "
            f"{type(first).__name__}, its `after`/`before` says the opposite; drop one of the two."
        )


class Dispatch:
    """Who is called for each signal and action: resolved once, read at every batch.

    Args:
        cbs: callbacks in any order.
        extra_signals: what a subclass of Learner has besides.
        former: what this one takes the place of; who stays goes on counting.

    Attributes:
        cbs: the callbacks in running order.
        gates: by the `id` of a callback that is not always called, what decides when it is.
        listeners: for each signal a tuple of bound methods in the order in which they are called.
        turns: for each stage its `before_` and `cleanup_` methods side by side, callback by callback.
        actions: for an action that is taken over, its owner or None, and its wrappers, the outermost first.
    """

    def __init__(self, cbs: Iterable[Any], extra_signals: Iterable[str] = (), former: Dispatch | None = None) -> None:
        self.cbs = sort_callbacks(cbs)
        self.gates = {id(cb): gate for cb in self.cbs if not (gate := Gate(cb)).is_always_open}
        for key, gate in former.gates.items() if former else ():
            if gate.means_the_same(self.gates.get(key)):
                self.gates[key] = gate
        signals = dict.fromkeys((*SIGNALS, *extra_signals))
        for cb in self.cbs:
            for name in HANDLERS.keys() - signals.keys() - set(ACTIONS) - set(AROUND):
                if _method(cb, name):
                    raise ValueError(
                        f"`{type(cb).__name__}.{name}` must be a signal of this learner, which has none of "
                        f"that name; declare it in the `signals` of its class."
                    )
        self.listeners: dict[str, tuple[Handler, ...]] = {
            signal: tuple(self._in_order(signal, reverse=signal.startswith("cleanup_"))) for signal in signals
        }
        self.turns: dict[str, tuple[tuple[Handler | None, Handler | None], ...]] = {}
        for stage in STAGES:
            pairs = [(self._handler(cb, f"before_{stage}"), self._handler(cb, f"cleanup_{stage}")) for cb in self.cbs]
            self.turns[stage] = tuple(pair for pair in pairs if any(pair))
        self.actions: dict[str, tuple[Any, list[Any]]] = {}
        for action in ACTIONS:
            owner = self._owner_of(action)
            wrappers = [cb for cb in self.cbs if _method(cb, f"around_{action}")]
            if owner is not None or wrappers:
                self.actions[action] = (owner, wrappers)

    def _owner_of(self, action: str) -> Any:
        """Return the callback that has an action, or None if it is the learner's own."""
        owners = [cb for cb in self.cbs if _method(cb, action)]
        if len(owners) > 1:
            names = " and ".join(type(cb).__name__ for cb in owners)
            raise ValueError(
                f"`{action}` must have one owner, got {names}; take one out, or let it wrap the other "
                f"with `around_{action}(self, learn, action)`."
            )
        if owners and id(owners[0]) in self.gates:
            raise ValueError(
                f"`{type(owners[0]).__name__}` must not set `every` or `loaders`, for it owns `{action}`, which each "
                f"batch needs; let it wrap the action with `around_{action}(self, learn, action)`."
            )
        return owners[0] if owners else None

    def _in_order(self, signal: str, *, reverse: bool) -> Iterator[Handler]:
        for cb in reversed(self.cbs) if reverse else self.cbs:
            if handler := self._handler(cb, signal):
                yield handler

    def _handler(self, cb: Any, signal: str) -> Handler | None:
        """Return what to call for a signal: a method, guarded where the callback asked for it."""
        method, gate = _method(cb, signal), self.gates.get(id(cb))
        if method is None or gate is None or signal.endswith("_fit") or signal not in SIGNALS:
            return method
        return gate.guard(method, is_of_epoch=signal.endswith("_epoch"))

    def wrapper(self, cb: Any, action: str) -> Callable[[Learner, Callable[[], object]], object]:
        """Return what to call around an action, with the learner and the action."""
        method: Any = getattr(cb, f"around_{action}")
        guarded = self.gates[id(cb)].guard(method) if id(cb) in self.gates else method
        return guarded.around if isinstance(guarded, Guard) else guarded

    def restart(self) -> None:
        """Let each callback that is called every so often count from here."""
        for gate in self.gates.values():
            gate.pace.restart()

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
        owners = [type(cb).__name__ for cb in self.cbs if _method(cb, signal) == method]
        return f"{owners[0] if owners else repr(method)}.{signal}"


def _method(cb: Any, name: str) -> Callable[..., Any] | None:
    """Return a callback's method, or None where it has none but the base's empty one."""
    method = getattr(cb, name, None)
    if method is None or getattr(method, "__func__", None) is getattr(Callback, name, method):
        return None
    return method  # type: ignore[no-any-return]
