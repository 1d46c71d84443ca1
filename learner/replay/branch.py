"""Live a part of a run twice or more: as it was, and with something changed; and compare what comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from learner.callback import Callback
from learner.data.loaders import Loaders, role_of
from learner.data.numbers import whole_number
from learner.errors import LearnerError
from learner.interrogate.layers import inside
from learner.loop.checks import refuse_while_running
from learner.loop.gather import Gather
from learner.loop.types import Learner
from learner.records.ids import SampleIds
from learner.replay.changes import BatchChange
from learner.replay.find import at_step
from learner.replay.rewind import travelled
from learner.replay.walk import Walk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AS_IT_WAS = "as it was"
Change = Callable[[Learner], None] | BatchChange


class Future(NamedTuple):
    """What came of one way of going on.

    Attributes:
        rows: of its history.
        weights: of each layer at the end, as one row of numbers.
        predictions: by the name of a loader: sample numbers, and what the model says of each.
    """

    rows: list[dict[str, Any]]
    weights: dict[str, Tensor]
    predictions: dict[str, tuple[np.ndarray, Any]]


class Branch:
    """Futures of one moment of a run: as it was, and one for each change, by its name.

    Args:
        step: optimizer steps that were made when they part.
        futures: by name, the one without a change first.

    Attributes:
        step: as given.
        names: of the changes.
        history: for each future its rows, one for each training batch: `n_steps` made after it, `epoch`, `i` and
            `train/loss`; and a last one with the metrics of the other loaders at the end, as `valid/loss`.
    """

    def __init__(self, step: int, futures: Mapping[str, Future]) -> None:
        self.step, self._futures = step, dict(futures)
        self.names = [name for name in futures if name != AS_IT_WAS]
        self.history = {name: future.rows for name, future in futures.items()}

    def difference(self) -> dict[str, dict[str, float]]:
        """Return how far the weights of each layer are from those of the future as it was.

        It is the length of the difference over that of the weights, 0 where each bit is the same.
        """
        first = self._futures[AS_IT_WAS].weights
        return {
            name: {layer: _distance(first[layer], other) for layer, other in self._futures[name].weights.items()}
            for name in self.names
        }

    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """Return which samples of the loaders that validate end differently, for each change, the farthest first.

        Where the model gives a row of numbers for each sample, as for classes, those are the samples whose class is
        another one; else those whose prediction is. Each row has the `loader`, the number of the `sample`, the
        `distance` of the two predictions, and the class or prediction in both futures.
        """
        first = self._futures[AS_IT_WAS].predictions
        return {name: _moved(name, first, self._futures[name].predictions) for name in self.names}

    def plot(self) -> Figure:
        """Draw the losses, their distance from those of the future as it was, and that of the layers."""
        from learner.drawing import panels

        figure, (losses, apart, layers) = panels(3)
        first, of_layers = _losses(self.history[AS_IT_WAS]), self.difference()
        losses.plot(*first, color="black", label=AS_IT_WAS)
        differences: list[np.ndarray] = []
        for k, name in enumerate(self.names):
            steps, values = _losses(self.history[name])
            losses.plot(steps, values, color=f"C{k}", label=name)
            n = min(len(values), len(first[1]))
            differences.append(np.subtract(values[:n], first[1][:n]))
            apart.plot(steps[:n], differences[-1], color=f"C{k}", label=name)
            distances = of_layers[name]
            layers.barh(
                np.arange(len(distances)) + 0.8 * k / len(self.names),
                list(distances.values()),
                0.8 / len(self.names),
                color=f"C{k}",
            )
            layers.set_yticks(range(len(distances)), list(distances))
        layers.invert_yaxis()
        losses.set(title="loss", xlabel="step")
        apart.set(title="loss, less that as it was", xlabel="step")
        # Both have a jump in them as a rule, beside which one would see nothing else.
        if all(value > 0 for line in losses.lines for value in line.get_ydata()):
            losses.set_yscale("log")
        sizes = np.abs(np.concatenate(differences))
        if (sizes > 0).any():
            apart.set_yscale("symlog", linthresh=float(np.median(sizes[sizes > 0])))
        apart.axhline(0, color="black", linewidth=0.8)
        layers.set(title="distance of the weights")
        losses.legend()
        return figure

    def __repr__(self) -> str:
        lines = [f"Branch at step {self.step}: {AS_IT_WAS}, {', '.join(self.names)}"]
        for name, rows in self.history.items():
            means = {key: value for key, value in rows[-1].items() if "/" in key}
            lines.append(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in means.items()))
        return "\n".join(lines)


def branch(
    learn: Learner,
    path: str | os.PathLike[str],
    step: int,
    n_steps: int,
    change: Change | Mapping[str, Change],
    cbs: Any = None,
) -> Branch:
    """Live a part of a run that kept checkpoints twice: as it was, and after `change(learn)`; compare the two.

    Nothing of it stays: it happens in a sandbox, and no file is written. `learner.replay` has changes ready:
    `without(ids)` and `relabelled({id: label})` of the batch, `lr(factor)`, and `seed(other)`, which says how much
    of a difference is chance.

    Args:
        learn: the learner.
        path: as for `rewind`.
        step: where the futures part, as for `rewind`.
        n_steps: how many optimizer steps of each.
        change: a function that changes the learner, or several by name, for a future each.
        cbs: callbacks that `fit` was given.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range, or a change returns something.
        LearnerError: as for `rewind`; if fewer steps are left, or a change replaces the model, or the batch does
            not hold the samples that a change names.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from callbacks import CheckpointCallback
        >>> from learner import Learner, Loaders
        >>> from learner.replay import lr, without
        >>> x, folder = torch.linspace(-1, 1, 20)[:, None], tempfile.mkdtemp()
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), batch_size=4)
        >>> learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=CheckpointCallback(folder))
        >>> learn.fit(3)
        >>> futures = learn.branch(folder, step=7, n_steps=2, change={"same": lambda learn: None, "half": lr(0.5)})
        >>> futures.difference()["same"], futures.difference()["half"]["Linear"] > 0
        ({'Linear': 0.0}, True)
    """
    refuse_while_running(learn, "branch")
    changes, n_steps = _checked_changes(change), whole_number(n_steps, "n_steps")
    if n_steps < 1:
        raise ValueError(f"`n_steps` must be at least 1, got {n_steps}.")
    with travelled(learn, path, at_step(step), cbs) as walk:
        return Branch(
            walk.now.n_steps,
            {name: _lived(learn, walk, n_steps, one) for name, one in {AS_IT_WAS: None, **changes}.items()},
        )


def _checked_changes(change: Any) -> dict[str, Change]:
    """Return changes by name.

    Raises:
        TypeError, ValueError: if one is not a function, or there is none.
    """
    changes = dict(change) if isinstance(change, Mapping) else {_name_of(change): change}
    if not changes:
        raise ValueError("`change` must hold a change at least, got none; do {'half the rate': lr(0.5)}.")
    for name, one in changes.items():
        if not isinstance(name, str) or name == AS_IT_WAS:
            raise ValueError(f"`change` must have names that are text and not {AS_IT_WAS!r}, got {name!r}.")
        if not (callable(one) or isinstance(one, BatchChange)) or isinstance(one, type):
            raise TypeError(f"`change` must be a function of the learner, got {one!r}; do `lambda learn: ...`.")
    return changes


def _name_of(change: Any) -> str:
    name = getattr(change, "__name__", "")
    return name if name and name != "<lambda>" else "changed"


def _lived(learn: Learner, walk: Walk, n_steps: int, change: Change | None) -> Future:
    """Go on from where the walk stands, and come back there."""
    n_before = len(walk.passed)
    with learn.sandbox(), walk.coming_back():
        if change is not None:
            walk.change(change)
        last = walk.now.n_steps + n_steps
        if not walk.go(lambda now: now.n_steps >= last):
            left = walk.n_steps_of_fit - walk.now.n_steps
            raise LearnerError(f"`n_steps` must be at most {left}, the steps that are left of the fit, got {n_steps}.")
        passed, losses = walk.passed[n_before:], walk.losses[n_before:]
        rows: list[dict[str, Any]] = [
            {"n_steps": now.n_steps, "epoch": now.epoch, "i": now.i, "train/loss": loss}
            for now, loss in zip(passed, losses, strict=True)
        ]
        predictions: dict[str, tuple[np.ndarray, Any]] = {}
        ending: dict[str, Any] = {"n_steps": learn.n_steps}
        for name in Loaders.of(learn.dls):
            if role_of(name) == "valid":
                gather = _Predictions()
                metrics = learn.validate(name, cbs=gather)
                ending.update({f"{name}/{metric}": value for metric, value in metrics.items()})
                predictions[name] = gather.result()
        return Future([*rows, *([ending] if len(ending) > 1 else [])], _weights_of(learn), predictions)


class _Predictions(Callback):
    """Keep what a pass predicts, with the numbers of the samples."""

    order = Gather.order

    def __init__(self) -> None:
        self._gather, self._ids = Gather(), list[np.ndarray]()
        self._known: SampleIds | None = None
        self._stack = ExitStack()

    def before_epoch(self, learn: Learner) -> None:
        try:
            self._known = self._stack.enter_context(SampleIds(learn.dl))
        except ValueError:  # it cannot tell: they are numbered as they come
            self._known = None

    def after_batch(self, learn: Learner) -> None:
        self._gather.after_batch(learn)
        if self._known is not None:
            try:
                self._ids.append(self._known.of_batch(learn.i))
            except LearnerError:  # it hands out names
                self._known, self._ids = None, []

    def cleanup_epoch(self, learn: Learner) -> None:
        self._stack.close()

    def result(self) -> tuple[np.ndarray, Any]:
        preds, _ = self._gather.result()
        n = len(preds) if isinstance(preds, Tensor) else 0
        ids = np.concatenate(self._ids) if self._ids else np.arange(n)
        return ids, preds


def _weights_of(learn: Learner) -> dict[str, Tensor]:
    """Return the weights of each layer that has some of its own, on the CPU, as one row."""
    found = {}
    for name, module in inside(learn.model).named_modules():
        own = [p.detach().flatten().double().cpu() for p in module.parameters(recurse=False)]
        if own:
            found[name or type(module).__name__] = torch.cat(own)
    return found


def _distance(first: Tensor, other: Tensor) -> float:
    length = float(first.norm())
    return float((other - first).norm()) / (length or 1.0)


def _moved(name: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each sample of which two models say something else."""
    rows = []
    for loader, (ids, preds) in other.items():
        was = first[loader][1]
        if not isinstance(preds, Tensor) or not isinstance(was, Tensor) or preds.shape != was.shape or not preds.ndim:
            continue
        distances = (preds - was).double().flatten(1).norm(dim=1) if preds.ndim > 1 else (preds - was).double().abs()
        has_classes = preds.ndim == 2 and preds.shape[1] > 1 and preds.is_floating_point()
        said = [values.argmax(dim=1) if has_classes else values for values in (was, preds)]
        is_moved = said[0] != said[1] if has_classes else distances > 0
        for k in is_moved.nonzero().flatten().tolist():
            row = {"loader": loader, "sample": int(ids[k]), "distance": float(distances[k])}
            rows.append(row | {AS_IT_WAS: said[0][k].tolist(), name: said[1][k].tolist()})
    return sorted(rows, key=lambda row: -row["distance"])


def _losses(rows: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    of_batches = [row for row in rows if "train/loss" in row]
    return [row["n_steps"] for row in of_batches], [row["train/loss"] for row in of_batches]
