"""Values of the learner, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from learner import Callback, Learner
from learner.data.batch import describe
from learner.loop.column import Column

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class RecorderCallback(Callback):
    """Record any values of the learner, one of each per training batch.

    They are asked for when the batch has made its optimizer step and nothing has been cleared: gradients are there,
    and the learning rate is that of this step, whatever a schedule does next. For a batch without a step, as within an
    accumulation window, it is at the end of the batch. A cancelled batch leaves no row; where a pass is cancelled, the
    batches before keep theirs.

    Args:
        **fns: by name, functions of the learner that return a number, a tensor with one element, or None where there
            is nothing yet (it becomes NaN). Tensors stay on their device until `values` is read.

    Raises:
        TypeError: if there is no function, or one cannot be called; in a fit, if one returns something else.

    Example:
        >>> from torch import nn
        >>> from learner import Loaders
        >>> dls = Loaders.from_arrays(train=([[1.0], [2.0]], [[1.0], [2.0]]), batch_size=1)
        >>> recorder = RecorderCallback(loss=lambda learn: learn.loss, lr=lambda learn: learn.opt.param_groups[0]["lr"])
        >>> Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=recorder).fit(2)
        >>> recorder.values["lr"], len(recorder.values["loss"])
        ([0.1, 0.1, 0.1, 0.1], 4)
    """

    order = -10
    is_observer = True

    def __init__(self, **fns: Callable[[Learner], Any]) -> None:
        if not fns:
            raise TypeError("`fns` must hold a function at least, got none; do `loss=lambda learn: learn.loss`.")
        for name, fn in fns.items():
            if not callable(fn):
                raise TypeError(f"`{name}` must be a function of the learner, got {fn!r}.")
        self.fns = fns
        self._columns: dict[str, Column] = {}
        self._row: list[Tensor | float] | None = None

    def before_fit(self, learn: Learner) -> None:
        """Start clean."""
        self._columns = {name: Column() for name in self.fns}

    def before_batch(self, learn: Learner) -> None:
        """Forget the row of a batch that was cancelled."""
        if learn.training:
            self._row = None

    def after_step(self, learn: Learner) -> None:
        """Read the values while gradients are there and the schedule has not moved."""
        self._row = self._read(learn)

    def after_batch(self, learn: Learner) -> None:
        """Keep the values of a batch that went well."""
        if learn.training:
            row = self._row or self._read(learn)
            for column, value in zip(self._columns.values(), row, strict=True):
                column.append(value)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Return what was recorded so far."""
        return {name: column.state_dict() for name, column in self._columns.items()}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take over what `state_dict` gave."""
        self._columns = {name: Column(values) for name, values in state.items()}

    def join_parts(self, states: list[dict[str, list[Tensor]]]) -> dict[str, list[Tensor]]:
        """Return what `state_dict` would give of several parts of a training, of what it gives of each."""
        return {name: [values for state in states for values in state[name]] for name in states[0]}

    def differences(self, state: dict[str, list[Tensor]]) -> Iterator[str]:
        """Say whether other values were recorded."""
        if list(state) != list(self.fns):
            yield f"the values are {list(self.fns)} here, {list(state)} saved"

    def _read(self, learn: Learner) -> list[Tensor | float]:
        """Ask each function for its value now."""
        row = []
        for name, fn in self.fns.items():
            try:
                row.append(_checked_value(fn(learn)))
            except Exception as error:
                error.add_note(f"in the function `{name}` of RecorderCallback")
                raise
        return row

    @property
    def values(self) -> dict[str, list[float]]:
        """Values by name, one per training batch of the last fit. Reading waits for the device."""
        return {name: column.read() for name, column in self._columns.items()}

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame, a row per batch; needs pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("`to_pandas` needs pandas; do `pip install pandas`, or use `values`.") from None
        return pd.DataFrame(self.values)

    def plot(self) -> Figure:
        """Draw each value over the batches, one panel a value; return the figure."""
        from learner.drawing import panels

        values = self.values or {name: [] for name in self.fns}
        figure, axes = panels(len(values))
        for ax, (name, column) in zip(axes, values.items(), strict=True):
            ax.plot(column)
            ax.set(xlabel="batch", title=name)
        return figure


def _checked_value(value: Any) -> Tensor | float:
    """Return a value to keep: a copy, since an optimizer changes tensors in place."""
    if value is None:
        return math.nan
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(()).clone()
    if isinstance(value, Tensor) or not hasattr(value, "__float__") or getattr(value, "size", 1) != 1:
        raise TypeError(f"a recorded value must be a number or a tensor with one element, got {describe(value)}.")
    return float(value)
