"""An average that stands in for the weights where a model is looked at: what `EMACallback` and `SWACallback` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from learner import Callback, Learner, LearnerError
from learner.data.moving import local_parts
from learner.interrogate.layers import inside
from learner.loop.trainable import named_parameters

_SHORT = (torch.float16, torch.bfloat16)  # in which steps as small as those of an average are lost


class WeightAverage(Callback):
    """Keep an average of the weights and have it in the model in passes that do not train; a base class.

    The average is copied into the parameters when such a pass begins, and the trained weights are copied back when it
    ends, however it ends. The parameters stay the same objects, so the optimizer and compiled code do not notice.

    Attributes:
        average: the average, by the name of the parameter; those of a loss that is a module as `loss_f.name`.
        n_updates: how many times weights were averaged in this fit.
    """

    def __init__(self, *, validate: bool = True) -> None:
        if not isinstance(validate, bool):
            raise TypeError(f"`validate` must be True or False, got {validate!r}.")
        self.validate = validate
        self.average: dict[str, Tensor] = {}
        self.n_updates = 0
        self._is_on = False  # whether a fit runs
        self._live: dict[str, Tensor] = {}  # what the average is in the place of, while it is
        self._trained: dict[str, Tensor] | None = None  # its values, meanwhile
        self._has_put: list[bool] = []  # for each pass that runs, whether it has put the average in place

    def before_fit(self, learn: Learner) -> None:
        """Begin a new average."""
        if self._trained is not None:
            raise LearnerError("`fit` must not be called inside `applied`, which puts the weights back at its end.")
        others = [cb for cb in learn.cbs if isinstance(cb, WeightAverage) and cb is not self and cb.validate]
        if self.validate and others:
            raise ValueError(
                f"`cbs` must hold one average that validation sees, got {type(self).__name__} and "
                f"{type(others[0]).__name__}; take one out, or make the EMACallback with `validate=False`."
            )
        self.average, self.n_updates = {}, 0
        self._is_on = True

    def before_epoch(self, learn: Learner) -> None:
        """Put the average in place for a pass that does not train, unless it is there already."""
        puts = self._is_on and self.validate and not learn.training and self.n_updates > 0 and self._trained is None
        if puts:
            self._put_in_place(learn)
        self._has_put.append(puts)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Put the trained weights back, whatever ended the pass."""
        if self._has_put.pop():
            self._put_back()

    def cleanup_fit(self, learn: Learner) -> None:
        """Leave later validations alone."""
        self._is_on = False

    def apply(self, learn: Learner) -> None:
        """Put the average into the model for good, for `learn.export` or another fit; the trained weights are gone.

        Raises:
            LearnerError: if there is no average, it is in place already, or the model has other parameters.
        """
        if self._trained is not None:
            raise LearnerError(
                "`apply` must not be called in a validation or inside `applied`, at whose end the trained weights are "
                "put back; call it afterwards."
            )
        _write(self._tensors(learn), self.average)

    @contextmanager
    def applied(self, learn: Learner) -> Iterator[None]:
        """Have the average in the model for a block of code, and the trained weights back however it ends.

        Raises:
            LearnerError: if there is no average, or the model has other parameters.
        """
        if self._trained is not None:  # a validation, or a block around this one, has put it in place
            yield
            return
        self._put_in_place(learn)
        try:
            yield
        finally:
            self._put_back()

    @contextmanager
    def trained_weights(self, learn: Learner) -> Iterator[None]:
        """Have the trained weights in the model for a block of code, in a validation as well: checkpoints hold them."""
        if self._trained is None:
            yield
            return
        self._put_back()
        try:
            yield
        finally:
            self._put_in_place(learn)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and of how many."""
        return {"average": self.average, "n_updates": self.n_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.average, self.n_updates = dict(state["average"]), state["n_updates"]
        if self._trained is not None:  # a fit goes on in a validation: the model has just got the trained weights
            self._trained = _copy(self._live)
            _write(self._live, self.average)

    def _side_by_side(self, learn: Learner) -> tuple[list[Tensor], list[Tensor]]:
        """Return the average and the parameters, in one order; begin with a copy of them if there is no average."""
        parameters = averaged_parameters(learn)
        if self.average:
            self._tensors(learn)  # refuses other ones
            for name, p in parameters.items():
                self.average[name] = self.average[name].to(p.device)
        else:
            self.average = {name: in_full(p.detach()).clone() for name, p in parameters.items()}
        return [self.average[name] for name in parameters], list(parameters.values())

    def _put_in_place(self, learn: Learner) -> None:
        live = self._tensors(learn)
        self._live, self._trained = live, _copy(live)
        try:
            _write(live, self.average)
        except BaseException:  # an interrupt, or no memory left
            self._put_back()
            raise

    def _put_back(self) -> None:
        _write(self._live, self._trained)  # type: ignore[arg-type]  # the average is in place
        self._live, self._trained = {}, None

    def _tensors(self, learn: Learner) -> dict[str, Tensor]:
        """Return the tensors that the average can be put in the place of, by name."""
        if not self.average:
            raise LearnerError(
                f"{type(self).__name__} must have seen a fit that made a step, and has no average; `fit` comes first."
            )
        averaged = averaged_parameters(learn)
        tensors = {**dict(inside(learn.model).named_buffers()), **averaged}
        for name in {**self.average, **averaged}:
            here, then = (_describe_shape(of.get(name)) for of in (tensors, self.average))
            if here != then:
                raise LearnerError(
                    f"the model must have the parameters that were averaged, but {name!r} is {here} here, {then} in "
                    f"the average of {type(self).__name__}; fit the model as it is now, which begins a new average."
                )
        return {name: tensors[name] for name in self.average}


def averaged_parameters(learn: Learner) -> dict[str, Tensor]:
    """Return the parameters of the model, and of a loss that is a module, of which there can be an average, by name.

    Frozen ones are among them, since they may be trained later. Whole numbers have no average.
    """
    return {name: p for name, p in named_parameters(learn).items() if p.is_floating_point() or p.is_complex()}


def in_full(tensor: Tensor) -> Tensor:
    """Return a tensor of a short floating-point type in float32, and any other as it is."""
    return tensor.float() if tensor.dtype in _SHORT else tensor


def _describe_shape(tensor: Tensor | None) -> str:
    """Return the shape of a tensor in words."""
    return "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _write(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into tensors, in place."""
    with torch.no_grad():
        torch._foreach_copy_(local_parts(tensors.values()), local_parts(values[name] for name in tensors))
