"""What an optimizer was when it was made: the learning rates of its groups, and what it left out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class BaseRates:
    """Set the rate of every parameter group when a fit begins; the groups keep their proportions.

    A fit that asks for no rate gets the rates as they were written. A fit that asks for one gets it for the groups that
    were made at the learner's rate; a group with a rate of its own is scaled by as much. A rate that is written into a
    group between two fits counts as if the optimizer had been made with it.

    Args:
        opt: the optimizer.
        lr: the learner's rate when the optimizer was made.
        is_own: whether a person made the optimizer, and the learner's rate has no part in it; then the first group is
            the one that gets the rate that is asked for.
        left_out: parameters that could be trained and that the optimizer did not get.

    Example:
        >>> import torch
        >>> p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> opt = torch.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.01}], lr=0.1)
        >>> BaseRates(opt, 0.1).start_from(0.5)
        >>> [group["lr"] for group in opt.param_groups]
        [0.5, 0.05]
    """

    def __init__(
        self, opt: Optimizer, lr: float, *, is_own: bool = False, left_out: Iterable[nn.Parameter] = ()
    ) -> None:
        self.opt = opt
        self.lr = lr
        self.left_out = frozenset(left_out)
        self._of_groups = self._rates()
        # A single rate that is not the learner's was written by a person; several may be multiples of the learner's.
        is_of_learner = not is_own and (
            len({*self._of_groups}) > 1 or math.isclose(self._of_groups[0], lr, rel_tol=1e-6)
        )
        self._unit = lr if is_of_learner else self._of_groups[0]
        self._now = self._unit
        self._at_end = self._rates()  # as the learner and its callbacks have left them

    @property
    def now(self) -> float:
        """The rate that was asked for last, of which those of the groups are multiples."""
        return self._now

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, but for the parameters."""
        return {
            "lr": self.lr,
            "unit": self._unit,
            "now": self._now,
            "of_groups": list(self._of_groups),
            "at_end": list(self._at_end),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.lr, self._unit, self._now = (float(state[name]) for name in ("lr", "unit", "now"))
        self._of_groups, self._at_end = ([*map(float, state[name])] for name in ("of_groups", "at_end"))

    def start_from(self, lr: float | None) -> None:
        """Set the rates; None leaves them as they were written."""
        for group, rate in zip(self.opt.param_groups, self._begin(lr), strict=True):
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        self._at_end = self._rates()

    def asked_for(self, lr: float | None, of_learner: float) -> float | None:
        """Return what a fit starts from: `lr`, or the learner's rate where that is another one since."""
        return of_learner if lr is None and of_learner != self.lr else lr

    def of_next_fit(self, of_learner: float) -> list[float]:
        """Return the rates that a fit would begin with that is asked for none."""
        other = copy.copy(self)
        other._of_groups = list(self._of_groups)
        return other._begin(self.asked_for(None, of_learner))

    def _begin(self, lr: float | None) -> list[float]:
        self._take_what_was_written()
        self.take_new_groups()
        self._now = self._unit if lr is None else lr
        return [self._scaled(rate) for rate in self._of_groups]

    def take_new_groups(self) -> None:
        """Take down the rates of groups that came since, before a schedule changes them."""
        del self._of_groups[len(self.opt.param_groups) :]
        for rate in self._rates()[len(self._of_groups) :]:
            is_scaled = self._unit and self._now and self._unit != self._now
            self._of_groups.append(rate * (self._unit / self._now) if is_scaled else rate)

    def end_fit(self) -> None:
        """Take down where the fit has left the rates; what is another one later was written by a person."""
        self._at_end = self._rates()

    def _take_what_was_written(self) -> None:
        now = self._rates()
        for i, (rate, left, _) in enumerate(zip(now, self._at_end, self._of_groups, strict=False)):
            if rate != left:
                self._of_groups[i] = rate
        if self._unit not in self._of_groups and now != self._at_end and len({*self._of_groups}) == 1:
            self._unit = self._of_groups[0]

    def _scaled(self, rate: float) -> float:
        if rate == self._unit:
            return self._now
        return rate * (self._now / self._unit) if self._unit else rate

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.opt.param_groups]
