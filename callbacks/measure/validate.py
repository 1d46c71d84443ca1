"""Validate in the middle of training, where an epoch is too long to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from learner import Callback, Learner
from learner.loop.frequency import Every

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Validation(NamedTuple):
    """What a validation found, and after how many optimizer steps."""

    n_steps: int
    metrics: dict[str, float]


class ValidateCallback(Callback):
    """Run `learn.validate(loader)` in the middle of training, every so often.

    What is trained does not notice: the state of the pass, gradients, random generators and train/eval flags are as
    before when training goes on. Other callbacks hear the signals of the pass. It joins no row of `history`, which has
    one an epoch; `learn.metrics[loader]` is that of the latest pass, as ever.

    Args:
        every: how often, as any callback's, in batches that train, steps or time: 100, "100 steps", "10 min".
        loader: the name of the loader.

    Attributes:
        rows: for each validation of the last fit `(n_steps, metrics)`, the optimizer steps made by the learner until
            then, and what `learn.validate` returned.

    Reads:
        `dls`, `training`, `n_steps`.

    Raises:
        TypeError, ValueError: if `every` means nothing, or is in epochs.
        KeyError: when a fit begins, if there is no loader of that name.

    Example:
        >>> import torch
        >>> from torch.nn.functional import mse_loss
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=8)
        >>> validate = ValidateCallback(every=3)
        >>> Learner(torch.nn.Linear(1, 1), dls, mse_loss, cbs=validate).fit(2)
        >>> [n_steps for n_steps, metrics in validate.rows]
        [3, 6, 9, 12, 15]
        >>> validate.rows[-1].metrics["loss"] < validate.rows[0].metrics["loss"]
        True
    """

    order = 90  # the weights are those that all others have left
    loaders = "train*"

    def __init__(self, every: int | str, loader: str = "valid") -> None:
        if every is None or Every.of(every).unit == "epochs":
            raise ValueError(
                f"`every` must be in batches, steps or time, got {every!r}; at the end of each epoch loaders named "
                f"'valid...' run anyway."
            )
        self.every, self.loader = every, loader
        self.rows: list[Validation] = []

    def before_fit(self, learn: Learner) -> None:
        """Start clean, and miss a loader now rather than after so many batches."""
        _ = learn.dls[self.loader]
        self.rows = []

    def after_batch(self, learn: Learner) -> None:
        """Validate, unless this is a validation itself, of a training loader."""
        if learn.training:
            metrics = learn.validate(self.loader)
            self.rows.append(Validation(learn.n_steps, metrics))

    def state_dict(self) -> list[list[Any]]:
        """Return the rows so far."""
        return [list(row) for row in self.rows]

    def load_state_dict(self, state: list[list[Any]]) -> None:
        """Take over what `state_dict` gave."""
        self.rows = [Validation(*row) for row in state]

    def plot(self) -> Figure:
        """Draw each metric over the optimizer steps, one panel a metric; return the figure."""
        from learner.drawing import panels

        names = list(dict.fromkeys(name for row in self.rows for name in row.metrics)) or ["loss"]
        figure, axes = panels(len(names))
        for ax, name in zip(axes, names, strict=True):
            known = [row for row in self.rows if name in row.metrics]
            ax.plot([row.n_steps for row in known], [row.metrics[name] for row in known], marker=".")
            ax.set(xlabel="step", title=f"{self.loader}/{name}")
        return figure
