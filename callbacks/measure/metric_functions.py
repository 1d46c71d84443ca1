"""Metrics that are plain functions of predictions and target, each a mean over the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from learner.data.batch import describe

Metric = Callable[[Any, Any], Any]
F = TypeVar("F", bound=Metric)

IGNORED = -100  # the label of what has none, such as padding; the one that `cross_entropy` leaves out


def mean_over_samples(f: F) -> F:
    """Mark a metric as a plain mean over samples, so that batches may be joined before it is called.

    Example:
        >>> @mean_over_samples
        ... def within_one(preds, target):
        ...     return ((preds - target).abs() < 1).float().mean()
        >>> within_one.is_mean_over_samples
        True
    """
    f.is_mean_over_samples = True  # type: ignore[attr-defined]
    return f


@mean_over_samples
def accuracy(preds: Tensor, target: Tensor) -> Tensor:
    """Return the fraction of right answers [0-1], of those whose label is not -100, as padding has it.

    A prediction with NaN is wrong. Where no label counts, the result is NaN.

    Shapes:
        Several classes: `preds` (N, C, ...) scores, `target` (N, ...) class numbers; the highest score decides.
        Two classes: `preds` (N,) or (N, 1, ...) logits, `target` (N,), (N, ...) or (N, 1, ...) of 0 and 1; a logit
        above 0 is a 1.

    Raises:
        ValueError: if shapes or types are others, which would broadcast to a wrong number.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor(0.5000)
        >>> accuracy(torch.tensor([[-1.0], [2.0]]), torch.tensor([0.0, 1.0]))
        tensor(1.)
    """
    if preds.ndim > 1 and preds.shape[1] > 1:
        _check_classes("accuracy", preds, target)
        best, classes = preds.max(1)
        return _mean_of_labelled((classes == target) & ~best.isnan(), target)  # the largest of NaN and others is NaN
    if preds.ndim > 1:
        target = target[:, 0] if target.shape == preds.shape else target
        preds = preds[:, 0]
    if preds.shape != target.shape or not preds.is_floating_point():
        raise ValueError(
            f"`accuracy` must be given scores (N, C, ...) and classes (N, ...), or logits and 0/1 of one shape, "
            f"got {describe(preds)} and {describe(target)}."
        )
    return _mean_of_labelled(((preds > 0) == (target > 0.5)) & ~preds.isnan(), target)


def top_k_accuracy(k: int) -> Metric:
    """Return a metric named `top_<k>_accuracy`: the fraction whose class is among the k highest scores [0-1].

    NaN and the label -100 are treated as by `accuracy`.

    Shapes: as `accuracy` for several classes.

    Raises:
        ValueError: if `k` is no whole number of at least 1; when called, if there are fewer than `k` classes.

    Example:
        >>> import torch
        >>> top_2 = top_k_accuracy(2)
        >>> top_2.__name__, top_2(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1]))
        ('top_2_accuracy', tensor(1.))
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"`k` must be a whole number of at least 1, got {k!r}.")

    @mean_over_samples
    def top_k(preds: Tensor, target: Tensor) -> Tensor:
        _check_classes(top_k.__name__, preds, target)
        if preds.shape[1] < k:
            raise ValueError(f"`k` must be at most the number of classes, got {k} of {preds.shape[1]}.")
        is_right = (preds.topk(k, dim=1).indices == target[:, None]).any(1)
        return _mean_of_labelled(is_right & ~preds.isnan().any(1), target)

    top_k.__name__ = f"top_{k}_accuracy"
    return _with(top_k, higher_is_better=True, share_of=share_labelled)


@mean_over_samples
def mse(preds: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error over all elements.

    Raises:
        ValueError: if the shapes differ, as (N, 1) and (N,) do, which would broadcast to a wrong number.

    Example:
        >>> import torch
        >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        tensor(2.)
    """
    _check_same_shape("mse", preds, target)
    return (preds - target).square().mean()


@mean_over_samples
def mae(preds: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error over all elements.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> mae(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        tensor(1.)
    """
    _check_same_shape("mae", preds, target)
    return (preds - target).abs().mean()


def share_labelled(target: Tensor) -> Tensor:
    """Return the fraction of labels that count [0-1]."""
    return _is_labelled(target).float().mean()


def _is_labelled(target: Tensor) -> Tensor:
    if not target.is_signed():  # then there is no -100, and 156 in eight bits would be taken for it
        return torch.ones_like(target, dtype=torch.bool)
    return target != IGNORED


def _mean_of_labelled(is_right: Tensor, target: Tensor) -> Tensor:
    counts = _is_labelled(target)
    return (is_right & counts).sum() / counts.sum()


def _with(f: Metric, **attributes: Any) -> Metric:
    """Set what the callbacks read of a metric: which values are better, and how much of a batch it is a mean over."""
    vars(f).update(attributes)
    return f


_with(accuracy, higher_is_better=True, share_of=share_labelled)
_with(mse, higher_is_better=False)
_with(mae, higher_is_better=False)


def _check_classes(name: str, preds: Tensor, target: Tensor) -> None:
    fits = preds.ndim > 1 and target.shape == preds.shape[:1] + preds.shape[2:]
    if not fits or target.is_floating_point():
        raise ValueError(
            f"`{name}` must be given scores (N, C, ...) and whole class numbers (N, ...), got {describe(preds)} and "
            f"{describe(target)}."
        )


def _check_same_shape(name: str, preds: Tensor, target: Tensor) -> None:
    if preds.shape != target.shape:
        raise ValueError(
            f"`{name}` must be given two tensors of one shape, got {describe(preds)} and {describe(target)}; "
            f"reshape one, as by `[:, None]`."
        )
