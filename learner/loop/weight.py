"""How much a batch counts where its loss is averaged with others: `learn.weight`, or the number of its samples."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from learner.data.batch import describe
from learner.errors import LearnerError
from learner.loop.types import Learner


def batch_weight(learn: Learner) -> Tensor | float:
    """Return how many things the loss of this batch is a mean over.

    A weight that is a tensor stays on its device, and nothing waits for it.

    Raises:
        LearnerError: if `learn.weight` is not a number of at least 0, as far as that can be seen without waiting for
            a device; `Averages` sees the rest.
    """
    weight: Any = learn.weight
    if weight is None:
        return learn.batch_size or 1
    if isinstance(weight, Tensor):
        if weight.numel() != 1 or (weight.is_cpu and not 0 <= weight.item() < math.inf):
            raise _bad_weight(weight)
        exact = torch.float32 if weight.device.type == "mps" else torch.float64
        return weight.detach().reshape(()).to(exact)
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= float(weight) < math.inf:
        raise _bad_weight(weight)
    return float(weight)


def global_weight(learn: Learner) -> Tensor | float:
    """Return how many things the loss of this batch is a mean over in all processes that train together."""
    return batch_weight(learn) if learn.global_weight is None else learn.global_weight


def _bad_weight(weight: object) -> LearnerError:
    got = weight.item() if isinstance(weight, Tensor) and weight.numel() == 1 else weight
    return LearnerError(
        f"`learn.weight` must be one finite number of at least 0, of what the loss of this batch is a mean over, got "
        f"{got if isinstance(got, Real) else describe(got)}; sum up a mask, or leave it None for the number of samples."
    )
