"""Keep the best weights of a fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.keep.monitor import Best, Monitor
from learner import Learner, LearnerError


class BestModelCallback(Monitor):
    """Keep a copy of the model as it was in the best epoch, by a metric of a loader, and say which epoch that was.

    `learn.best` is `Best(epoch, value, metric)`, with the epoch's number in the history; None as long as no value was a
    number. Of equal values the first is the best one, and NaN is never better. A value counts if it comes from the
    fit's own pass over the loader in this epoch; not from a pass within another, nor from one that was cancelled. With
    a training loader the value is a mean over the pass, the weights are those at its end.

    The copy holds parameters, all buffers (those too that are not saved with the model) and what modules keep as
    extra state. It lies where the model lies and takes as much memory as the model,
    until the next fit with this callback; twice that while a better one is taken. It is part of checkpoints, which are
    larger by it. The optimizer is not part of it, and is left as it is.

    Args:
        metric: `loss`, a metric of a `MetricsCallback`, or a name given to `learn.log` (by a callback: before it is
            this one's turn). With its loader, as in the history, it is `valid/loss`.
        loader: its name in `dls`.
        mode: whether the "min" or the "max" is best. It may be left out for the loss, for the library's own functions,
            for objects of torchmetrics, and for what has an attribute `higher_is_better`.
        restore: put the best weights back when the fit ends, however it ends: also after an interrupt or an error.
            Callbacks listening to `after_fit` still see the last weights. Without a best epoch nothing is changed.

    Attributes:
        best: as `learn.best`, of the last fit with this callback.

    Reads: metrics, epoch, history, dls, dl_name, role, model.
    Writes: best.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind, or `mode` is neither; before the first batch, if
            there is no such loader or metric, which names those there are, or if `mode` is left out and must be given.
        LearnerError: at the end of the first pass over the loader, if only then it shows that there is no such metric.
            That is so where a callback or a Learner subclass of your own might have logged it.

    Example:
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=8)
        >>> keep = BestModelCallback(restore=True)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr=0.1, cbs=keep)
        >>> learn.fit(5)
        >>> learn.best.epoch, learn.best.metric
        (4, 'valid/loss')
        >>> learn.validate()["loss"] == learn.best.value
        True
    """

    def __init__(
        self,
        metric: str = "loss",
        loader: str = "valid",
        mode: Literal["min", "max"] | None = None,
        restore: bool = False,
    ) -> None:
        super().__init__(metric, loader, mode)
        self.restore = restore
        self._copy: dict[str, dict[str, Any]] = {}

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        super().before_fit(learn)
        if any(isinstance(cb, BestModelCallback) and cb is not self for cb in learn.cbs):
            raise ValueError("`cbs` must hold one BestModelCallback, got more; `learn.best` is the best by one metric.")
        learn.best = None
        self._copy = {}

    def before_epoch(self, learn: Learner) -> None:
        """Say which is the best of a fit that goes on."""
        if self._is_on:
            learn.best = self.best

    def cleanup_fit(self, learn: Learner) -> None:
        """Put the best weights back, if that was asked for."""
        super().cleanup_fit(learn)
        learn.best = self.best  # of a fit that goes on and has nothing left to train
        if self.restore and self.best is not None:
            self.put_back(learn)

    def put_back(self, learn: Learner) -> None:
        """Put the best weights of the last fit back into the model.

        Raises:
            LearnerError: if there is no best epoch, or the model has other parameters than then.
        """
        if self.best is None:
            raise LearnerError("`put_back` must come after a fit with a best epoch, and there is none; see `best`.")
        _put_back(learn.model, self._copy)

    @contextmanager
    def in_place(self, learn: Learner) -> Iterator[None]:
        """Have the best weights in the model for a block of code.

        Raises:
            LearnerError: as `put_back`.
        """
        last = _copy_of(learn.model)
        self.put_back(learn)
        try:
            yield
        finally:
            _put_back(learn.model, last)

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch and the copy of the model."""
        return {**super().state_dict(), "copy": self._copy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        self._copy = state["copy"]

    def _see(self, learn: Learner, now: Best) -> None:
        if self._is_better(now, self.best):
            new = _copy_of(learn.model)  # the old one stays until then: an interrupt may come here
            learn.best, self.best, self._copy = now, now, new


def _copy_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Copy what makes a model: parameters, buffers, extra state, each by name; what is shared stays shared."""
    parts: dict[str, dict[str, Any]] = {
        "parameters": _parameters(model),
        "buffers": _buffers(model),
        "extra": _extra_state(model),
    }
    return copy.deepcopy(parts)


def _put_back(model: nn.Module, parts: dict[str, dict[str, Any]]) -> None:
    """Write a copy into the model, in place where that can be; the copy stays as it is."""
    then, now = parts["parameters"], _parameters(model)
    modules = dict(model.named_modules())
    places = {path.rpartition(".")[0] for path in parts["buffers"]} | parts["extra"].keys()
    if _shapes(then) != _shapes(now) or not places <= modules.keys():
        raise LearnerError(
            f"`model` must have the layers of which a copy was kept, got others: it has the parameters {_shapes(now)}, "
            f"the copy {_shapes(then)}; put the layers back first."
        )
    with torch.no_grad():
        for name, parameter in now.items():
            parameter.copy_(then[name])
        for path, value in parts["buffers"].items():
            prefix, _, name = path.rpartition(".")
            modules[prefix]._buffers[name] = _written(modules[prefix]._buffers.get(name), value)
    for prefix, state in parts["extra"].items():
        modules[prefix].set_extra_state(copy.deepcopy(state))


def _written(buffer: Tensor | None, value: Tensor | None) -> Tensor | None:
    """Return a buffer with a value written into it; a new one if it has changed its kind, or is an expanded view."""
    if buffer is None or value is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype):
        return copy.deepcopy(value)
    if any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True)):
        return copy.deepcopy(value)
    return buffer.copy_(value)


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _shapes(parameters: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def _buffers(model: nn.Module) -> dict[str, Tensor | None]:
    # Not `named_buffers`: it leaves out those that are None, as a cache is before its first use.
    return {
        f"{prefix}.{name}": None if buffer is None else buffer.detach()
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
    }


def _extra_state(model: nn.Module) -> dict[str, Any]:
    return {
        prefix: module.get_extra_state()
        for prefix, module in model.named_modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }
