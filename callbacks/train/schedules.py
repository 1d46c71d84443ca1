"""Schedules of the learning rate that count their steps themselves and keep the proportions of parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from learner.data.numbers import real_number


def one_cycle(
    pct_start: float = 0.25,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    moms: Sequence[float] | None = (0.95, 0.85, 0.95),
) -> Callable[[Optimizer, int], LRScheduler]:
    """Return what makes a one-cycle schedule: up to the rate of the fit and down again, each by a cosine.

    For `SchedulerCallback(one_cycle())`, which tells it the number of steps. Each parameter group has its own rate as
    its highest, so they keep their proportions at each step; after the last step it is exactly `1 / div_final` of that.

    Args:
        pct_start: share of the steps that go up (0-1, below 1).
        div: the first rate is the highest divided by this.
        div_final: the last rate is the highest divided by this.
        moms: momentum at the beginning, at the highest rate, at the end, for groups that have one above 0: `momentum`,
            or the first of `betas`. None leaves it as it is.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.

    Source:
        Smith and Topin, Super-Convergence (2018); the cosines and the defaults are those of fast.ai's `fit_one_cycle`.

    Example:
        >>> import torch
        >>> from callbacks import SchedulerCallback
        >>> from learner import Learner
        >>> data = [(torch.ones(2, 1), torch.ones(2, 1))] * 8
        >>> learn = Learner(torch.nn.Linear(1, 1), {"train": data}, torch.nn.functional.mse_loss)
        >>> learn.fit(2, lr=0.1, cbs=SchedulerCallback(one_cycle()))
        >>> f"{learn.opt.param_groups[0]['lr']:.2g}"
        '1e-06'
    """
    _check_share("pct_start", pct_start)
    for name, value in (("div", div), ("div_final", div_final)):
        if not 1 <= real_number(value, name) < math.inf:
            raise ValueError(f"`{name}` must be a finite number of at least 1, got {float(value)}.")
    if moms is not None and (len(moms) != 3 or not all(0 < mom < 1 for mom in moms)):
        raise ValueError(f"`moms` must be three numbers above 0 and below 1, or None, got {moms!r}.")

    def make(opt: Optimizer, total_steps: int) -> LRScheduler:
        return OneCycle(opt, total_steps, pct_start, 1 / div, 1 / div_final, None if moms is None else list(moms))

    return make


def warmup_cosine(warmup: float = 0.1, floor: float = 0.0) -> Callable[[Optimizer, int], LRScheduler]:
    """Return what makes a schedule that rises in a line to the rate of the fit and falls by a cosine.

    For `SchedulerCallback(warmup_cosine())`, which tells it the number of steps. Each parameter group has its own rate
    as its highest, so they keep their proportions at each step; after the last step it is exactly `floor` times that.

    Args:
        warmup: share of the steps that rise (0-1, below 1), or their number, as an int.
        floor: share of the highest rate at the end (0-1).

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.
        ValueError: at the start of a fit, if it has no more steps than rise.

    Source:
        Loshchilov and Hutter, SGDR (2017), without restarts; Goyal et al. (2017), section 2.2, for the rise.

    Example:
        >>> import torch
        >>> from callbacks import SchedulerCallback
        >>> from learner import Learner
        >>> data = [(torch.ones(2, 1), torch.ones(2, 1))] * 8
        >>> learn = Learner(torch.nn.Linear(1, 1), {"train": data}, torch.nn.functional.mse_loss)
        >>> learn.fit(2, lr=0.1, cbs=SchedulerCallback(warmup_cosine(floor=0.1)))
        >>> f"{learn.opt.param_groups[0]['lr']:.2g}"
        '0.01'
    """
    if isinstance(warmup, int) and not isinstance(warmup, bool):
        if warmup < 0:
            raise ValueError(f"`warmup` must be at least 0 steps, got {warmup}.")
    else:
        _check_share("warmup", warmup)
    if not 0 <= real_number(floor, "floor") <= 1:
        raise ValueError(f"`floor` must be a share of the rate, from 0 to 1, got {float(floor)}.")

    def make(opt: Optimizer, total_steps: int) -> LRScheduler:
        n_warmup = warmup if isinstance(warmup, int) else min(round(warmup * total_steps), total_steps - 1)
        return WarmupCosine(opt, total_steps, n_warmup, float(floor))

    return make


class FactorSchedule(LRScheduler):
    """A schedule of a known number of steps that multiplies the rate of each group with the same factor.

    Args:
        optimizer: the optimizer.
        total_steps: how many steps there will be.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer)

    def factor(self, n: int) -> float:
        """Return what the rates are multiplied with after `n` steps, at most `total_steps`."""
        raise NotImplementedError

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates of the groups."""
        factor = self.factor(min(self.last_epoch, self.total_steps))
        return [base * factor for base in self.base_lrs]


class WarmupCosine(FactorSchedule):
    """What `warmup_cosine` makes.

    Args:
        optimizer: the optimizer.
        total_steps: how many steps there will be.
        n_warmup: how many of them rise.
        floor: share of the highest rate at the end.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, n_warmup: int, floor: float) -> None:
        if n_warmup >= total_steps:
            raise ValueError(f"`warmup` must be fewer steps than the {total_steps} of this fit, got {n_warmup}.")
        self.n_warmup, self.floor = n_warmup, floor
        super().__init__(optimizer, total_steps)

    def factor(self, n: int) -> float:
        """Return what the rates are multiplied with after `n` steps."""
        if n < self.n_warmup:
            return (n + 1) / (self.n_warmup + 1)
        return _cosine(1.0, self.floor, (n - self.n_warmup) / (self.total_steps - self.n_warmup))


class OneCycle(FactorSchedule):
    """What `one_cycle` makes.

    Args:
        optimizer: the optimizer.
        total_steps: how many steps there will be.
        pct_start: share of them that go up.
        first: share of the highest rate at the beginning.
        last: share of the highest rate at the end.
        moms: momentum at the beginning, at the highest rate, at the end, or None.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        pct_start: float,
        first: float,
        last: float,
        moms: list[float] | None,
    ) -> None:
        self.pct_start, self.first, self.last, self.moms = pct_start, first, last, moms
        super().__init__(optimizer, total_steps)

    def factor(self, n: int) -> float:
        """Return what the rates are multiplied with after `n` steps."""
        return self._between(n, self.first, 1.0, self.last)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates of the groups, and set their momentum."""
        if self.moms is not None:
            momentum = self._between(min(self.last_epoch, self.total_steps), *self.moms)
            for group in self.optimizer.param_groups:
                _set_momentum(group, momentum)
        return super().get_lr()

    def _between(self, n: int, first: float, middle: float, last: float) -> float:
        n_up = self.pct_start * self.total_steps
        if n < n_up:
            return _cosine(first, middle, n / n_up)
        return _cosine(middle, last, (n - n_up) / (self.total_steps - n_up))


def _cosine(start: float, end: float, share: float) -> float:
    """Return where a half wave from `start` to `end` is; exactly `end` at its end."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set the momentum of a group that has one."""
    if group.get("momentum"):
        group["momentum"] = momentum
    elif group.get("betas"):
        group["betas"] = (momentum, *group["betas"][1:])


def _check_share(name: str, share: Any) -> None:
    if not 0 <= real_number(share, name) < 1:
        raise ValueError(f"`{name}` must be a share of the steps, at least 0 and below 1, got {float(share)}.")
