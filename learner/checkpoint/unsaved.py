"""Find what holds a state and is in no checkpoint: a second optimizer, an average of the weights, a generator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from learner.checkpoint.callback_state import has_state_dict
from learner.checkpoint.rng import is_generator
from learner.data.generators import generators_of
from learner.loop.types import Learner
from learner.optim.several import parts_of


def unsaved(learn: Learner) -> list[str]:
    """Return the names of attributes that a fit which goes on will miss.

    Those are optimizers, modules, generators, and objects with `state_dict` and `load_state_dict`, also in a list,
    tuple or dict, on a callback that has no `state_dict` itself or on a subclass of Learner, unless they are named in
    its `state`. What belongs to the learner is saved with it, and what has no values (an `nn.ReLU`) needs not be.
    """
    saved = _saved_with(learn)
    learner = next(base for base in type(learn).__mro__ if base.__module__ == "learner.learner")
    own = vars(learner)["__annotations__"]  # what every learner has
    places: list[tuple[Any, set[str]]] = [(learn, {*own, *learn.state, "loss_f", "predictor"})]
    places += [(cb, set(getattr(cb, "state", ()))) for cb in learn.cbs if not hasattr(cb, "state_dict")]
    return [
        f"{type(place).__name__}.{name}"
        for place, known in places
        for name, value in getattr(place, "__dict__", {}).items()
        if name not in known and any(_has_values(item) and id(item) not in saved for item in _items(value))
    ]


def describe_unsaved(names: Iterable[str]) -> str:
    """Return a message that says what is not saved and what to do."""
    listed = ", ".join(f"`{name}`" for name in names)
    return (
        f"checkpoints must hold all that changes while a model trains, but not {listed}, so a training that goes on "
        f"will differ; name the attribute in `state` of its class, as in `state = ('opt_d',)`."
    )


class UnsavedWatch:
    """Name what is not saved once in a fit; some of it is made only in the first batch."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look(self, learn: Learner, *, may_refuse: bool = False) -> None:
        """Warn of what is new, or refuse it.

        Raises:
            ValueError: if it is to be refused.
        """
        if names := [name for name in unsaved(learn) if name not in self._told]:
            if may_refuse:
                raise ValueError(describe_unsaved(names))
            self._told.update(names)
            warnings.warn(describe_unsaved(names), RuntimeWarning, stacklevel=3)


def warn_of_unsaved(learn: Learner) -> None:
    """Name what is not saved in one warning, if there is anything."""
    if names := unsaved(learn):
        warnings.warn(describe_unsaved(names), RuntimeWarning, stacklevel=3)


def _saved_with(learn: Learner) -> set[int]:
    """Return the ids of what a learner saves."""
    opts = () if learn.opt is None else (learn.opt, *parts_of(learn.opt))
    own = (*learn.model.modules(), learn, *opts, learn.history, *learn.cbs)
    loaders = [part for dl in learn.dls.values() for part in (dl, *generators_of(dl))]
    named = [getattr(place, name, None) for place in (learn, *learn.cbs) for name in getattr(place, "state", ())]
    return {id(thing) for thing in (*own, *loaders, *named)}


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, Mapping) and not has_state_dict(value):
        yield from value.values()
    else:
        yield value


def _has_values(value: Any) -> bool:
    if type(value).__module__.startswith("learner."):  # the loop's own, which is saved in its own way or made anew
        return False
    if isinstance(value, nn.Module):
        return bool(value.state_dict())
    return isinstance(value, torch.optim.Optimizer) or is_generator(value) or has_state_dict(value)
