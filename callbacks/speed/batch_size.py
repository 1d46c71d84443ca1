"""The largest batch that a training step has memory for, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from learner import Learner, LearnerError
from learner.data.batch import describe
from learner.data.loaders import Loaders, role_of
from learner.data.moving import mapped
from learner.data.numbers import real_number

_MOST = 2**20  # samples: who needs more does not need to be told


def batch_size_find(learn: Learner, max_gb: float | None = None) -> int:
    """Return how many samples of a batch one whole training step has memory for, with the callbacks that there are.

    The first training batch is repeated to each size and trained on for two optimizer steps in a sandbox, so the state
    of the optimizer counts as well: twice as many samples each time, then between what did and what did not fit, to a
    sixteenth. Samples should all be as large as the largest, such as sequences padded to their greatest length.

    Args:
        learn: the learner, its model on a CUDA device.
        max_gb: memory that may be used, in place of all that there is [GB].

    Raises:
        TypeError, ValueError: if `max_gb` is not a number above 0.
        LearnerError: if the model is on another device, where no limit is known; if nothing in a batch has an axis of
            samples; if a single sample does not fit.
    """
    limit = _checked_limit(max_gb)
    memory = memory_of(learn)
    name, loader = next((n, dl) for n, dl in Loaders.of(learn.dls).items() if role_of(n) == "train")
    batch = next(iter(loader))
    n_samples = learn.predictor.split(batch, learn.loss_f is None)[2]
    if not n_samples:
        raise LearnerError(f"a batch must say how many samples it holds to be repeated, got {describe(batch)}.")

    def fits(size: int) -> bool:
        memory.reset()
        try:
            with learn.sandbox():
                learn.dls = Loaders({name: [resized(batch, n_samples, size)]})
                learn.fit(steps=2)
        except torch.OutOfMemoryError:
            return False
        return limit is None or memory.peak() <= limit

    return largest_size(fits, n_samples)


class CUDAMemory:
    """How much memory of a CUDA device was taken."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """Give back what nobody uses, and measure from here."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Return the most that was taken at once since then [bytes]."""
        return torch.cuda.max_memory_reserved(self._device)


def memory_of(learn: Learner) -> CUDAMemory:
    """Return what measures the memory of the device that a model is on.

    Raises:
        LearnerError: if that is no CUDA device.
    """
    device = next((p.device for p in learn.model.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        raise LearnerError(
            f"`model` must be on a CUDA device for `batch_size_find`, got {device.type!r}, where a batch that is too "
            f"large does not fail but takes the memory of everything else; move the model there, or choose by "
            f"`learn.timed()`."
        )
    return CUDAMemory(device)


def resized(value: Any, n: int, size: int) -> Any:
    """Return a batch of `n` samples with `size` of them: the same again and again, in each tensor that has that axis.

    Example:
        >>> resized((torch.arange(2), {"y": torch.ones(3)}), n=2, size=5)
        (tensor([0, 1, 0, 1, 0]), {'y': tensor([1., 1., 1.])})
    """
    if isinstance(value, Tensor):
        has_axis = value.ndim > 0 and value.shape[0] == n
        return value[torch.arange(size, device=value.device) % n] if has_axis else value
    return mapped(value, partial(resized, n=n, size=size))


def largest_size(fits: Callable[[int], bool], first: int) -> int:
    """Return the largest size that fits, to a sixteenth; `first` is tried first."""
    size, too_large = first, 0  # not known yet
    while not fits(size):
        if size == 1:
            raise LearnerError("a batch must have memory for at least one sample, and has not; use a smaller model.")
        size, too_large = size // 2, size
    while not too_large and size < _MOST:
        if fits(2 * size):
            size *= 2
        else:
            too_large = 2 * size
    while too_large - size > max(1, size // 16):
        middle = (size + too_large) // 2
        size, too_large = (middle, too_large) if fits(middle) else (size, middle)
    return size


def _checked_limit(max_gb: Any) -> float | None:
    if max_gb is None:
        return None
    if not real_number(max_gb, "max_gb", "; do 20 for 20 GB") > 0:
        raise ValueError(f"`max_gb` must be above 0, got {max_gb}; do 20 for 20 GB.")
    return float(max_gb) * 1e9
