"""Learning-rate range test: `learn.lr_find()`, there once `callbacks` is imported."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from callbacks.train.accumulate import AccumulateCallback
from callbacks.train.schedule import SchedulerCallback
from learner import Callback, CancelEpochException, CancelFitException, Learner, LearnerError
from learner.loop.steps import require_own_optimizer
from learner.loop.weight import batch_weight

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 0.5  # of the smoothing, in ln(lr): a fifth of a decade
_MIN_POINTS = 5  # fewer say nothing about a slope
_STATE = ("_shares", "_n_steps", "_window", "_mean", "_lowest")
_MIN_FALL = 1.5  # in standard deviations of the losses around their smoothed ones; less may be chance


@dataclass(frozen=True, repr=False)
class LRFinderResult:
    """What a range test has seen: one learning rate and one loss for each optimizer step.

    Attributes:
        lrs: learning rates, rising.
        losses: mean loss of the batches before the step with that rate; finite all of them.

    Example:
        >>> result = LRFinderResult([0.001, 0.01, 0.1, 1.0, 10.0], [2.0, 2.0, 1.0, 0.5, 4.0])
        >>> result
        LRFinderResult(suggestion=0.05, 5 steps)
    """

    lrs: list[float]
    losses: list[float]

    @property
    def smoothed(self) -> list[float]:
        """Losses, each averaged with its neighbours on both sides, so that nothing moves to the right."""
        x = np.log(self.lrs)
        weights = np.exp(-0.5 * ((x[:, None] - x) / _WIDTH) ** 2)
        smoothed: list[float] = (weights @ np.array(self.losses) / weights.sum(axis=1)).tolist()
        return smoothed

    @property
    def suggestion(self) -> float | None:
        """Half the rate at which the smoothed loss falls fastest; None if it never falls clearly.

        Where it falls fastest is at times too much for a whole training. Half of it came near the best of a grid for
        small networks with SGD, momentum and Adam, and never diverged there.
        """
        if len(self.lrs) < _MIN_POINTS:
            return None
        smoothed = np.array(self.smoothed)
        n = int(smoothed.argmin()) + 1  # beyond it the loss diverges
        noise = np.std(self.losses[:n] - smoothed[:n]) + 1e-7 * abs(smoothed[0])  # and rounding, of float32
        if smoothed[0] - smoothed[n - 1] <= _MIN_FALL * noise:
            return None
        slopes = np.gradient(smoothed, np.log(self.lrs))[:n]
        return self.lrs[int(slopes.argmin())] / 2

    def plot(self) -> Figure:
        """Draw losses over learning rates, and the suggestion; return the figure."""
        from learner.drawing import subplots

        figure, ax = subplots(figsize=(4.5, 3.2), layout="tight")
        ax.plot(self.lrs, self.losses, alpha=0.4, label="loss")
        ax.plot(self.lrs, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            ax.axvline(self.suggestion, color="black", linestyle=":", label=f"suggestion {self.suggestion:.2g}")
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
        if self.losses:
            # Of the divergence, which comes last, only the beginning; else all before it looks flat.
            lowest, highest = min(self.losses), max(self.losses[: len(self.losses) // 2 + 1])
            margin = (highest - lowest or 1) / 5
            ax.set_ylim(lowest - margin, highest + margin)
        ax.legend()
        return figure

    def __repr__(self) -> str:
        suggestion = "None" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"{type(self).__name__}(suggestion={suggestion}, {len(self.lrs)} steps)"


class LRFinderCallback(Callback):
    """Raise the learning rate from optimizer step to optimizer step, and stop when the loss diverges.

    Training loaders alone run, as often as it takes. Added to a `fit`, it ruins the weights; `learn.lr_find()` does the
    same in a sandbox. The rate is one as `fit(lr=...)` takes it: groups with rates of their own keep their proportion
    to it. With `AccumulateCallback` all batches of a step share its rate. Reading the loss waits for the device at each
    batch.

    Args:
        start: first learning rate.
        end: last learning rate.
        n: how many, evenly spaced on a logarithmic scale [optimizer steps].
        stop_at: stop when the running mean of the loss is this many times its lowest value. A loss that is not finite
            stops the test at once.

    Attributes:
        result: what was seen so far, an `LRFinderResult`.

    Writes:
        `epochs`, and `lr` of the optimizer's parameter groups.

    Raises:
        TypeError, ValueError: if an argument is out of range.
        LearnerError: if there is a `SchedulerCallback`, which would set the learning rate too; at the first step, if
            something else sets it, or steps something else than `learn.opt`.

    Source:
        Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; the suggestion: derived here.

    Example:
        >>> import torch
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=16)
        >>> learn = Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss)
        >>> result = learn.lr_find(plot=False)
        >>> 0.01 < result.suggestion < 1, learn.n_steps
        (True, 0)
    """

    order = -50  # before those that act on a loss that is not finite
    after = (AccumulateCallback,)

    def __init__(self, start: float = 1e-6, end: float = 10.0, n: int = 100, stop_at: float = 4.0) -> None:
        if not 0 < start < end < math.inf:
            raise ValueError(f"`start` and `end` must be rising rates above 0, got {start} and {end}.")
        if operator.index(n) < 2:
            raise ValueError(f"`n` must be at least 2 steps, got {n}.")
        if not stop_at > 1:
            raise ValueError(f"`stop_at` must be above 1, got {stop_at}.")
        self.start, self.end, self.n, self.stop_at = start, end, n, stop_at
        self._begin()

    def _begin(self) -> None:
        self.result = LRFinderResult([], [])
        self._shares: list[float] = []
        self._n_steps, self._is_on, self._is_in_pass = 0, False, False
        self._loss: float | None = None  # of this batch
        self._window: list[tuple[float, float]] = []  # losses and weights of the batches of one step
        self._mean, self._lowest = 0.0, math.inf

    def before_fit(self, learn: Learner) -> None:
        """Start clean, and see to enough rounds."""
        if any(isinstance(cb, SchedulerCallback) for cb in learn.cbs):
            raise LearnerError(
                "`cbs` must hold no SchedulerCallback while LRFinderCallback sets the learning rate; call "
                "`learn.lr_find()`, which leaves schedules out, or take it off."
            )
        self._begin()
        self._is_on, self._n_steps = True, learn.n_steps
        learn.epochs = range(self.n)  # enough if each makes one step, and an end if none is made
        now: float = learn.rates.now  # type: ignore[union-attr]  # they are there in a fit
        self._shares = [float(group["lr"]) / now if now else 1.0 for group in _groups(learn)]

    def before_epoch(self, learn: Learner) -> None:
        """Leave out what does not train, but not a validation that somebody makes within a training pass."""
        if learn.training:
            self._is_in_pass = True
        elif self._is_on and not self._is_in_pass:
            raise CancelEpochException

    def before_batch(self, learn: Learner) -> None:
        """Set the learning rate of this step."""
        if learn.training:
            self._loss = None
            for group, share in zip(_groups(learn), self._shares, strict=True):
                _set_lr(group, share * self._lr())

    def after_loss(self, learn: Learner) -> None:
        """Stop at a loss that is not finite."""
        if learn.training:
            self._loss = float(learn.loss.detach())  # of each evaluation, where the optimizer asks for several
            if not math.isfinite(self._loss) and batch_weight(learn):
                raise CancelFitException

    def after_step(self, learn: Learner) -> None:
        """Refuse a rate that is not the one that is put down, and an optimizer that nobody steps."""
        require_own_optimizer(learn, type(self).__name__)
        due = self._shares[0] * self._lr()
        if not math.isclose(rate := float(_groups(learn)[0]["lr"]), due, rel_tol=1e-6):  # float32 in a tensor
            raise LearnerError(
                f"`lr` of the optimizer must be left to {type(self).__name__}, which has set it to {due:.2g}, "
                f"but the step was made with {rate:.2g}: another callback sets it; take it off for the test, with "
                f"`learn.remove_cb`."
            )

    def after_batch(self, learn: Learner) -> None:
        """Put the loss by."""
        if learn.training and self._loss is not None and (weight := float(batch_weight(learn))):
            self._window.append((float(learn.loss.detach()), weight))

    def cleanup_batch(self, learn: Learner) -> None:
        """Take down a step that was made, when all others have seen its batch."""
        if learn.training:
            self._take_down(learn)

    def after_epoch(self, learn: Learner) -> None:
        """Take down a step that was made at the end of the pass."""
        if learn.training:
            self._take_down(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Know when a training pass has ended."""
        if learn.training:
            self._is_in_pass, self._window = False, []

    def cleanup_fit(self, learn: Learner) -> None:
        """Let later validations run."""
        self._is_on = False

    def state_dict(self) -> dict[str, Any]:
        """Return how far the test is."""
        return {**{name: getattr(self, name) for name in _STATE}, "lrs": self.result.lrs, "losses": self.result.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.result = LRFinderResult(state["lrs"], state["losses"])
        for name in _STATE:
            setattr(self, name, state[name])

    def _lr(self) -> float:
        """Return the rate of the coming step."""
        return float(self.start * (self.end / self.start) ** (len(self.result.lrs) / (self.n - 1)))

    def _take_down(self, learn: Learner) -> None:
        """Make a point of the window if its step was made; stop if it was the last, or the loss diverges."""
        if learn.n_steps == self._n_steps:
            return
        window = list(chain.from_iterable(learn.job.gather(self._window, at="the losses of a step")))
        self._n_steps, self._window = learn.n_steps, []
        if not window:
            return
        loss = sum(loss * size for loss, size in window) / sum(size for _, size in window)
        lrs, losses = self.result.lrs, self.result.losses
        lrs.append(self._lr())
        losses.append(loss)
        self._mean = 0.9 * self._mean + 0.1 * loss
        mean = self._mean / (1 - 0.9 ** len(losses))  # as if it had not begun at 0
        self._lowest = min(self._lowest, mean)
        # Not `stop_at * lowest`, which a loss below 0 would exceed at once.
        if len(lrs) == self.n or mean > self._lowest + (self.stop_at - 1) * abs(self._lowest):
            raise CancelFitException


def lr_find(
    learn: Learner,
    start: float = 1e-6,
    end: float = 10.0,
    n: int = 100,
    stop_at: float = 4.0,
    *,
    plot: bool = True,
) -> LRFinderResult:
    """Try out learning rates in a sandbox, draw the loss over them, and return them with a suggestion.

    Nothing of the learner is changed, also after an error or an interrupt. Schedules are left out meanwhile.

    Args:
        learn: the learner.
        start: first learning rate.
        end: last learning rate.
        n: how many [optimizer steps].
        stop_at: stop when the running mean of the loss is this many times its lowest value.
        plot: whether to draw; `result.plot()` does it later.

    Returns:
        `lrs`, `losses`, `suggestion` (None if the loss never falls clearly), and `plot()`.
    """
    finder = LRFinderCallback(start, end, n, stop_at)
    with learn.sandbox():
        learn.remove_cb([cb for cb in learn.cbs if isinstance(cb, SchedulerCallback)])
        learn.fit(1, lr=start, cbs=finder)
    if plot:
        finder.result.plot()
    return finder.result


def _groups(learn: Learner) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups."""
    return learn.opt.param_groups  # type: ignore[union-attr]  # there is one while training


def _set_lr(group: dict[str, Any], lr: float) -> None:
    """Set a rate; in place where it is a tensor, as optimizers that are compiled or captured have it."""
    group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr
