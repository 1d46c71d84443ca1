"""Stop a fit whose loss has become NaN or infinite."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner import Callback, CancelFitException, Learner
from learner.loop.frequency import Every, Pace, expected_steps


class BadLoss(NamedTuple):
    """Where a loss was not finite, and what it was."""

    epoch: int
    dl_name: str
    i: int
    value: float


class TerminateOnNaNCallback(Callback):
    """End the fit, with a warning that says where it began, when a loss is NaN or infinite.

    Every loss is checked, several together: after each interval of `every`, and at the end of a pass. Each check waits
    for the device, and the fit ends at the first check after a bad loss. Validation losses are checked as well, but not
    those of a `learn.validate()` outside of a fit.

    Args:
        every: how often to check, written as any callback's `every`: 32, "32 batches", "10 s"; with "epoch" or
            "2 epochs", only at the end of each pass.

    Attributes:
        first_bad: where the first bad loss of the last fit was (`epoch`, `dl_name`, `i`, `value`), or None.

    Raises:
        TypeError, ValueError: if `every` is not an interval.

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> dls = Loaders.from_arrays(train=([[0.0], [1.0], [float("inf")]], [[0.0]] * 3), batch_size=3)
        >>> stop = TerminateOnNaNCallback()
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=stop).fit(5)
        >>> stop.first_bad.epoch, stop.first_bad.i, len(caught)
        (0, 0, 1)
    """

    order = 50

    def __init__(self, every: int | str | None = 32) -> None:
        self._pace = Pace(Every.of(every))  # not the callback's own `every`, which would skip losses
        self.first_bad: BadLoss | None = None
        self._is_on = False
        self._losses: list[Tensor] = []
        self._places: list[tuple[int, str, int]] = []

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        self._is_on, self.first_bad, self._losses, self._places = True, None, [], []
        self._pace.restart(learn.n_steps)

    def after_loss(self, learn: Learner) -> None:
        """Store the loss without waiting for the device; check the stored ones when it is time."""
        if self._is_on:
            self._losses.append(learn.loss.detach().reshape(()))
            self._places.append((learn.epoch, learn.dl_name, learn.i))
            if self._pace.tick(expected_steps(learn)):
                self._check(learn)

    def cleanup_epoch(self, learn: Learner) -> None:
        """Check the losses that are left, also when the pass was cut short."""
        if self._is_on:
            self._check(learn)

    def cleanup_fit(self, learn: Learner) -> None:
        """Drop the losses."""
        self._is_on, self._losses, self._places = False, [], []

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that are not checked yet, when they will be, and the first bad one."""
        return {
            "losses": list(self._losses),
            "places": list(self._places),
            "pace": self._pace.state_dict(),
            "first_bad": None if self.first_bad is None else list(self.first_bad),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._losses, self._places = state["losses"], state["places"]
        self._pace.load_state_dict(state["pace"])
        self.first_bad = None if state["first_bad"] is None else BadLoss(*state["first_bad"])

    def _check(self, learn: Learner) -> None:
        if not self._losses:
            return
        device = self._losses[-1].device  # those from a checkpoint are on the CPU
        losses, places = torch.stack([loss.to(device) for loss in self._losses]), self._places
        self._losses, self._places = [], []
        self._pace.restart(learn.n_steps)
        is_bad = ~losses.isfinite()
        if not is_bad.any():  # the one place that waits for the device
            return
        first = int(is_bad.nonzero()[0, 0])
        self.first_bad = bad = BadLoss(*places[first], float(losses[first]))
        warnings.warn(
            f"the loss was {bad.value} in epoch {bad.epoch}, loader {bad.dl_name!r}, batch {bad.i}; the fit ends "
            f"here. Try a smaller learning rate, clip the gradients, or look at the data of that batch.",
            RuntimeWarning,
            stacklevel=2,
        )
        raise CancelFitException
