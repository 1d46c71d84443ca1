"""Stop a fit that does not get better any more."""

from __future__ import annotations

import math
import operator
from typing import Any, Literal

from callbacks.keep.monitor import Best, Monitor
from learner import CancelFitException, Learner
from learner.data.numbers import real_number
from learner.history import format_value
from learner.loop.tell import tell


class EarlyStoppingCallback(Monitor):
    """End the fit when a metric has not improved for `patience` epochs in a row, and print a line that says so.

    An improvement is a value that is better by more than `min_delta` than at the last improvement; the first value that
    is a number is one, NaN never is. Which values count, and which metrics there are: as for `BestModelCallback`, which
    sees an epoch first. To get the best weights back, take `BestModelCallback(restore=True)` as well.

    The fit ends with that pass: loaders that come later in the round are not run again, and there is no `after_fit`. It
    stays ended if it is resumed; one that was not stopped goes on waiting where it was.

    Args:
        metric: `loss`, a metric of a `MetricsCallback`, or a name given to `learn.log`; with its loader `valid/loss`.
        loader: its name in `dls`.
        mode: whether smaller ("min") or larger ("max") values are better; where it may be left out: as for
            `BestModelCallback`.
        patience: how long to wait for an improvement [epochs].
        min_delta: by how much more a value must be better to count as an improvement, in the metric's unit.

    Attributes:
        stopped_epoch: the epoch in which the last fit was stopped, numbered as in the history; None if it was not.
        best: the last improvement, `Best(epoch, value, metric)`, or None.

    Reads: metrics, epoch, history, dls, dl_name, role, in_sandbox.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range; before the first batch, if there is
            no such loader or metric; names those there are.
        LearnerError: at the end of the first pass over the loader, if only then it shows that there is no such metric.
        CancelFitException: to end the fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, -2 * x), batch_size=8)
        >>> stop = EarlyStoppingCallback(patience=2)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, lr=0.1, cbs=stop)
        >>> learn.fit(100)
        stopped in epoch 2: valid/loss has not improved for 2 epochs, the best was ... in epoch 0
        >>> stop.stopped_epoch, len(learn.history)
        (2, 3)
    """

    order = 60  # when all others that act on what was measured have done so, BestModelCallback among them

    def __init__(
        self,
        metric: str = "loss",
        loader: str = "valid",
        mode: Literal["min", "max"] | None = None,
        patience: int = 3,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(metric, loader, mode)
        try:
            self.patience = operator.index(patience)
        except TypeError:
            raise TypeError(f"`patience` must be a whole number of epochs, got {patience!r}.") from None
        if self.patience < 1 or isinstance(patience, bool):
            raise ValueError(f"`patience` must be at least 1 epoch, got {patience}.")
        real_number(min_delta, "min_delta")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"`min_delta` must be a finite number of at least 0, got {min_delta}.")
        self.min_delta = float(min_delta)
        self.stopped_epoch: int | None = None
        self._n_waited = 0

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        super().before_fit(learn)
        self.stopped_epoch = None
        self._n_waited = 0

    def cleanup_fit(self, learn: Learner) -> None:
        """Say why the fit was stopped, below the table of its epochs."""
        super().cleanup_fit(learn)
        if self.stopped_epoch is None or learn.in_sandbox:
            return
        best = f"the best was {format_value(self.best.value)} in epoch {self.best.epoch}" if self.best else "it is NaN"
        tell(
            f"stopped in epoch {self.stopped_epoch}: {self.loader}/{self.metric} has not improved for {self.patience} "
            f"epoch{'s' if self.patience > 1 else ''}, {best}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best, how long it was waited since, and where the fit was stopped."""
        return {**super().state_dict(), "n_waited": self._n_waited, "stopped_epoch": self.stopped_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        self._n_waited, self.stopped_epoch = state["n_waited"], state["stopped_epoch"]

    def _see(self, learn: Learner, now: Best) -> None:
        if self._is_better(now, self.best, self.min_delta):
            self.best, self._n_waited = now, 0
            return
        self._n_waited += 1
        if self._n_waited == self.patience:
            self.stopped_epoch = now.epoch
            raise CancelFitException
