"""Features as the comparisons need them: one row of real numbers a sample, checked with errors that name the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.data.batch import describe


def as_matrix(x: Any, name: str, *, is_finite: bool = False) -> Tensor:
    """Return features of shape (N, D...) as a detached (N, D) tensor of float32 or float64.

    Args:
        x: a tensor on any device, an array, or nested lists of numbers. Half precision and whole numbers become
            float32.
        name: what errors call it.
        is_finite: whether NaN and infinity are refused.

    Raises:
        TypeError: if it does not hold real numbers.
        ValueError: if it has no shape (N, D...), is empty, or is not finite where it has to be.

    Example:
        >>> as_matrix([[[1, 2], [3, 4]]], "a")
        tensor([[1., 2., 3., 4.]])
    """
    tensor = _as_tensor(x, name)
    if tensor.ndim < 2:
        raise ValueError(
            f"`{name}` must have shape (N, D...), got {tuple(tensor.shape)}; one vector is `x[None]`, one number a "
            f"sample `x[:, None]`."
        )
    if tensor.numel() == 0:
        raise ValueError(f"`{name}` must hold at least one sample and one feature, got shape {tuple(tensor.shape)}.")
    matrix = tensor.flatten(1)
    if matrix.dtype not in (torch.float32, torch.float64):
        matrix = matrix.float()
    if is_finite and (bad := ~matrix.isfinite().all(1)).any():
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity in {int(bad.sum())} of {len(bad)} samples, first in sample "
            f"{int(bad.int().argmax())}; leave those out."
        )
    return matrix


def _as_tensor(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor):
        tensor = x.detach()
    elif isinstance(x, list | tuple) and any(isinstance(part, Tensor) for part in x):
        raise TypeError(
            f"`{name}` must be one tensor, got {type(x).__name__} of {len(x)} parts; join batches by `torch.cat`, "
            f"samples by `torch.stack`."
        )
    else:
        try:
            # Torch takes neither read-only arrays nor negative strides.
            tensor = torch.from_numpy(np.require(x, requirements=["C", "W"]))
        except (TypeError, ValueError):
            raise TypeError(
                f"`{name}` must be a tensor, an array or nested lists of numbers of shape (N, D...), got {describe(x)}."
            ) from None
    if tensor.is_complex():
        raise TypeError(f"`{name}` must be real, got {tensor.dtype}; look at its `.abs()`, or its parts.")
    return tensor


def as_pair(a: Any, b: Any, where: str = "", *, is_finite: bool = False) -> tuple[Tensor, Tensor]:
    """Return two sets of features of the same samples as matrices, `b` on the device of `a`.

    Args:
        a: features of shape (N, D...).
        b: features of shape (N, E...).
        where: what errors say after the name, as " of batch 3".
        is_finite: whether NaN and infinity are refused.

    Raises:
        TypeError: if one does not hold real numbers.
        ValueError: if the lengths differ, or if one is not as `as_matrix` needs it.

    Example:
        >>> [x.shape for x in as_pair([[1, 2], [3, 4]], [[1], [2]])]
        [torch.Size([2, 2]), torch.Size([2, 1])]
    """
    first = as_matrix(a, f"a{where}", is_finite=is_finite)
    second = as_matrix(b, f"b{where}", is_finite=is_finite)
    if len(first) != len(second):
        raise ValueError(
            f"`a` and `b`{where} must be of the same samples, got {len(first)} and {len(second)}; is the batch the "
            f"first axis of both?"
        )
    return first, second.to(first.device)


def in_double(x: Tensor) -> Tensor:
    """Return a tensor in float64; on the CPU where its device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def unit_rows(x: Tensor) -> Tensor:
    """Scale each row to length 1, however small or large it is; a row of zeros stays one.

    Example:
        >>> unit_rows(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # By the largest first, else squares of small numbers are 0, and of large ones infinite.
    x = x / _or_one(x.norm(torch.inf, dim=1, keepdim=True))
    return x.div_(_or_one(x.norm(dim=1, keepdim=True)))  # in place: one copy of a large bank is enough


def _or_one(scale: Tensor) -> Tensor:
    return scale.where(scale != 0, 1)
