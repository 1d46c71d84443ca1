"""Watch how large the gradient of each parameter is, and how far each step moves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from callbacks.watch.blocks import joined, next_row, read, room_after, taken
from callbacks.watch.hooks import checked_count
from callbacks.watch.parameters import Choice, checked_choices, chosen_parameters
from callbacks.watch.stats_plots import plot_dead, plot_histograms, plot_lines
from callbacks.watch.updates import LOWEST, N_BINS, ParameterCopy
from learner import Callback, Learner, LearnerError
from learner.loop.frequency import Every

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class ParameterStats(NamedTuple):
    """Statistics of one parameter, a row for each step in which it had a gradient; float64, on the CPU.

    Attributes:
        grad_norm: L2 norm of the gradient that the optimizer got: accumulated, clipped.
        param_norm: L2 norm of the parameter before the step.
        update: relative size of the step, |after - before| / |before| in L2 norms; of a parameter that was all zeros
            (a bias at first) inf if it moved, NaN if not.
        hist: counts of |gradient| in 40 bins, one for each power of two from 2^-30 to 2^10; exact zeros are in none,
            smaller ones in the first, larger ones, inf and NaN in the last. NaN where not taken.
        dead: fraction of the gradient that is exactly zero [0-1]; NaN where not taken, and if it holds a NaN.
    """

    grad_norm: Tensor
    param_norm: Tensor
    update: Tensor
    hist: Tensor
    dead: Tensor


class _Step(NamedTuple):
    where: tuple[int, str, int, int]  # epoch, loader, batch, optimizer step
    columns: dict[str, int]  # of the parameters that had a gradient; one object as long as these stay the same
    hist: int  # the row of its histogram, or -1


class GradientStats(Callback):
    """Record for each parameter and optimizer step the size of its gradient and by how much the step changes it.

    The gradient is the one that the optimizer sees, after accumulation and clipping; steps that are put off or skipped
    are not recorded. It works with any optimizer, since it compares the parameters before and after the step. A healthy
    relative update is about 1e-3: far more means a learning rate that is too high, far less a parameter that hardly
    learns.

    Half precision is computed in float32, complex numbers as pairs. Loss scaling has to be undone before `step`, as for
    clipping. All stays on the device until it is read, without waiting for it. During the fit this takes the memory of
    one copy of the watched parameters on their device [4 bytes a number, 8 while a histogram is taken]. A recorded step
    adds 12 bytes a parameter, its histogram 164 more. All of it stays readable after the fit, until the next one.

    Args:
        parameters: what to watch, one or several: parameters, their dotted names or globs of these, such as
            "encoder.**.weight"; modules, or names, globs or positions of modules. All of the model if None.
        param_filter: a function of a parameter that says whether to keep it, such as `lambda p: p.ndim > 1`.
        every: how often to look, as any callback's; batches are counted in which a step is made: 10 is the tenth.
        hist_every: take histograms, the most expensive part, of the first step looked at and each n-th after it
            [steps].

    Attributes:
        names: dotted names of the watched parameters, in the model's order; of shared ones the first.
        without_gradient: names of those that had none in any step: frozen, not used, or not reached.

    Reads:
        `model`, `epoch`, `dl_name`, `i`, `n_steps`.

    Raises:
        TypeError, ValueError: when made, for an argument of the wrong kind; when a fit begins, for what is not in the
            model, or if there is nothing to watch.
        LearnerError: when read before a fit; at a step, if the watched parameters are on several devices.

    Source:
        The relative update and its 1e-3: Stanford CS231n, notes "Learning", section "Ratio of weights:updates".

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 32)[:, None]
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> stats = GradientStats("*.weight")
        >>> Learner(model, Loaders.from_arrays(train=(x, x), batch_size=8), mse_loss, cbs=stats).fit(2)
        >>> stats
        GradientStats: 2 parameters, 8 steps
        >>> stats.parameter("0.weight").hist.shape, stats.parameter("0.weight").update.max() < 1
        (torch.Size([8, 40]), tensor(True))
    """

    needs_whole_weights = True
    order = 100  # the last to wrap the step: nothing runs between this and the optimizer
    ranks = "first"

    def __init__(
        self,
        parameters: Choice | Iterable[Choice] | None = None,
        param_filter: Callable[[nn.Parameter], object] | None = None,
        every: int | str | None = None,
        *,
        hist_every: int = 1,
    ) -> None:
        self.parameters = checked_choices(parameters)
        if param_filter is not None and not callable(param_filter):
            raise TypeError(f"`param_filter` must be a function of a parameter, got {param_filter!r}.")
        Every.of(every)  # raises now, not only when a learner gets this callback
        self.param_filter, self.every = param_filter, every
        self.hist_every = checked_count("hist_every", hist_every)
        self.names: list[str] = []
        # Plain lists, which a sandbox puts back: a step each, and its numbers in a row of one of the blocks.
        self._steps: list[_Step] = []
        self._blocks: list[Tensor] = []
        self._hist_blocks: list[Tensor] = []
        self._frozen: set[str] = set()
        self._watched: dict[str, nn.Parameter] = {}
        self._copy: ParameterCopy | None = None
        self._n_hists = 0

    # -- recording ---------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Start clean, and find the parameters."""
        self._watched = chosen_parameters(learn.model, self.parameters, self.param_filter)
        self.names = list(self._watched)
        self._frozen = {name for name, p in self._watched.items() if not p.requires_grad}
        self._steps, self._blocks, self._hist_blocks, self._n_hists = [], [], [], 0

    def around_step(self, learn: Learner, action: Callable[[], object]) -> None:
        """Measure gradients and parameters, let the optimizer make its step, and measure how far they moved."""
        named = {name: p for name, p in self._watched.items() if p.grad is not None}
        if not named:
            action()
            return
        if self._copy is None or self._copy.columns.keys() != named.keys():
            self._copy = ParameterCopy(named)
        copy, n, n_names = self._copy, len(self._steps), len(self.names)
        flat, counts = copy.flat, None
        row = next_row(self._blocks, n, (3, n_names), flat.dtype, flat.device)[:, : len(named)]
        has_hist = n % self.hist_every == 0
        if has_hist:
            shape = (n_names, 1 + N_BINS)
            counts = next_row(self._hist_blocks, self._n_hists, shape, torch.int32, flat.device)
        copy.write_before(row, counts)
        action()
        copy.write_after(row)
        # A step that failed or was cancelled is not counted, and its row is taken by the next one.
        hist = self._n_hists if has_hist else -1
        self._steps.append(_Step((learn.epoch, learn.dl_name, learn.i, learn.n_steps), copy.columns, hist))
        self._n_hists += has_hist

    def cleanup_fit(self, learn: Learner) -> None:
        """Drop the parameters and their copy."""
        self._watched, self._copy = {}, None

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded so far: numbers in a few tensors, since there may be many."""
        columns = list({id(step.columns): step.columns for step in self._steps}.values())
        places = {id(these): i for i, these in enumerate(columns)}
        loaders = list(dict.fromkeys(step.where[1] for step in self._steps))
        steps = [(e, loaders.index(loader), i, n, places[id(c)], hist) for (e, loader, i, n), c, hist in self._steps]
        return {
            "names": list(self.names),
            "frozen": sorted(self._frozen),
            "loaders": loaders,
            "columns": columns,
            "steps": torch.tensor(steps, dtype=torch.int64).reshape(-1, 6),
            "blocks": taken(self._blocks, len(steps)),
            "hist_blocks": taken(self._hist_blocks, self._n_hists),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        loaders, columns, steps = state["loaders"], state["columns"], state["steps"].tolist()
        self.names, self._frozen = state["names"], set(state["frozen"])
        self._steps = [_Step((e, loaders[k], i, n), columns[these], hist) for e, k, i, n, these, hist in steps]
        self._n_hists = sum(step.hist >= 0 for step in self._steps)
        self._blocks, self._hist_blocks = room_after(state["blocks"]), room_after(state["hist_blocks"])

    def join_parts(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what `state_dict` would give of several parts of a training, of what it gives of each."""
        loaders: list[str] = []
        columns: list[dict[str, int]] = []
        parts, n_hists = [], 0
        for state in states:
            part = state["steps"].clone()
            has_hist = part[:, 5] >= 0
            part[:, 1] += len(loaders)
            part[:, 4] += len(columns)
            part[has_hist, 5] += n_hists
            loaders, columns, n_hists = loaders + state["loaders"], columns + state["columns"], n_hists + has_hist.sum()
            parts.append(part)
        blocks = {name: joined([state[name] for state in states]) for name in ("blocks", "hist_blocks")}
        return {**states[0], "loaders": loaders, "columns": columns, "steps": torch.cat(parts), **blocks}

    def differences(self, state: dict[str, Any]) -> Iterator[str]:
        """Yield a line if other parameters were watched."""
        if self.names and self.names != state["names"]:
            yield f"the parameters to watch are {self.names} here, {state['names']} saved"

    # -- reading, which waits for the device -------------------------------------------------------------------

    @property
    def without_gradient(self) -> list[str]:
        """Names of the parameters that had no gradient in any step looked at."""
        seen = set().union(*(step.columns for step in self._steps))
        return [name for name in self.names if name not in seen]

    def parameter(self, name: str) -> ParameterStats:
        """Return the statistics of a parameter, in the order of steps; `name` is one of `names`."""
        self._require_a_fit()
        if name not in self.names:
            raise ValueError(f"`name` must be one of {', '.join(map(repr, self.names))}, got {name!r}.")
        return self._read([name])[name]

    def _require_a_fit(self) -> None:
        if not self.names:
            raise LearnerError("`GradientStats` must have watched a fit before it is read; call `learn.fit` first.")

    def _read(self, names: list[str]) -> dict[str, ParameterStats]:
        numbers = read(self._blocks, (3, len(self.names)))
        counts = read(self._hist_blocks, (len(self.names), 1 + N_BINS))
        stats = {}
        for name in names:
            places = [(i, step.columns[name]) for i, step in enumerate(self._steps) if name in step.columns]
            rows, columns = torch.tensor(places, dtype=torch.long).reshape(-1, 2).T
            grad_norm, param_norm, change = numbers[rows, :, columns].double().T
            hist = torch.full((len(rows), 1 + N_BINS), math.nan, dtype=torch.float64)
            hist_rows = torch.tensor([step.hist for step in self._steps if name in step.columns], dtype=torch.long)
            has_hist = hist_rows >= 0
            hist[has_hist] = counts[hist_rows[has_hist], columns[has_hist]].double()
            dead = torch.where(grad_norm.isnan(), math.nan, hist[:, 0] / hist.sum(dim=1))
            stats[name] = ParameterStats(grad_norm, param_norm, change / param_norm, hist[:, 1:], dead)
        return stats

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each parameter and step; needs pandas.

        Columns are those of `ParameterStats` and `parameter`, `epoch`, `dl_name`, `batch`, `step` (of the learner, from
        0); `hist` is an array, or None where not taken. Parameters that never had a gradient are in the frame's
        `attrs["without_gradient"]`.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("`to_pandas` needs pandas; do `pip install pandas`, or use `parameter(name)`.") from None
        self._require_a_fit()
        rows: list[tuple[Any, ...]] = []
        for name, stats in self._read(self.names).items():
            where = [step.where for step in self._steps if name in step.columns]
            numbers = (stats.grad_norm.tolist(), stats.param_norm.tolist(), stats.update.tolist(), stats.dead.tolist())
            hists = [None if math.isnan(hist[0]) else hist for hist in stats.hist.numpy()]
            rows += [(name, *place, *row) for place, *row in zip(where, *numbers, hists, strict=True)]
        columns = ["parameter", "epoch", "dl_name", "batch", "step", *ParameterStats._fields[:3], "dead", "hist"]
        frame = pd.DataFrame(rows, columns=columns)
        frame.attrs["without_gradient"] = self.without_gradient
        return frame

    def plot_stats(self) -> Figure:
        """Draw the norms of gradient and parameter and the relative update, with a line at 1e-3; return the figure."""
        titles = ("norm of the gradient", "norm of the parameter", "relative update")
        figure = plot_lines({t: s[:3] for t, s in self._titled().items()}, titles, "recorded step", is_log=True)
        figure.axes[2].axhline(1e-3, color="gray", linestyle=":", zorder=0)
        return figure

    def color_dim(self) -> Figure:
        """Draw the histograms of each gradient side by side, as log(1 + count), the large ones on top."""
        stats, decades = self._titled(), math.log10(2)
        taken = [s.hist[s.hist[:, 0].isfinite()].sum(dim=0) for s in stats.values()]
        bins = torch.stack(taken).sum(dim=0).nonzero()[:, 0].tolist() or [0, N_BINS - 1]
        shown = (LOWEST + bins[0]) * decades, (LOWEST + bins[-1] + 1) * decades
        whole = LOWEST * decades, (LOWEST + N_BINS) * decades
        return plot_histograms(stats, "log10 |gradient|", "recorded step", whole, shown=shown)

    def dead_chart(self) -> Figure:
        """Draw the fraction of each gradient that is exactly zero over the steps."""
        return plot_dead(self._titled(), "fraction zero", "recorded step")

    def _titled(self) -> dict[str, ParameterStats]:
        """Return the statistics of each parameter by its title in a plot; frozen parameters are left out."""
        self._require_a_fit()
        idle = set(self.without_gradient)
        names = [name for name in self.names if name not in idle & self._frozen] or self.names
        return {f"{name} (no gradient)" if name in idle else name: s for name, s in self._read(names).items()}

    def figures(self) -> dict[str, Figure]:
        """Return all plots by name; none before a fit. A `RunCallback` keeps them."""
        if not self._steps:
            return {}
        return {
            "gradients": self.plot_stats(),
            "gradient_histograms": self.color_dim(),
            "dead_gradients": self.dead_chart(),
        }

    def __repr__(self) -> str:
        idle = self.without_gradient if self._steps else []
        more = f" and {len(idle) - 5} more" if len(idle) > 5 else ""
        ending = f"; without gradient: {', '.join(idle[:5])}{more}" if idle else ""
        return f"GradientStats: {len(self.names)} parameters, {len(self._steps)} steps{ending}"
