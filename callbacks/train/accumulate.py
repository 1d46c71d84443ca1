"""One optimizer step for several batches."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from learner import Callback, CancelBatchException, CancelStepException, Learner, LearnerError, PostponeStepException
from learner.loop.checks import sums_over_batch
from learner.loop.closure import refuse_closure
from learner.loop.prepare import clear_gradients, skip_step
from learner.loop.weight import global_weight


class AccumulateCallback(Callback):
    """Let `n` training batches share one optimizer step, as if they were one large batch.

    Exactly so, to rounding: each batch counts by `learn.weight`, which is its size unless somebody says what else its
    loss is a mean over (`LossWeightCallback`), and the gradients are divided by what was really in the window. So
    batches may differ in size, and the last window of a pass may be shorter; it makes its step at the end of the pass,
    without having to know how long the loader is. What is logged is the loss of each batch as it is.

    A batch that is cancelled, or whose step another callback skips once it had its backward, takes its window with it,
    for the learner then clears all gradients; a pass that is cancelled makes no step for its open window.

    What it cannot make equal: a layer that looks across the batch, such as batch norm, still sees small batches. And
    the loss must be a mean. One that says that it is a sum (`reduction="sum"`) is added up as such.

    Args:
        n: training batches for each optimizer step [batches].

    Reads:
        `loss`, `weight`, `batch_size`, `training`, `opt`.

    Writes:
        `batches_per_step`, for the time of the fit.

    Raises:
        TypeError, ValueError: if `n` is no whole number, or less than 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 10)[:, None]
        >>> def train(batch_size, cbs=None):
        ...     torch.manual_seed(0)
        ...     dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=batch_size, shuffle=False)
        ...     learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=cbs)
        ...     learn.fit(2)
        ...     return learn.model.weight.item()
        >>> abs(train(8) - train(2, AccumulateCallback(4))) < 1e-6
        True
    """

    order = -50
    state = ("n", "_n_batches", "_weight", "_unit")  # the gradients of an open window are the learner's to keep

    def __init__(self, n: int) -> None:
        try:
            self.n = operator.index(n)
        except TypeError:
            raise TypeError(f"`n` must be a whole number of batches, got {n!r}.") from None
        if self.n < 1 or isinstance(n, bool):
            raise ValueError(f"`n` must be at least 1 batch, got {n}.")
        self._adds_up = False  # whether the loss is a sum, of which large batches have a larger one
        self._settlers: list[Callable[[Learner], None]] = []  # who averages gradients over processes, of whole windows
        self._begin_window()

    def _begin_window(self) -> None:
        """Start a window; its weight is counted in sizes of its first batch, so that gradients keep their range."""
        self._n_batches = 0
        self._weight: Tensor | float = 0.0
        self._unit: Tensor | float = 1.0

    def _is_open(self, learn: Learner) -> bool:
        """Tell whether batches wait for a step. Whoever cleared the gradients meanwhile has emptied the window."""
        return self._n_batches > 0 and any(p.grad is not None for g in _groups(learn) for p in g["params"])

    def differences(self, state: dict[str, Any]) -> list[str]:
        """Say whether the windows of a checkpoint are others."""
        return [] if self.n == state["n"] else [f"`n` is {self.n} here, {state['n']} saved"]

    def before_fit(self, learn: Learner) -> None:
        """Start clean, and say how many batches make a step."""
        refuse_closure(learn, type(self).__name__, ", while gradients of earlier batches would be lost")
        if sum(isinstance(cb, AccumulateCallback) for cb in learn.cbs) > 1:
            raise LearnerError("`cbs` must hold one AccumulateCallback, got several; leave all but one out.")
        self._begin_window()
        self._adds_up = sums_over_batch(learn.loss_f)
        self._settlers = [cb.settle_gradients for cb in learn.cbs if hasattr(cb, "settle_gradients")]
        learn.batches_per_step = self.n

    def around_backward(self, learn: Learner, action: Callable[[], None]) -> None:
        """Add the batch's gradient, weighted by what its loss is a mean over."""
        weight = 1.0 if self._adds_up and learn.weight is None else global_weight(learn)
        if not self._is_open(learn):
            self._begin_window()
            self._unit = _one_for_zero(weight)
        weight, loss = weight / self._unit, learn.loss
        learn.loss = loss * weight
        try:
            action()
        finally:
            learn.loss = loss
        self._weight = self._weight + weight
        self._n_batches += 1

    def after_backward(self, learn: Learner) -> None:
        """Put the step off until the window is full; then make the sum of gradients their mean."""
        if self._n_batches < self.n:
            raise PostponeStepException
        for settle in self._settlers:
            settle(learn)
        weight = 1.0 if self._adds_up and learn.weight is None else _one_for_zero(self._weight)
        for group in _groups(learn):
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(weight)
        # From here the gradients are a mean, and stay one if somebody puts the step off and a batch more comes in.
        self._unit, self._weight = self._unit * weight, 1.0

    def after_step(self, learn: Learner) -> None:
        """Go on with the next window."""
        self._begin_window()

    def after_epoch(self, learn: Learner) -> None:
        """Make the step for the batches that are left."""
        if learn.training and self._is_open(learn):
            self._n_batches = self.n
            try:
                learn.update()
            except CancelStepException as cancel:
                skip_step(learn, cancel, has_gradients=True)
            except CancelBatchException:
                pass

    def cleanup_epoch(self, learn: Learner) -> None:
        """Drop what a cancelled pass or step has left."""
        if learn.training and self._is_open(learn):
            clear_gradients(learn)
            self._begin_window()

    def cleanup_fit(self, learn: Learner) -> None:
        """Give the learner its own rhythm back."""
        learn.batches_per_step = 1


def _one_for_zero(weight: Tensor | float) -> Tensor | float:
    """Return a weight to divide by: gradients of batches that weigh nothing are 0, and stay so."""
    return torch.where(weight == 0, 1.0, weight) if isinstance(weight, Tensor) else weight or 1.0


def _groups(learn: Learner) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups."""
    return learn.opt.param_groups  # type: ignore[union-attr]  # there is one while training
