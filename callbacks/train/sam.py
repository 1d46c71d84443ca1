"""Sharpness-aware minimization: the gradient at the worst point nearby."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from callbacks.train.accumulate import AccumulateCallback
from callbacks.train.clip import ClipGradientCallback
from callbacks.train.precision import MixedPrecisionCallback
from learner import Callback, Learner, LearnerError
from learner.data.moving import local_parts
from learner.data.numbers import real_number
from learner.loop.closure import evaluate_again, first_forward_kept, refuse_closure


class SAMCallback(Callback):
    """Let the optimizer step by the gradient at `w + rho * g / |g|`, where `g` is the gradient at the weights `w`.

    That is a second forward and backward for each step. The weights are put back by a copy before the step is made, and
    the running statistics of batch norms are those of the first forward alone, as are predictions, loss, metrics and
    history. `after_predict` and `after_loss` come twice, `after_backward` once, with the gradient at `w`.

    Args:
        rho: how far away the second gradient is taken, in the norm of all weights.
        max_norm: largest total norm of the second gradient that is left alone; None clips nothing. In place of
            `ClipGradientCallback`, which would see the first one.

    Reads: opt, batches_per_step, and what a step reads.

    Raises:
        TypeError, ValueError: if a number is not above 0.
        LearnerError: at the start of a fit, beside what it does not go with: accumulated gradients, for the second
            gradient would be of the last batch alone; `ClipGradientCallback`; `MixedPrecisionCallback("fp16")`; an
            optimizer that needs a closure.

    Source:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization (2021), algorithm 1

    Example:
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 16)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=SAMCallback(rho=0.05))
        >>> learn.fit(20)
        >>> abs(learn.model.weight.item() - 2) < 0.1
        True
    """

    order = -40
    after = (AccumulateCallback,)

    def __init__(self, rho: float = 0.05, max_norm: float | None = None) -> None:
        self.rho = _positive(rho, "rho")
        self.max_norm = None if max_norm is None else _positive(max_norm, "max_norm")

    def before_fit(self, learn: Learner) -> None:
        """Refuse what does not go with it."""
        refuse_closure(learn, type(self).__name__, "")
        if learn.batches_per_step > 1:
            raise LearnerError(
                f"{type(self).__name__} must have one batch for each step, got {learn.batches_per_step}: the second "
                f"gradient would be of the last one alone; leave AccumulateCallback out, or take larger batches."
            )
        if any(isinstance(cb, ClipGradientCallback) for cb in learn.cbs):
            raise LearnerError(
                f"{type(self).__name__} must clip the second gradient itself, got a ClipGradientCallback, which sees "
                f"the first one; do `SAMCallback(rho, max_norm=...)` in its place."
            )
        if any(isinstance(cb, MixedPrecisionCallback) and cb.dtype is torch.float16 for cb in learn.cbs):
            raise LearnerError(
                f"{type(self).__name__} must take gradients of a loss that is not scaled, got a MixedPrecisionCallback "
                f"with 'fp16', which would scale the second one, and nobody unscale it; use 'bf16'."
            )

    def around_step(self, learn: Learner, action: Callable[[], None]) -> None:
        """Replace the gradient by that at the worst point nearby, then make the step."""
        parameters = [p for group in learn.opt.param_groups for p in group["params"] if p.grad is not None]  # type: ignore[union-attr]  # there is one while training
        learn.job.before_norm()
        weights = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            gradients: list[Tensor] = [p.grad for p in parameters]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, self.rho / (norm + 1e-12)))
        try:
            with first_forward_kept(learn), _statistics_kept(learn.model):
                learn.zero_grad()
                evaluate_again(learn)
        finally:
            with torch.no_grad():  # subtracting what was added is not exact
                torch._foreach_copy_(local_parts(parameters), local_parts(weights))
        if self.max_norm is not None:
            learn.job.before_norm()
            clip_grad_norm_(parameters, self.max_norm)
        action()


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Give the running statistics of norms back as they were."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _positive(value: float, name: str) -> float:
    if not 0 < real_number(value, name) < math.inf:
        raise ValueError(f"`{name}` must be a finite number above 0, got {value!r}; do 0.05.")
    return float(value)
