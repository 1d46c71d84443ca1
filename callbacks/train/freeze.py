"""Train a part of the model alone at first, and all of it then."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, nn

from learner import Callback, Learner, LearnerError
from learner.interrogate.layers import named_layers
from learner.optim.freezing import parameters_in
from learner.optim.names import NORMS, all_names


class FreezeCallback(Callback):
    """Freeze layers for the first epochs of a fit, and train them on after that.

    The optimizer holds all of them from the start, so nothing has to be made anew, and the rates of its groups stay in
    proportion. Several of these callbacks unfreeze a model step by step; where they freeze the same layer, the last of
    them decides. When the fit ends, however it ends, `requires_grad` is as it was before: what was frozen then has
    stayed frozen.

    As with `learner.optim.freeze`, norms in the layers train on, as in fast.ai, unless they are asked for by themselves
    or by `norms=True`. A batch norm that is frozen here is in eval mode in the meantime, so that its statistics stay as
    they are, too.

    Args:
        layers: names of layers or parameters, globs of these, positions, modules, parameters; see
            `learner.optim.freeze`.
        until: how many epochs they are frozen; they train on from this one (from 0).
        norms: whether to freeze the norms in the layers as well.

    Raises:
        TypeError, ValueError: if there is no layer, or `until` is not a whole number of at least 1.
        ValueError: at the start of a fit, if a layer is not in the model.
        LearnerError: in the first pass, if nothing is left to train; later, if a layer is no longer in the model.

    Example:
        >>> import torch
        >>> model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
        >>> model.forward = lambda x: model["head"](model["body"](x))
        >>> data = [(torch.ones(4, 2), torch.zeros(4, 1))]
        >>> learn = Learner(model, {"train": data}, nn.functional.mse_loss)
        >>> before = model["body"].weight.detach().clone()
        >>> learn.fit(2, cbs=FreezeCallback("body", until=2))
        >>> torch.equal(model["body"].weight, before), model["body"].weight.requires_grad
        (True, True)
    """

    order = -100

    def __init__(self, *layers: str | int | nn.Module | Tensor, until: int, norms: bool = False) -> None:
        if not layers:
            raise ValueError("`layers` must say what is to be frozen, as `FreezeCallback('body', until=1)`, got none.")
        if isinstance(until, bool) or not hasattr(until, "__index__"):
            raise TypeError(f"`until` must be a whole number of epochs, got {until!r}.")
        if until < 1:
            raise ValueError(f"`until` must be at least 1 epoch, got {until}.")
        self.layers, self.until, self.norms = layers, operator.index(until), norms
        self._flags: dict[str, bool] = {}  # `requires_grad` as it was before; from a file, also before a fit
        self._modes: list[tuple[nn.Module, bool]] = []  # of batch norms, while a pass runs
        self._is_on, self._is_frozen = False, False

    def before_fit(self, learn: Learner) -> None:
        """Take down what trains, and freeze."""
        chosen = parameters_in(learn.model, self.layers, norms=self.norms)
        self._put_back(learn)  # a file that was written while layers were frozen may have been loaded
        self._flags = {name: p.requires_grad for name, p in chosen.items()}
        for other in self._others(learn):
            self._flags |= {name: flag for name, flag in other._flags.items() if name in self._flags}
        self._is_on, self._is_frozen = True, True
        self._settle(learn)

    def before_epoch(self, learn: Learner) -> None:
        """Freeze, or train on; keep batch norms that are frozen from counting."""
        if not self._is_on or learn.is_side_pass:
            return
        self._settle(learn)
        if self._is_frozen and learn.training:
            layers = named_layers(learn.model)
            norms = [layers.get(name.rpartition(".")[0]) for name in self._flags]
            counting = {norm for norm in norms if isinstance(norm, NORMS) and hasattr(norm, "running_mean")}
            self._modes = [(norm, norm.training) for norm in counting]
            for norm in counting:
                norm.eval()

    def cleanup_epoch(self, learn: Learner) -> None:
        """Let batch norms be as they were."""
        if not learn.is_side_pass:
            for norm, is_training in self._modes:
                norm.training = is_training
            self._modes = []

    def cleanup_fit(self, learn: Learner) -> None:
        """Let what is still frozen be as it was before."""
        if self._is_frozen:
            self._put_back(learn)
        self._flags, self._is_on, self._is_frozen = {}, False, False

    def state_dict(self) -> dict[str, Any] | None:
        """Return what was frozen before the fit, and the settings; None between two fits."""
        return {"until": self.until, "requires_grad": dict(self._flags)} if self._is_on else None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take over what `state_dict` gave."""
        if state is not None:
            self._flags = dict(state["requires_grad"])

    def differences(self, state: dict[str, Any] | None) -> list[str]:
        """Say what is frozen here otherwise than in a checkpoint of a fit."""
        if state is None or not self._is_on:
            return []
        found = [] if state["until"] == self.until else [f"`until` is {self.until} here, {state['until']} saved"]
        if list(self._flags) != list(state["requires_grad"]):
            found.append(f"what is frozen is {list(self._flags)} here, {list(state['requires_grad'])} saved")
        return found

    def _settle(self, learn: Learner) -> None:
        """Freeze in the first epochs; after them, once, let go of what no other callback of this kind freezes."""
        if learn.epoch < self.until:
            names = all_names(learn.model)
            if gone := [name for name in self._flags if name not in names]:
                raise LearnerError(f"`model` must hold what was frozen when the fit began, but {gone[0]} is gone.")
            for name in self._flags:
                names[name].requires_grad = False
        elif self._is_frozen:
            self._is_frozen = False
            self._put_back(learn)

    def _put_back(self, learn: Learner) -> None:
        names = all_names(learn.model)
        others = {name for other in self._others(learn) if other._is_frozen for name in other._flags}
        for name in self._flags.keys() & names.keys() - others:
            names[name].requires_grad = self._flags[name]

    def _others(self, learn: Learner) -> list[FreezeCallback]:
        """Return others of this kind that have begun this fit."""
        return [cb for cb in learn.cbs if isinstance(cb, FreezeCallback) and cb is not self and cb._is_on]
