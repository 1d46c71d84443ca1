"""Predictions of shape (n, 1) and a target of shape (n,): told where a loss compares each with all of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from learner.data.batch import describe
from learner.errors import LearnerError

# These broadcast inside, where what they return does not show it.
_ELEMENTWISE = frozenset(
    (
        *(functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
        *(functional.poisson_nll_loss, functional.hinge_embedding_loss, functional.kl_div),
    )
)


def loss_without_broadcast(loss_f: Callable[..., Any], preds: Any, yb: Tensor) -> Any:
    """Return `loss_f(preds, yb)`; for the first batch of a pass, since it may cost more than the call.

    Raises:
        LearnerError: if predictions that have a gradient and a target, of shapes (n, 1) and (n,) or the reverse, meet
            in an operation that makes (n, n) of them.
    """
    together = _shape_of_pairs(preds.shape, yb.shape) if isinstance(preds, Tensor) else None
    if together is None:
        return loss_f(preds, yb)
    with _NoBroadcast(preds, yb, together):
        return loss_f(preds, yb)


def _shape_of_pairs(a: torch.Size, b: torch.Size) -> torch.Size | None:
    """Return what two shapes that differ by a last axis of one are broadcast to, if that is larger than both."""
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    if longer != (*shorter, 1):
        return None
    try:
        together = torch.Size(np.broadcast_shapes(a, b))
    except ValueError:  # torch says so itself
        return None
    return together if together.numel() > shorter.numel() else None


class _NoBroadcast(TorchFunctionMode):
    """Refuse an operation that broadcasts predictions and target to all pairs of samples.

    What comes of the predictions has a gradient, what comes of the target has none. So a loss that brings both to one
    shape first, or that compares predictions with each other, or targets, is left as it is.
    """

    def __init__(self, preds: Tensor, yb: Tensor, together: torch.Size) -> None:
        super().__init__()
        self._pair = {(preds.shape, True), (yb.shape, False)}
        self._together = together
        self._error = LearnerError(
            f"predictions and target must have one shape where `loss_f` compares them, got {describe(preds)} and "
            f"{describe(yb)}: it would compare each prediction with the targets of all samples, {tuple(together)}. "
            f"Use `.squeeze(-1)` on the longer one, in the model, the dataset or `loss_f`."
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        is_pair = {(t.shape, t.requires_grad) for t in tensors} >= self._pair
        if is_pair and func in _ELEMENTWISE:
            raise self._error
        result = func(*args, **kwargs)
        if is_pair and isinstance(result, Tensor) and result.shape == self._together:
            raise self._error
        return result
