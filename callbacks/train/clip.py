"""Keep gradients short."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from callbacks.train.accumulate import AccumulateCallback
from learner import Callback, Learner, LearnerError
from learner.data.numbers import real_number
from learner.loop.closure import refuse_closure
from learner.loop.steps import require_own_optimizer


class ClipGradientCallback(Callback):
    """Scale the gradients of the optimizer's parameters down to a total norm of at most `max_norm`, once a step.

    With `AccumulateCallback` it is the gradient of the whole window that is measured. A norm that is NaN or infinite
    cannot be scaled down and ruins the weights; that is an error, raised at the end of the pass, since looking at every
    norm would wait for the device at every step.

    Args:
        max_norm: largest norm that is left alone; `math.inf` only measures.

    Attributes:
        norm: total norm before clipping, of the last step; a tensor of no dimension, or None before the first step. To
            see them all: `RecorderCallback(norm=lambda learn: clip.norm)`.

    Raises:
        TypeError, ValueError: if `max_norm` is no number, or not above 0.
        LearnerError: at the end of a training pass, if a norm was not finite.

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> dls = Loaders.from_arrays(train=([[3.0]], [[1000.0]]))
        >>> learn = Learner(nn.Linear(1, 1, bias=False), dls, nn.functional.mse_loss, lr=1)
        >>> before = learn.model.weight.item()
        >>> learn.fit(1, cbs=ClipGradientCallback(0.5))
        >>> round(learn.model.weight.item() - before, 3)
        0.5
    """

    order = -40
    after = (AccumulateCallback,)

    def __init__(self, max_norm: float) -> None:
        self.max_norm = real_number(max_norm, "max_norm")
        if not self.max_norm > 0:
            raise ValueError(f"`max_norm` must be above 0, got {self.max_norm}.")
        self.norm: Tensor | None = None
        self._largest: Tensor | None = None

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        refuse_closure(learn, type(self).__name__, ", where nobody clips its gradients")
        self.norm = self._largest = None

    def after_backward(self, learn: Learner) -> None:
        """Clip."""
        groups = learn.opt.param_groups  # type: ignore[union-attr]  # there is one while training
        parameters = [p for group in groups for p in group["params"]]
        learn.job.before_norm()
        norm: Any = clip_grad_norm_(parameters, self.max_norm)
        self.norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of gradients in shards

    def after_step(self, learn: Learner) -> None:
        """Note the norm of a step that was really made; a step may have been skipped just for its norm."""
        # NaN wins a maximum, so one number a pass is enough to look at.
        norm: Tensor = self.norm  # type: ignore[assignment]  # `after_backward` has made it
        self._largest = norm if self._largest is None else torch.maximum(self._largest, norm)

    def after_epoch(self, learn: Learner) -> None:
        """Refuse to go on with ruined weights, or to clip what nobody steps."""
        if learn.training and self._largest is not None and not math.isfinite(largest := float(self._largest)):
            raise LearnerError(
                f"the norm of the gradients must be finite to be clipped, got {largest} in epoch {learn.epoch}, loader "
                f"{learn.dl_name!r}; lower the learning rate, or look for a loss that is not finite."
            )
        if learn.training:
            require_own_optimizer(learn, type(self).__name__)
