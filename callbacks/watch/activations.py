"""Watch the output of each layer while a model trains: its mean, its spread, and how much of it is dead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks.watch.blocks import joined, next_row, read, room_after, taken
from callbacks.watch.histogram import BINS_PER_UNIT, LARGEST, histogram
from callbacks.watch.hooks import HooksCallback, checked_count, first_tensor
from callbacks.watch.layer_stats import LayerCall, LayerStats, pack_calls, unpack_calls
from callbacks.watch.measure import ROW, SmallOutputs, measure
from callbacks.watch.stats_plots import plot_dead, plot_histograms, plot_lines
from callbacks.watch.units import can_die, saturated, saturates
from learner import Learner, LearnerError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class ActivationStats(HooksCallback):
    """Record mean, standard deviation and a histogram of |output| of each layer, batch by batch, of any model.

    Of an output that holds several tensors (LSTM, attention) it is the first one. Half precision and whole numbers
    are computed in float32, complex numbers by their absolute value. A layer that runs several times in a batch is
    recorded each time, in order. All stays on the device until it is read, without waiting for it; a recorded
    batch takes under half a kB a layer. What was recorded stays readable after the fit, until the next one.

    Args:
        modules: modules or dotted names, one or several; all leaves of the model if None.
        mod_filter: a function of a module that says whether to keep it.
        on_train: whether to look at passes that train, those over loaders named `train…`.
        on_valid: whether to look at validation passes within the fit, over loaders named `valid…`.
        every: how often to look, as any callback's: 10 is the tenth batch of these passes, the twentieth, …
        hist_every: take a histogram, the most expensive part, of the first batch looked at and each n-th after it
            [batches].
        hist_rows: take it from the first rows of the output's first axis only; from all if None [samples].

    Attributes:
        never_run: names of the layers that gave no tensor yet, and are not drawn.

    Reads:
        `model`, `role`, `i`, `epoch`, `dl_name`.

    Raises:
        TypeError, ValueError: as `HooksCallback`.
        LearnerError: when read before a fit.

    Source:
        The statistics and pictures of the fast.ai course, part 2 (2022), lesson "Initializing".

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> from learner import Loaders
        >>> x = torch.linspace(-1, 1, 32)[:, None]
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> stats = ActivationStats()
        >>> Learner(model, Loaders.from_arrays(train=(x, x), batch_size=8), mse_loss, cbs=stats).fit(2)
        >>> stats
        ActivationStats: 3 layers, 8 batches
        >>> stats.layer("1").hist.shape, stats.layer("1").mean.min() >= 0
        (torch.Size([8, 40]), tensor(True))
    """

    ranks = "first"
    is_observer = True

    def __init__(
        self,
        modules: nn.Module | str | Iterable[nn.Module | str] | None = None,
        mod_filter: Callable[[nn.Module], object] | None = None,
        on_train: bool = True,
        on_valid: bool = False,
        every: int | str | None = None,
        *,
        hist_every: int = 1,
        hist_rows: int | None = None,
    ) -> None:
        super().__init__(self._measure, modules, mod_filter, on_train, on_valid, every)
        self.hist_every = checked_count("hist_every", hist_every)
        self.hist_rows = None if hist_rows is None else checked_count("hist_rows", hist_rows)
        # Plain lists for each layer, which a sandbox puts back: its calls, and a row in one of the blocks for each.
        self._calls: dict[str, list[LayerCall]] = {}
        self._blocks: dict[str, list[Tensor]] = {}
        self._where: tuple[int, str | None, int] = (0, None, 0)
        self._n_looked_at = 0
        self._takes_hist = True
        self._can_die: set[str] = set()
        self._saturating: set[str] = set()
        self._small = SmallOutputs()

    # -- recording ---------------------------------------------------------------------------------------------

    def before_fit(self, learn: Learner) -> None:
        """Start clean, and put a hook on each layer."""
        super().before_fit(learn)
        self._calls = {name: [] for name in self.layers}
        self._blocks = {name: [] for name in self.layers}
        self._n_looked_at = 0
        watched = self._chosen(learn.model)
        self._can_die = {name for name, module in watched.items() if can_die(module)}
        self._saturating = {name for name, module in watched.items() if saturates(module)}
        hook: Any
        for hook, name in zip(self.hooks, self.layers, strict=True):
            hook.calls, hook.blocks = self._calls[name], self._blocks[name]

    def around_predict(self, learn: Learner, action: Callable[[], object]) -> None:
        """Note which batch this is, and record while the model runs."""
        self._where = (learn.epoch, learn.dl_name, learn.i)
        self._takes_hist = self._n_looked_at % self.hist_every == 0
        self._n_looked_at += learn.role in self.roles
        try:
            super().around_predict(learn, action)
        finally:
            self._small.write()

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded so far: numbers in a few tensors, since there may be many."""
        loaders = list(dict.fromkeys(call.where[1] for calls in self._calls.values() for call in calls))
        calls = {name: pack_calls(calls, loaders) for name, calls in self._calls.items()}
        blocks = {name: taken(self._blocks[name], len(calls)) for name, calls in self._calls.items()}
        return {
            "layers": dict(self.layers),
            "loaders": loaders,
            "calls": calls,
            "blocks": blocks,
            "n_looked_at": self._n_looked_at,
            "can_die": sorted(self._can_die),
            "saturating": sorted(self._saturating),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, into the lists that the hooks hold."""
        self.layers, self._n_looked_at, loaders = state["layers"], state["n_looked_at"], state["loaders"]
        self._can_die, self._saturating = set(state["can_die"]), set(state["saturating"])
        for name, calls in state["calls"].items():
            self._calls.setdefault(name, [])[:] = unpack_calls(calls, loaders)
            self._blocks.setdefault(name, [])[:] = room_after(state["blocks"][name])

    def join_parts(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what `state_dict` would give of several parts of a training, of what it gives of each."""
        loaders = list(dict.fromkeys(loader for state in states for loader in state["loaders"]))
        calls: dict[str, list[LayerCall]] = {name: [] for name in states[0]["calls"]}
        for state in states:
            for name, packed in state["calls"].items():
                calls[name] += unpack_calls(packed, state["loaders"])
        return {
            **states[0],
            "loaders": loaders,
            "calls": {name: pack_calls(its, loaders) for name, its in calls.items()},
            "blocks": {name: joined([state["blocks"][name] for state in states]) for name in calls},
            "n_looked_at": sum(state["n_looked_at"] for state in states),
        }

    def _measure(self, hook: Any, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensor = output if isinstance(output, Tensor) else first_tensor(output)
        if tensor is None:
            return
        is_nested = tensor.is_nested
        if is_nested:  # sequences of different lengths
            tensor = torch.cat(tensor.unbind())
        n = tensor.numel()
        if not n:
            return
        flat = tensor.detach().reshape(-1)
        if flat.dtype != torch.float32:
            flat = _as_float(flat)
        row = next_row(hook.blocks, len(hook.calls), ROW, flat.dtype, flat.device)
        if self._takes_hist and saturates(module):
            row[0] = math.nan if is_nested else saturated(module, tensor.detach())
        n_hist = 0
        if self._takes_hist and self.hist_rows is None and self._small.takes(flat):
            self._small.add(flat, row)
            n_hist = n
        else:
            measure(flat, row)
            if self._takes_hist:
                if self.hist_rows is not None and tensor.ndim:
                    flat = flat[: self.hist_rows * (n // len(tensor))]
                row[3:] = histogram(flat)
                n_hist = len(flat)
        hook.calls.append(LayerCall(self._where, n, n_hist))

    # -- reading, which waits for the device -------------------------------------------------------------------

    @property
    def never_run(self) -> list[str]:
        """Names of the layers that gave no tensor in any batch looked at."""
        return [name for name, calls in self._calls.items() if not calls]

    def layer(self, name: str, dl_name: str | None = None) -> LayerStats:
        """Return what a layer gave, in the order of running.

        Args:
            name: a dotted name, one of `layers`.
            dl_name: only passes over this loader; all if None.
        """
        if name not in self._calls_of(dl_name):
            raise ValueError(f"`name` must be one of {', '.join(map(repr, self._calls))}, got {name!r}.")
        kept = [(i, call) for i, call in enumerate(self._calls[name]) if dl_name in (None, call.where[1])]
        rows = read(self._blocks[name], ROW).double()[[i for i, _ in kept]]
        return LayerStats.from_rows(rows, [call for _, call in kept])

    def saturation(self, name: str, dl_name: str | None = None) -> Tensor:
        """Return the fraction of an activation's output at the ends of its range, for each time that it ran [0-1].

        That is, above 0.95 or below -0.95 for `Tanh`, above 0.975 or below 0.025 for `Sigmoid`; of `Softmax` it is the
        fraction of distributions with a probability above 0.95. NaN where no histogram was taken, and for outputs that
        hold a NaN.

        Args:
            name: one of `layers`, an activation that has such ends.
            dl_name: only passes over this loader; all if None.

        Raises:
            ValueError: if there is no such layer, or it has no ends.
        """
        dead = self.layer(name, dl_name).dead  # NaN where nothing is known
        if name not in self._saturating:
            raise ValueError(
                f"`name` must be a layer whose range has ends, as tanh, sigmoid and softmax, got {name!r}, a "
                f"{self.layers[name]}; there is {sorted(self._saturating)}."
            )
        kept = [i for i, call in enumerate(self._calls[name]) if dl_name in (None, call.where[1])]
        return torch.where(dead.isnan(), math.nan, read(self._blocks[name], ROW).double()[kept, 0])

    def to_pandas(self, dl_name: str | None = None) -> pd.DataFrame:
        """Return a row for each time a layer ran; needs pandas.

        Columns are those of `LayerStats` and `layer`, `epoch`, `dl_name`, `batch`; `hist` is an array, or None where
        not taken. Layers that never ran are in the frame's `attrs["never_run"]`.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("`to_pandas` needs pandas; do `pip install pandas`, or use `layer(name)`.") from None
        rows = []
        for name, calls in self._calls_of(dl_name).items():
            stats = self.layer(name, dl_name)
            hists = [hist if call.n_hist else None for hist, call in zip(stats.hist.numpy(), calls, strict=True)]
            numbers = zip(stats.mean.tolist(), stats.std.tolist(), stats.dead.tolist(), hists, strict=True)
            rows += [(name, *call.where, *row) for call, row in zip(calls, numbers, strict=True)]
        columns = ["layer", "epoch", "dl_name", "batch", "mean", "std", "dead", "hist"]
        frame = pd.DataFrame(rows, columns=columns)
        frame.attrs["never_run"] = self.never_run
        return frame

    def plot_stats(self, dl_name: str | None = None) -> Figure:
        """Draw mean and standard deviation of each layer over the batches; return the figure."""
        return plot_lines(
            {title: stats[:2] for title, stats in self._titled(dl_name).items()},
            ("mean", "standard deviation"),
            "recorded batch",
        )

    def color_dim(self, dl_name: str | None = None) -> Figure:
        """Draw the histograms of each layer side by side, as log(1 + count), large |activations| on top.

        Bins above all that was counted are left out.
        """
        stats = self._titled(dl_name)
        counted = torch.stack([layer.hist.nansum(dim=0) for layer in stats.values()]).sum(dim=0).nonzero()
        top = (int(counted[-1]) + 1) / BINS_PER_UNIT if len(counted) else LARGEST
        return plot_histograms(stats, "|activation|", "recorded batch", (0, LARGEST), shown=(0, top))

    def dead_chart(self, dl_name: str | None = None) -> Figure:
        """Draw the fraction of each layer's activations near zero (|activation| < 0.25) over the batches.

        Of all leaves of a model only those are drawn whose units can die, as `ReLU`, and, with the fraction that is at
        the ends of their range, those that saturate, as `Tanh`; all if there is none of them. Layers that were asked
        for by `modules` or `mod_filter` are drawn in any case.
        """
        stats = self._titled(dl_name)
        titles = dict(zip(self._calls, stats, strict=True))
        drawn = self._can_die | self._saturating
        if self.modules is not None or self.mod_filter is not None or not drawn:
            drawn = set(titles)
        shown: dict[str, LayerStats] = {}
        for name, title in titles.items():
            if name in self._saturating:
                shown[f"{title}: saturated"] = stats[title]._replace(dead=self.saturation(name, dl_name))
            elif name in drawn:
                shown[title] = stats[title]
        label = "fraction near zero, or saturated" if self._saturating else "fraction near zero"
        return plot_dead(shown, label, "recorded batch")

    def _calls_of(self, dl_name: str | None) -> dict[str, list[LayerCall]]:
        if not self._calls:
            raise LearnerError("`ActivationStats` must have watched a fit before it is read; call `learn.fit` first.")
        known = {call.where[1] for calls in self._calls.values() for call in calls}
        if dl_name is None:
            return self._calls
        if dl_name not in known:
            raise ValueError(f"`dl_name` must be a loader that was watched, got {dl_name!r}; there is {known}.")
        return {name: [call for call in calls if call.where[1] == dl_name] for name, calls in self._calls.items()}

    def _titled(self, dl_name: str | None) -> dict[str, LayerStats]:
        """Return the statistics of each layer by its title in a plot."""
        layers = {name: self.layer(name, dl_name) for name in self._calls_of(dl_name)}
        return {
            f"{name} {self.layers[name]}".strip() + ("" if len(stats.mean) else " (never ran)"): stats
            for name, stats in layers.items()
        }

    def figures(self) -> dict[str, Figure]:
        """Return all plots by name; none before a fit. A `RunCallback` keeps them."""
        if not any(self._calls.values()):
            return {}
        return {
            "activations": self.plot_stats(),
            "activation_histograms": self.color_dim(),
            "dead_activations": self.dead_chart(),
        }

    def __repr__(self) -> str:
        n_batches = len({call.where for calls in self._calls.values() for call in calls})
        never = f"; never run: {', '.join(self.never_run)}" if self.never_run else ""
        return f"ActivationStats: {len(self.layers)} layers, {n_batches} batches{never}"


def _as_float(flat: Tensor) -> Tensor:
    if flat.is_complex():
        flat = flat.abs()
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
