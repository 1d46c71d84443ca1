"""An exponential moving average of the weights, which is validated in their place."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from callbacks.train.average import WeightAverage, in_full
from learner import Learner
from learner.data.numbers import real_number

_DECAY = 0.999


class EMACallback(WeightAverage):
    """Keep an exponential moving average of the weights; validate it, train as if it were not there.

    After the n-th update the average is `d * average + (1 - d) * weights`, where `d = min(decay, (1 + n) / (10 + n))`:
    at first it follows the weights closely, and does not hold on to those that the model was made with. Each fit begins
    a new average, at its first step, from the weights that are there. Steps that are skipped do not count.

    In a fit, each pass that does not train sees the average: the loss and the metrics of `valid` in the history are the
    average's, so `EarlyStoppingCallback` and `BestModelCallback` go by it, and what the latter keeps and puts back is
    the average of the best epoch. Before the first update such a pass sees the weights. Outside of a fit
    `learn.validate()` and `learn.export()` see the weights as trained, unless told otherwise:

        with ema.applied(learn):
            learn.validate()
        ema.apply(learn)  # for good

    A checkpoint has the trained weights as the model, whenever it was written, and the average beside them. To get the
    best epoch that a `CheckpointCallback` has kept: `learn.load(keep.best_path)`, then `ema.apply(learn)`.

    What is averaged are all parameters of the model and of a loss that is a module, frozen ones too; of float16 and
    bfloat16 in float32. Buffers are left as they are, so running statistics of batch norm are those of the trained
    weights; `update_batch_norm(learn)` after `apply` makes them those of the average. The average takes as much memory
    as the weights, and twice that in a validation.

    Args:
        decay: how much of the average is kept at a step, [0, 1).
        half_life: in place of `decay`, after how many steps weights count half [steps].
        every: how many steps there are from one update to the next, which then keeps `decay ** every` [steps].
        validate: whether passes that do not train see the average; else `applied` and `apply` alone use it.

    Attributes:
        average: the average, by the name of the parameter; those of a loss that is a module as `loss_f.name`.
        n_updates: how many times weights were averaged in this fit.

    Reads:
        `model`, `loss_f`, `training`, `cbs`.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range, or both `decay` and `half_life` are
            given; when a fit begins, if there is another average that validation sees.
        LearnerError: if the model has other parameters than those that were averaged.

    Source: Polyak & Juditsky (1992), "Acceleration of stochastic approximation by averaging"; the first updates as in
        `tf.train.ExponentialMovingAverage(num_updates=...)`.

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=4)
        >>> ema = EMACallback(decay=0.9)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr=0.1, cbs=ema)
        >>> learn.fit(5)
        >>> with ema.applied(learn):
        ...     learn.validate() == {"loss": learn.history[-1]["valid/loss"]}
        True
        >>> ema.apply(learn)
        >>> torch.equal(learn.model.weight, ema.average["weight"])
        True
    """

    order = 40  # when a step is made, and before what acts on a validation

    def __init__(
        self, decay: float = _DECAY, half_life: float | None = None, every: int = 1, validate: bool = True
    ) -> None:
        super().__init__(validate=validate)
        if half_life is not None and decay != _DECAY:
            raise ValueError(f"`decay` and `half_life` must not both be given, got {decay} and {half_life}; drop one.")
        self.decay = _checked_decay(decay) if half_life is None else 0.5 ** (1 / _checked_half_life(half_life))
        self._n_between = _checked_every(every)  # not the callback's own `every`, which counts batches
        self._n_steps = 0  # of this fit
        self._targets: list[Tensor] = []  # the average and the parameters side by side, in a training pass
        self._parameters: list[Tensor] = []
        self._has_short = False

    def before_fit(self, learn: Learner) -> None:
        """Begin a new average."""
        super().before_fit(learn)
        self._n_steps = 0

    def before_epoch(self, learn: Learner) -> None:
        """Put the average in place, or be ready to look for the parameters that this pass trains."""
        super().before_epoch(learn)
        if learn.training:
            self._parameters = []

    def after_backward(self, learn: Learner) -> None:
        """Find the parameters at the first step of a pass: by then they are there, and not yet changed."""
        if not self._parameters:
            self._targets, self._parameters = self._side_by_side(learn)
            self._has_short = any(in_full(p) is not p for p in self._parameters)

    def after_step(self, learn: Learner) -> None:
        """Take a step into the average."""
        self._n_steps += 1
        if self._n_steps % self._n_between:
            return
        self.n_updates += 1
        kept = min(self.decay**self._n_between, (1 + self.n_updates) / (10 + self.n_updates))
        with torch.no_grad():
            weights = [in_full(p) for p in self._parameters] if self._has_short else self._parameters
            torch._foreach_lerp_(self._targets, weights, 1 - kept)

    def cleanup_fit(self, learn: Learner) -> None:
        """Let go of the model's parameters."""
        super().cleanup_fit(learn)
        self._targets, self._parameters = [], []

    def differences(self, state: dict[str, Any]) -> list[str]:
        """Say whether the average of a checkpoint was taken in another way."""
        here = {"decay": self.decay, "every": self._n_between}
        return [f"`{name}` is {now} here, {state[name]} saved" for name, now in here.items() if now != state[name]]

    def state_dict(self) -> dict[str, Any]:
        """Return the average, how it is taken, and how far it is."""
        return {**super().state_dict(), "n_steps": self._n_steps, "decay": self.decay, "every": self._n_between}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        self._n_steps = state["n_steps"]


def _checked_decay(decay: object) -> float:
    number = real_number(decay, "decay")
    if not 0 <= number < 1:
        raise ValueError(f"`decay` must be at least 0 and below 1, got {decay}; do 0.999.")
    return number


def _checked_half_life(half_life: object) -> float:
    number = real_number(half_life, "half_life")
    if not 0 < number < math.inf:
        raise ValueError(f"`half_life` must be a finite number of steps above 0, got {half_life}; do 700.")
    return number


def _checked_every(every: object) -> int:
    try:
        number = operator.index(every)  # type: ignore[arg-type]  # what is not an index is the error
    except TypeError:
        raise TypeError(f"`every` must be a whole number of optimizer steps, got {every!r}; do 10.") from None
    if number < 1 or isinstance(every, bool):
        raise ValueError(f"`every` must be at least 1 step, got {every}.")
    return number
