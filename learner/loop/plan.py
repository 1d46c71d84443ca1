"""Who is called when: the table behind `Learner.plan` and the notebook's view of a learner."""

from __future__ import annotations

from collections.abc import Iterator

from learner.callback import SIGNALS
from learner.loop.dispatch import Dispatch
from learner.loop.frequency import Guard
from learner.loop.naming import ACTIONS
from learner.loop.types import Handler

# The order in which one batch, then the rest of a fit, comes by; a test compares it with a recorded trace.
FIRING_ORDER = (
    *("before_fit", "before_epoch", "before_batch", "predict", "after_predict", "get_loss", "after_loss"),
    *("backward", "after_backward", "step", "after_step", "zero_grad", "after_batch", "cleanup_batch"),
    *("after_epoch", "cleanup_epoch", "after_fit", "cleanup_fit"),
)


def plan_rows(dispatch: Dispatch) -> Iterator[tuple[str, list[str]]]:
    """Give each signal and action with the names of who is called, in order."""
    own = [signal for signal in dispatch.listeners if signal not in SIGNALS]
    for name in (*FIRING_ORDER, *own):
        if name in ACTIONS:
            owner, wrappers = dispatch.actions.get(name, (None, []))
            around = [f"around: {_name(cb)}{_condition(dispatch.wrapper(cb, name))}" for cb in wrappers]
            yield name, [*around, "Learner" if owner is None else _name(owner)]
        else:
            yield name, [_owner(dispatch, handler, name) for handler in dispatch.listeners[name]]


def plan_text(dispatch: Dispatch) -> str:
    """Return the plan as lines of text, actions indented."""
    rows = [(f"  {name}" if name in ACTIONS else name, " → ".join(who)) for name, who in plan_rows(dispatch)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {who}".rstrip() for name, who in rows)


def plan_html(dispatch: Dispatch) -> str:
    """Return the plan as an HTML table."""
    from fastcore.xml import Em, Table, Tbody, Td, Th, Thead, Tr, to_xml

    rows = [Tr(Td(Em(name) if name in ACTIONS else name), Td(" → ".join(who))) for name, who in plan_rows(dispatch)]
    html: str = to_xml(Table(Thead(Tr(Th("signal or action"), Th("who is called, in order"))), Tbody(*rows)))
    return html


def _owner(dispatch: Dispatch, handler: Handler, signal: str) -> str:
    return dispatch.name_of(handler, signal).rpartition(".")[0] + _condition(handler)


def _condition(handler: object) -> str:
    """Return when a handler is called, in brackets, or nothing if that is always."""
    guard = getattr(handler, "__self__", handler)  # a wrapper is a method of its guard
    return f" ({guard.condition})" if isinstance(guard, Guard) else ""


def _name(cb: object) -> str:
    return type(cb).__name__
