"""What a method of a callback may be called: the names that the loop calls, and errors for those that nearly are."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

STAGES = ("fit", "epoch", "batch")
ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")
AROUND = tuple(f"around_{action}" for action in ACTIONS)
HANDLERS = dict.fromkeys((*ACTIONS, *AROUND))  # and the signals, those that `Learner` subclasses declare included


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
