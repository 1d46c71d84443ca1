"""What callbacks keep, as plain data, by name; compared, and given back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from learner.checkpoint.plain import MAX_DEPTH
from learner.checkpoint.rng import generator_state, is_generator, put_back_generator
from learner.errors import LearnerError
from learner.loop.types import Learner


def stateful(learn: Learner) -> dict[str, Any]:
    """Return who keeps something: the learner, then callbacks, by class, the second of one class with a `_2`."""
    found: dict[str, Any] = {f"{type(learn).__name__} (the learner)": learn} if learn.state else {}
    for cb in learn.cbs:
        if getattr(cb, "state", ()) or hasattr(cb, "state_dict"):
            name = first = type(cb).__name__
            number = 1
            while name in found:
                number += 1
                name = f"{first}_{number}"
            found[name] = cb
    return found


def callback_state(name: str, cb: Any) -> Any:
    """Return what a callback keeps, in its own form or by the attributes that it names in `state`."""
    if hasattr(cb, "state_dict"):
        return cb.state_dict()
    if missing := [attribute for attribute in cb.state if not hasattr(cb, attribute)]:
        raise LearnerError(f"`state` of {name} must name attributes that it has, got {missing[0]!r}.")
    return {attribute: _value_of(getattr(cb, attribute)) for attribute in cb.state}


def is_new(name: str, cb: Any, saved: Mapping[str, Any]) -> bool:
    """Tell whether a callback is not in a file and keeps something at this time, as not all do between two fits."""
    return name not in saved and not only_shows(cb) and bool(callback_state(name, cb))


def only_shows(cb: Any) -> bool:
    """Tell whether a callback runs when all that matters to the training has; see `Callback.order`."""
    return bool(getattr(cb, "order", 0) >= 100)


def only_observes(cb: Any) -> bool:
    """Tell whether a callback changes nothing of the training, by its `order` or by what it says of itself."""
    return only_shows(cb) or bool(getattr(cb, "is_observer", False))


def _value_of(value: Any) -> Any:
    if is_generator(value):
        return generator_state(value)
    return value.state_dict() if has_state_dict(value) else value


def has_state_dict(value: Any) -> bool:
    """Tell whether a value gives its state and takes it back, as modules and optimizers do."""
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict") and not isinstance(value, type)


def callback_differences(callbacks: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """Yield what callbacks themselves find to be different, where they have a `differences(state)`."""
    for name, cb in callbacks.items():
        if name not in saved:
            continue
        if not hasattr(cb, "state_dict") and sorted(cb.state) != sorted(saved[name]):
            yield f"`state` is {sorted(cb.state)} here, {sorted(saved[name])} saved of callback {name}"
        elif hasattr(cb, "differences"):
            yield from (f"{found} of callback {name}" for found in cb.differences(saved[name]))


def put_back_callback(cb: Any, saved: Any) -> None:
    """Give a callback what `callback_state` gave."""
    if hasattr(cb, "load_state_dict"):
        cb.load_state_dict(saved)
        return
    for attribute in cb.state:  # no name in a file says what is set
        value, now = saved[attribute], getattr(cb, attribute, None)
        if is_generator(now):
            put_back_generator(now, value)
        elif has_state_dict(now):
            now.load_state_dict(value)  # type: ignore[union-attr]
        else:
            setattr(cb, attribute, value)


def devices_of(value: Any, depth: int = 0) -> Any:
    """Return which tensors in a nest are not on the CPU: True for one, a dict of them by key or index."""
    if isinstance(value, Tensor):
        return not value.is_cpu
    if depth > MAX_DEPTH:  # of what cannot be saved
        return {}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: found for key, item in items if (found := devices_of(item, depth + 1))}


def put_on(value: Any, devices: Any, device: torch.device) -> Any:
    """Return a nest with the tensors that were not on the CPU on a device."""
    if not devices:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: put_on(item, devices.get(key), device) for key, item in value.items()}
    return type(value)(put_on(item, devices.get(i), device) for i, item in enumerate(value))
