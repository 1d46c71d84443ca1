"""Stochastic weight averaging: the mean of the weights over the last epochs, put into the model at the end."""

from __future__ import annotations

import math
from typing import Any

import torch

from callbacks.train.average import WeightAverage, in_full
from callbacks.train.batch_norm import renew, trained_norms
from learner import Learner
from learner.data.loaders import role_of
from learner.data.numbers import real_number
from learner.interrogate.layers import inside
from learner.loop.tell import tell


class SWACallback(WeightAverage):
    """Average the weights over the last epochs of a fit, and put the mean into the model when the fit ends.

    From `start` on, the weights at the end of each training pass are taken into a plain mean. Training does not notice
    until the end: then the mean is the model, and the weights as trained are gone but for the last checkpoint. A fit
    that a callback, an error or an interrupt ends keeps the weights as trained; `swa.apply(learn)` has the mean so far.

    As long as weights are averaged, each pass of the fit that does not train sees the mean, as for `EMACallback`:
    history, best model and early stopping go by it; the best weights that `BestModelCallback(restore=True)` puts back
    come after the mean, and replace it. A checkpoint has the trained weights as the model, and the mean beside them:
    `learn.load(keep.best_path)`, then `swa.apply(learn)`.

    Running statistics of batch norm are computed anew for the mean, in one more pass over the training loaders, without
    gradients and without drawing a random number: at the end of the fit or, if it validates, in each epoch in which
    weights are averaged, since statistics of other weights would make the validation meaningless. Layers in evaluation
    mode keep theirs. Other buffers are left as they are.

    Args:
        start: when to begin, as a part of the fit's epochs, or of its steps where these were asked
            for, [0, 1): 0.75 averages over the last quarter.

    Attributes:
        average: the mean, by the name of the parameter; those of a loss that is a module as `loss_f.name`. With it are
            the running statistics of batch norm.
        n_updates: how many times weights were averaged in this fit.

    Reads:
        `model`, `loss_f`, `dls`, `n_epochs`, `epoch`, `training`, `cbs`.

    Raises:
        TypeError, ValueError: if `start` is not a number, or out of range; when a fit begins, if there is another
            average that validation sees.
        LearnerError: if the model has other parameters than those that were averaged.

    Source: Izmailov et al. (2018), "Averaging Weights Leads to Wider Optima and Better Generalization".

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> swa = SWACallback(start=0.5)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr=0.1, cbs=swa)
        >>> learn.fit(4)
        >>> swa.n_updates, torch.equal(learn.model.weight, swa.average["weight"])
        (2, True)
    """

    order = 40

    def __init__(self, start: float = 0.75) -> None:
        super().__init__()
        self.start = real_number(start, "start", "; it is a part of the epochs, do 0.75")
        if not 0 <= self.start < 1:
            raise ValueError(
                f"`start` must be at least 0 and below 1, got {start}; it is a part of the epochs, do 0.75."
            )
        self._unit, self._first = "epoch", -1  # the epoch, or optimizer step, that the mean begins with
        self._n_batches: dict[str, int] = {}  # in the last pass over each training loader
        self._is_renewed = False  # whether the running statistics are those of the mean
        self._has_told = False  # that a fit goes on that is longer or shorter than it was

    def before_fit(self, learn: Learner) -> None:
        """Begin a new mean."""
        super().before_fit(learn)
        length: int = learn.n_epochs if learn.steps is None else learn.steps  # type: ignore[assignment]  # one is there
        self._first = math.floor(self.start * length + 1e-9)  # 0.57 * 100 is a little below 57
        self._unit = "epoch" if learn.steps is None else "step"
        self._n_batches, self._is_renewed, self._has_told = {}, False, False

    def after_epoch(self, learn: Learner) -> None:
        """Take the weights that a training pass has led to into the mean."""
        if not learn.training or self._progress(learn) < self._first:
            return
        averages, parameters = self._side_by_side(learn)
        self.n_updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(averages, [in_full(p) for p in parameters], 1 / self.n_updates)
        buffers = dict(inside(learn.model).named_buffers())
        for name in trained_norms(learn.model):
            for key in _buffers_of(name):
                self.average.setdefault(key, buffers[key].clone())
        n_batches = learn.i + (learn.batch is not None)  # None where a fit goes on behind the last batch
        self._n_batches[learn.dl_name], self._is_renewed = n_batches, False
        if any(role_of(name) != "train" for name in learn.dls):
            self._renew(learn)

    def after_fit(self, learn: Learner) -> None:
        """Put the mean into the model for good."""
        if self.n_updates:
            self._renew(learn)
            self.apply(learn)

    def differences(self, state: dict[str, Any]) -> list[str]:
        """Say whether the mean of a checkpoint began elsewhere."""
        return [] if self.start == state["start"] else [f"`start` is {self.start} here, {state['start']} saved"]

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, and what is known of the passes that it was taken from."""
        return {
            **super().state_dict(),
            "start": self.start,
            "unit": self._unit,
            "first": self._first,
            "n_batches": dict(self._n_batches),
            "is_renewed": self._is_renewed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; in a fit that is longer or shorter than that was, the mean begins anew."""
        if self._is_on and (state["unit"], state["first"]) != (self._unit, self._first):
            if not self._has_told:
                tell(
                    f"resume: the mean of the weights begins with {self._unit} {self._first} of this fit, not "
                    f"{state['unit']} {state['first']}; weights of {self._unit}s that are done are not in it."
                )
            self._has_told = True  # in the middle of a pass, a state comes twice
            return
        super().load_state_dict(state)
        self._unit, self._first, self._n_batches = state["unit"], state["first"], dict(state["n_batches"])
        self._is_renewed = state["is_renewed"]

    def _progress(self, learn: Learner) -> int:
        """Return which epoch it is, or which optimizer step was the last, from 0."""
        return learn.epoch if learn.steps is None else learn.n_steps - learn.first_step - 1

    def _renew(self, learn: Learner) -> None:
        """Make the running statistics of batch norm those of the mean, unless they are."""
        modules = dict(inside(learn.model).named_modules())
        norms = {name: modules[name] for name in modules if _buffers_of(name)[0] in self.average}
        if not norms or self._is_renewed:
            return
        with self.applied(learn):
            renew(learn, norms, self._n_batches)
            buffers = dict(inside(learn.model).named_buffers())
            for key in self.average.keys() & buffers.keys():
                self.average[key].copy_(buffers[key])
        self._is_renewed = True


def _buffers_of(norm: str) -> list[str]:
    """Return the names of a batch norm's buffers."""
    prefix = f"{norm}." if norm else ""
    return [f"{prefix}{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
