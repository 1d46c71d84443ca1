"""A place between two batches of a fit, in memory: what a checkpoint holds, from which the fit can go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from learner.checkpoint.callback_state import stateful
from learner.checkpoint.model import loss_module, model_state
from learner.checkpoint.optimizer import optimizer_state
from learner.checkpoint.plain import plain
from learner.checkpoint.resume import Resumption, callbacks_of, fit_state
from learner.checkpoint.rng import put_back_rng, rng_state
from learner.checkpoint.snapshot import put_back
from learner.interrogate.layers import inside
from learner.loop.trainable import named_parameters
from learner.loop.types import Learner


class Place:
    """Where a learner is in a fit, and all that the next batch depends on.

    Callbacks are known by the objects that they are, not by their names: between here and the next batch some may be
    added, and others taken off. Who is added begins anew when the fit goes on; what belongs to others stays theirs.

    Args:
        learn: a learner in a fit.
        state: of `fit_state`, as plain data of its own.

    Attributes:
        state: as given.
    """

    def __init__(self, learn: Learner, state: dict[str, Any]) -> None:
        self.state = state
        names, gates = stateful(learn), learn._dispatch.gates
        self._cbs = learn.cbs  # held, so that their ids stay theirs
        self._callbacks = {id(names[name]): kept for name, kept in state["callbacks"].items() if name in names}
        self._devices = {id(names[name]): found for name, found in state["devices"].items() if name in names}
        self._paces = dict(zip(gates, state["fit"]["paces"], strict=True))

    @classmethod
    def taken_down(cls, learn: Learner, i: int, rng: Mapping[str, Any], options: Sequence[Mapping[str, Any]]) -> Self:
        """Copy all that a learner holds between two batches.

        Args:
            learn: a learner in a fit.
            i: how many batches of this pass are done.
            rng: of `rng_state`, when this pass began.
            options: of the optimizer, when the fit began.
        """
        state = plain(fit_state(learn, i, rng, options), copy=True)
        state["fit"]["loader"] = learn.dl_name
        return cls(learn, state)

    def with_changes(self, learn: Learner, *, is_whole: bool = False) -> Place:
        """Return this place with what was changed in a learner that stands here.

        Args:
            learn: the learner, between two fits.
            is_whole: whether buffers, modes and random generators count as well. Else they stay those of this place,
                as gradients do always: a forward and a backward pass, made to look at something, change nothing.
        """
        model, loss = model_state(learn.model), loss_module(learn)
        state = {
            **self.state,
            "model": model if is_whole else _with_parameters(self.state["model"], learn.model, model),
            "loss": None if loss is None else model_state(loss),
            "optimizer": optimizer_state(learn),
        }
        if is_whole:
            state["rng"] = rng_state(learn)
        changed = Place.__new__(type(self))
        vars(changed).update(vars(self), state=plain(state, copy=True))
        return changed

    def stand(self, learn: Learner) -> None:
        """Put all of it into a learner between two fits: weights, optimizer, gradients, counters, random generators."""
        state = self._state_for(learn)
        with ExitStack() as undoing:
            put_back(learn, learn.opt, state, undoing)
        for name, p in named_parameters(learn).items():
            grad = state["fit"]["gradients"][name]
            p.grad = None if grad is None else grad.to(p.device, copy=True)
        put_back_rng(learn, state["rng"])

    def resumption(self, learn: Learner, path: Path) -> Resumption:
        """Return what a fit goes on from, with the callbacks that a learner has now."""
        added = {id(cb) for cb in learn.cbs} - {id(cb) for cb in self._cbs}
        return Resumption(path, self._state_for(learn), added, is_told=False)

    def _state_for(self, learn: Learner) -> dict[str, Any]:
        """Return the state with what belongs to the callbacks that a learner has now."""
        learn._set_callbacks(list(learn.cbs))  # `every` and the like may have been set since they were added
        names = stateful(learn)
        paces = [self._paces.get(key, gate.pace.state_dict()) for key, gate in learn._dispatch.gates.items()]
        return {
            **self.state,
            "callbacks": {name: self._callbacks[id(cb)] for name, cb in names.items() if id(cb) in self._callbacks},
            "devices": {name: self._devices[id(cb)] for name, cb in names.items() if id(cb) in self._devices},
            "fit": {**self.state["fit"], "callbacks": callbacks_of(learn), "paces": paces},
        }


def _with_parameters(saved: Mapping[str, Any], model: Any, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `model_state` gave, with the parameters of now."""
    names = {name for name, _ in inside(model).named_parameters(remove_duplicate=False)}
    values = {name: now["state"].get(name, value) if name in names else value for name, value in saved["state"].items()}
    return {**saved, "state": values, "requires_grad": now["requires_grad"]}
