"""The callbacks of a learner: as one list, each one checked, in running order."""

from __future__ import annotations

import heapq
import inspect
import itertools
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from torch import nn

from learner.callback import Callback
from learner.loop.naming import HANDLERS, check_handler


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
        if name.startswith("_") or is_of_torch(cb, name) or isinstance(inspect.getattr_static(cb, name), property):
            continue
        value = getattr(cb, name)
        if name in HANDLERS and not callable(value):
            raise TypeError(f"`{owner}.{name}` must be a method, got {value!r}; the name belongs to a signal.")
        if callable(value) and not isinstance(value, type):
            check_handler(owner, name, value)
    if not isinstance(cb, Callback) and not any(method_of(cb, name) for name in HANDLERS):
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
    if getattr(cb, "ranks", "all") not in ("all", "first"):
        raise ValueError(f"`{owner}.ranks` must be 'all' or 'first', got {cb.ranks!r}; 'first' shows and writes once.")
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


def is_first_alone(cb: Any) -> bool:
    """Tell whether a callback is called in the first of several processes alone."""
    return bool(getattr(cb, "ranks", "all") == "first")


def method_of(cb: Any, name: str) -> Callable[..., Any] | None:
    """Return a callback's method, or None where it has none but the base's empty one, or one that torch gave it."""
    method = getattr(cb, name, None)
    if method is None or is_of_torch(cb, name) or getattr(method, "__func__", None) is getattr(Callback, name, method):
        return None
    return method  # type: ignore[no-any-return]


def is_of_torch(cb: Any, name: str) -> bool:
    """Tell whether an attribute comes from a class of torch, or is a part of a module: `zero_grad` of an `nn.Module`.

    Such a name was not chosen for a signal or an action.
    """
    if name in getattr(cb, "__dict__", ()):
        return False
    definer = next((cls for cls in type(cb).__mro__ if name in vars(cls)), None)
    if definer is None:  # found by `__getattr__`, as parameters and layers of a module are
        return isinstance(cb, nn.Module)
    return definer.__module__.partition(".")[0] == "torch"
