"""What may be changed at a batch before it is trained again; each takes a learner, as a function of one's own does.

    learn.branch(path, step=1234, n_steps=200, change={"without 7": without(7), "half the rate": lr(0.5)})

`without` and `relabelled` change that batch alone, `lr` all steps from there on, `seed` what is drawn from there on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.callback import Callback
from learner.data.batch import batch_size_of, describe, fields_of, has_places
from learner.data.moving import mapped
from learner.data.numbers import real_number, whole_number
from learner.data.seeding import position_seed
from learner.errors import LearnerError
from learner.loop.types import Learner
from learner.replay.ids import Ids

_BEFORE_ALL = -(10.0**9)  # whoever changes batches gets the other one


class BatchChange:
    """A change of the next training batch alone; a change that is given the batch and its samples when it is made.

    Args:
        name: what to call it in a picture.
        fn: `fn(learn, batch, ids)`, which returns the batch to take its place.
    """

    def __init__(self, name: str, fn: Callable[[Learner, Any, np.ndarray], Any]) -> None:
        self.__name__, self._fn = name, fn

    def make(
        self, learn: Learner, epoch: int, i: int, batch: Any, ids: Ids | None, why_no_ids: str | None = None
    ) -> None:
        """Have the batch replaced when it comes, as often as it does.

        Args:
            learn: the learner that stands before the batch.
            epoch: of the batch, as the history numbers it.
            i: of the batch in its pass.
            batch: as the loader gave it.
            ids: the numbers of its samples.
            why_no_ids: why nobody knows them.

        Raises:
            LearnerError: if nobody knows which samples it holds, or it does not hold those that are named.
        """
        if learn.job.world > 1:
            raise LearnerError(
                f"a change of samples must have the whole batch, of which each of {learn.job.world} processes has a "
                f"share; do it in one process, without `torchrun`: {self.__name__}."
            )
        if ids is None:
            why = "" if why_no_ids is None else f", since {why_no_ids}"
            raise LearnerError(
                f"a change of samples must have a batch whose samples are known, which those of this loader are not"
                f"{why}; give each an `example_id` in its mapping, or change `learn.batch` in a callback: "
                f"{self.__name__}."
            )
        if isinstance(ids, dict):
            raise LearnerError(
                f"a change of samples must have a batch of one loader, got one of {list(ids)} side by side; change "
                f"`learn.batch` in a callback: {self.__name__}."
            )
        known = ids
        self._fn(learn, batch, known)  # now, not when it is trained, is the time to hear that it cannot be
        learn.add_cb(_InPlace(lambda one: self._fn(learn, one, known), epoch, i))


class _InPlace(Callback):
    """Put another batch in the place of one."""

    order = _BEFORE_ALL

    def __init__(self, replace: Callable[[Any], Any], epoch: int, i: int) -> None:
        self._replace, self._at = replace, (epoch, i)

    def before_batch(self, learn: Learner) -> None:
        if learn.training and (learn.history.state_dict()["start"] + learn.epoch, learn.i) == self._at:
            learn.batch = self._replace(learn.batch)


class _Rate(Callback):
    """Make each step with another rate, whatever a schedule sets."""

    order = math.inf  # next to the step itself

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def around_step(self, learn: Learner, action: Callable[[], object]) -> None:
        groups = learn.opt.param_groups  # type: ignore[union-attr]  # there is one while training
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.factor
        try:
            action()
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


def without(*ids: int | Iterable[int]) -> BatchChange:
    """Leave samples out of the batch, by their numbers.

    Raises:
        TypeError, ValueError: if there is none, or one is not a whole number.
        LearnerError: when the change is made, if the batch does not hold them, or nothing else.

    Example:
        >>> without(3, 5).__name__, without([3, 5]).__name__
        ('without 3, 5', 'without 3, 5')
    """
    gone = _numbers(ids)

    def leave_out(learn: Learner, batch: Any, known: np.ndarray) -> Any:
        _require(gone, known)
        kept = torch.from_numpy(~np.isin(known, gone))
        if not kept.any():
            raise LearnerError(f"`ids` must leave a sample in the batch, got all {len(known)}; step over it instead.")
        return _rows(batch, kept)

    return BatchChange(f"without {', '.join(map(str, gone))}", leave_out)


def relabelled(labels: Mapping[int, Any]) -> BatchChange:
    """Give samples of the batch other targets, each by the number of the sample.

    Raises:
        TypeError, ValueError: if there is none, or a number is not a whole one.
        LearnerError: when the change is made, if the batch does not hold them, or its target is not a part of it with a
            row for each sample.

    Example:
        >>> relabelled({3: 1}).__name__
        'relabelled 3'
    """
    if not isinstance(labels, Mapping):
        raise TypeError(f"`labels` must be a mapping from sample to label, got {labels!r}; do {{3: 1}}.")
    numbers = _numbers(tuple(labels))

    def relabel(learn: Learner, batch: Any, known: np.ndarray) -> Any:
        _require(numbers, known)
        _, target, _ = learn.predictor.split(batch, learn.loss_f is None)
        is_part = isinstance(target, Tensor) and any(part is target for part in _parts(batch))
        if not is_part or target.shape[:1] != known.shape:
            raise LearnerError(
                f"the target must be a tensor of the batch with a row for each sample to be relabelled, got "
                f"{describe(batch)}; change `learn.yb` in a callback."
            )
        new = target.clone()
        for number, label in labels.items():
            new[torch.from_numpy(known == number)] = torch.as_tensor(label, dtype=new.dtype, device=new.device)
        return mapped(batch, lambda part: new if part is target else part)

    return BatchChange(f"relabelled {', '.join(map(str, numbers))}", relabel)


def lr(factor: float) -> Callable[[Learner], None]:
    """Multiply the learning rate by a factor from here on, that of a schedule as well.

    Raises:
        TypeError, ValueError: if it is not a finite number above 0.

    Example:
        >>> lr(0.5).__name__
        'lr x 0.5'
    """
    factor = real_number(factor, "factor", "; do 0.5")
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"`factor` must be a finite number above 0, got {factor}; do 0.5.")

    def change(learn: Learner) -> None:
        learn.add_cb(_Rate(factor))

    change.__name__ = f"lr x {factor:g}"
    return change


def seed(other: int) -> Callable[[Learner], None]:
    """Draw other random numbers from here on, from the generators of Python, NumPy and torch; the order stays.

    Of several processes each draws its own.

    How much of the difference between two futures is chance: as much as this one makes.

    Raises:
        TypeError, ValueError: if it is not a whole number of 0 to 2**32 - 1.

    Example:
        >>> seed(1).__name__
        'seed 1'
    """
    number = whole_number(other, "other")
    if not 0 <= number < 2**32:
        raise ValueError(f"`other` must be from 0 to 2**32 - 1, got {number}.")

    def change(learn: Learner) -> None:
        own = number if learn.job.is_first else position_seed(number, "rank", learn.job.rank) % 2**32
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)

    change.__name__ = f"seed {number}"
    return change


def _numbers(ids: tuple[Any, ...]) -> list[int]:
    """Return numbers of samples from numbers, or from iterables of them."""
    flat = [each for one in ids for each in (one if isinstance(one, Iterable) else [one])]
    if not flat:
        raise ValueError("`ids` must name a sample at least, got none; do 3.")
    return [whole_number(each, "ids") for each in flat]


def _require(numbers: list[int], known: np.ndarray) -> None:
    """Refuse samples that are not in the batch.

    Raises:
        LearnerError: if one is not; lists those that are.
    """
    if strange := [number for number in numbers if number not in known]:
        raise LearnerError(f"`ids` must be samples of the batch, got {strange}; it holds {sorted(map(int, known))}.")


def _parts(batch: Any) -> list[Any]:
    fields = fields_of(batch)
    return list(fields.values()) if fields is not None else list(batch) if has_places(batch) else [batch]


def _rows(batch: Any, kept: Tensor) -> Any:
    """Return a batch with some of its samples.

    Raises:
        LearnerError: if a part of it does not have one row, or one place, for each sample.
    """

    def rows(part: Any) -> Any:
        if fields_of(part) is not None:
            return mapped(part, rows)
        if batch_size_of(part) != len(kept):
            raise LearnerError(
                f"each part of a batch must have a row for each of the {len(kept)} samples to leave some out, got "
                f"{describe(batch)}; change `learn.batch` in a callback."
            )
        if isinstance(part, Tensor):
            return part[kept.to(part.device)]
        if has_places(part):
            return type(part)(item for item, is_kept in zip(part, kept, strict=True) if is_kept)
        return part[kept.numpy()]  # an array

    is_nest = fields_of(batch) is not None or has_places(batch)
    return mapped(batch, rows) if is_nest else rows(batch)
