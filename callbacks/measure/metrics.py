"""Measure how good the predictions are: functions of a batch, or objects that gather over a pass."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from callbacks.measure.batch_buffer import BatchBuffer
from callbacks.measure.metric_functions import Metric
from callbacks.measure.metric_objects import is_object, joined, joined_state, put_back, state_of
from learner import Callback, Learner
from learner.data.moving import detached
from learner.history import Averages
from learner.loop.checks import checked_scalar
from learner.loop.weight import batch_weight
from learner.ranks.job import Job

# What waits to be evaluated at once: enough that the fixed cost of an evaluation is spread thin.
_MAX_BATCHES = 64
_MAX_ELEMENTS = 2**20


class MetricsCallback(Callback):
    """Add metrics to the loss in `learn.metrics` and `learn.history`, for each pass that has targets.

    Args:
        metrics: functions `(preds, target) -> mean over the batch`, averaged over the pass as the loss is, by
            `learn.weight` or else by batch size; or
            objects with `reset`, `update(preds, target)` and `compute`, such as those of torchmetrics and torcheval.
            A function is named as in its definition, an object by its class, the second of one class with a `_2`.
        named: the same under names of your own.

    A function may say which values are better (`f.higher_is_better = True`, as torchmetrics' objects do), for the
    callbacks that choose by a metric; and over which share of a batch it is a mean (`f.share_of(target)`, [0-1]), so
    that batches with few labels weigh little, as `accuracy` does. One that is a mean over samples can say so by
    `@mean_over_samples`, as `accuracy` does. It then is not called for each batch, but once for many joined together.

    An object is moved to the device of the predictions and reset when a pass begins. A pass within a pass is measured
    by copies, so that neither disturbs the other. Where several processes train together, what they have measured is
    joined: sums and weights of functions, and objects of torchmetrics or with a `merge_state(others)`. Batches without
    a target, and passes over `infer` loaders, are not measured.

    A checkpoint within a pass keeps what was measured so far. Of an object that is what its `state_dict` gives, or all
    of its attributes but functions and classes, if it has none; they must be plain data.

    Reads: preds, yb, batch_size, weight, role.
    Writes: metrics.

    Raises:
        TypeError: if one is neither function nor object of that kind.
        ValueError: if a name is used twice or is `loss`, or if a result is no scalar.
        TypeError: at the first checkpoint within a pass, naming the place, if an object keeps what is no plain data.

    Example:
        >>> from callbacks import accuracy
        >>> from learner import Loaders
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 1])
        >>> learn = Learner(torch.nn.Linear(3, 3), Loaders.from_arrays(train=(x, y), valid=(x, y), batch_size=2),
        ...                 torch.nn.functional.cross_entropy, cbs=MetricsCallback(accuracy))
        >>> learn.fit(20, lr=1.0)
        >>> learn.metrics["valid"]["accuracy"]
        1.0
    """

    order = -10

    def __init__(self, *metrics: Any, **named: Any) -> None:
        self.metrics = _by_name(metrics, named)
        self._pass: _Pass | None = None

    def before_fit(self, learn: Learner) -> None:
        """Refuse a name that another callback of this kind has as well, before any time is spent."""
        for cb in learn.cbs:
            if isinstance(cb, MetricsCallback) and cb is not self:
                for name in self.metrics.keys() & cb.metrics.keys():
                    raise _used_twice(name)

    def before_epoch(self, learn: Learner) -> None:
        """Start from nothing."""
        self._pass = _Pass({} if learn.role == "infer" else self.metrics, outer=self._pass)

    def after_batch(self, learn: Learner) -> None:
        """Take in what was predicted, if anything was."""
        if self._pass is not None and learn.yb is not None and learn.preds is not None and learn.batch_size:
            weight = learn.batch_size if learn.weight is None else batch_weight(learn)
            self._pass.add(learn.preds, learn.yb, learn.batch_size, weight)

    def after_epoch(self, learn: Learner) -> None:
        """Read the results; waits for the device."""
        metrics = learn.metrics[learn.dl_name]
        for name, value in self._pass.results(learn.job).items() if self._pass is not None else ():
            if name in metrics:
                raise _used_twice(name)
            metrics[name] = value

    def cleanup_epoch(self, learn: Learner) -> None:
        """Go back to the pass around this one."""
        if self._pass is not None:
            self._pass = self._pass.outer

    def state_dict(self) -> dict[str, Any] | None:
        """Return what was measured so far in this pass; None outside of one, where there is nothing to keep."""
        return None if self._pass is None else {"kinds": self._kinds(), **self._pass.state()}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take over what `state_dict` gave, in a pass."""
        if self._pass is not None and state is not None:
            self._pass.put_back(state)

    def join_states(self, states: list[dict[str, Any] | None]) -> dict[str, Any] | None:
        """Return what one process would have measured so far, of what each of several has, as `state_dict` gives it."""
        passes = [_Pass.of(self.metrics, state) for state in states if state is not None]
        return {"kinds": self._kinds(), **_Pass.joined(passes)} if passes else None

    def empty_state(self, state: dict[str, Any] | None) -> None:
        """Return the state of a process that has measured nothing in this pass."""
        return

    def differences(self, state: dict[str, Any] | None) -> list[str]:
        """Say whether other metrics were measured in the pass of a checkpoint."""
        if state is None or state["kinds"] == self._kinds():
            return []
        return [f"what is measured is {self._kinds()} here, {state['kinds']} saved"]

    def _kinds(self) -> dict[str, str]:
        return {name: type(m).__name__ if is_object(m) else "function" for name, m in self.metrics.items()}


class _Pass:
    """What has been measured so far in one pass."""

    def __init__(self, metrics: dict[str, Any], outer: _Pass | None) -> None:
        self.outer = outer
        objects = {name: metric for name, metric in metrics.items() if is_object(metric)}
        functions = {name: metric for name, metric in metrics.items() if name not in objects}
        # An object has one state, which the pass around this one still needs.
        self._objects = copy.deepcopy(objects) if outer else objects
        for metric in self._objects.values():
            metric.reset()
        self._means = {name: f for name, f in functions.items() if getattr(f, "is_mean_over_samples", False)}
        self._others = {name: f for name, f in functions.items() if name not in self._means}
        self._names = list(metrics)
        self._averages = Averages()
        self._is_updated = self._is_placed = False
        self._kind: Any = None  # what batches must have in common to be joined
        self._room = 0  # for so many
        self._waiting: BatchBuffer | None = None

    def add(self, preds: Any, target: Any, size: int, weight: Tensor | float | None = None) -> None:
        if self._means:
            self._add_to_means(preds, target, size)
        if self._others:
            self._evaluate(self._others, detached(preds), target, size, weight)
        if self._objects:
            self._update(detached(preds), target)

    def _add_to_means(self, preds: Any, target: Any, size: int) -> None:
        if not (isinstance(preds, Tensor) and isinstance(target, Tensor)):
            self._evaluate(self._means, detached(preds), target, size)
            return
        kind = preds.shape, target.shape, preds.dtype, target.dtype, size
        if kind == self._kind and self._room > 1:
            if self._waiting is None:
                self._waiting = BatchBuffer(preds, target, self._room)
            self._waiting.add(preds, target)
            if self._waiting.n == self._room:
                self._flush()
            return
        # The first of its kind does not wait, so that what does not fit fails at the batch to blame.
        self._flush()
        self._evaluate(self._means, preds.detach(), target, size)
        n_elements = preds.numel() + target.numel() if preds.ndim and target.ndim else _MAX_ELEMENTS
        self._kind, self._waiting = kind, None
        self._room = min(_MAX_BATCHES, _MAX_ELEMENTS // max(1, n_elements))

    def _flush(self) -> None:
        if self._waiting is not None and self._waiting.n:
            size: int = self._kind[-1]
            self._evaluate(self._means, *self._waiting.joined(), size * self._waiting.n)
            self._waiting.n = 0

    def _evaluate(
        self, functions: dict[str, Metric], preds: Any, target: Any, size: int, weight: Tensor | float | None = None
    ) -> None:
        """Average functions of a batch: means over samples by its size, means over labels by them, others by weight."""
        with torch.no_grad():
            for name, f in functions.items():
                value = checked_scalar(name, f(preds, target))
                if (share_of := getattr(f, "share_of", None)) is not None:  # it leaves out what has no label
                    share = share_of(target)
                    value = torch.where(share > 0, value * share, 0.0)
                    self._averages.add(_share(name), share, size)
                    self._averages.add(name, value, size)
                else:
                    self._averages.add(name, value, size if weight is None else weight)

    def _update(self, preds: Any, target: Any) -> None:
        if not self._is_placed:
            self._is_updated = self._is_placed = True
            for metric in self._objects.values():
                if isinstance(preds, Tensor) and hasattr(metric, "to"):
                    metric.to(preds.device)
        with torch.no_grad():
            for metric in self._objects.values():
                metric.update(preds, target)

    def results(self, job: Job) -> dict[str, float]:
        """Return what was measured, in all processes that train together."""
        self._flush()
        objects: dict[str, Any] = self._objects if self._is_updated else {}
        if job.world == 1:
            values = self._averages.means()
        else:
            every = job.gather((self._averages.totals(), objects), at="the metrics of a pass")
            values = Averages.joined(totals for totals, _ in every).means()
            gathered = [theirs for _, theirs in every if theirs]
            objects = {name: joined(name, [one[name] for one in gathered]) for name in self._objects if gathered}
        for name in self._names:
            if (share := values.get(_share(name))) is not None:
                values[name] = values[name] / share if share else math.nan
        for name, metric in objects.items():
            value = checked_scalar(name, metric.compute())
            values[name] = value.item() if isinstance(value, Tensor) else value
        return {name: values[name] for name in self._names if name in values}

    @classmethod
    def of(cls, metrics: dict[str, Any], state: dict[str, Any]) -> _Pass:
        """Return a pass that has measured what `state` gave, with objects of its own."""
        one = cls(copy.deepcopy(metrics), outer=None)
        one.put_back(state)
        return one

    @staticmethod
    def joined(passes: list[_Pass]) -> dict[str, Any]:
        """Return what `state` would give of a pass that has measured what several have."""
        for one in passes:
            one._flush()
        updated = [one._objects for one in passes if one._is_updated]
        return {
            "averages": Averages.joined(one._averages.totals() for one in passes).state_dict(),
            "joinable": None,
            "objects": {n: joined_state(n, [one[n] for one in updated]) for n in updated[0]} if updated else None,
        }

    def state(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        joinable = None
        if self._kind is not None:
            preds_shape, target_shape, preds_dtype, target_dtype, size = self._kind
            # Without rows they still say what the next batch must be like.
            preds, targets = (
                torch.empty(0, *preds_shape, dtype=preds_dtype),
                torch.empty(0, *target_shape, dtype=target_dtype),
            )
            if self._waiting is not None:
                preds, targets = self._waiting.rows()
            joinable = {"preds": preds, "targets": targets, "size": size, "room": self._room}
        return {
            "averages": self._averages.state_dict(),
            "joinable": joinable,
            "objects": {name: state_of(m) for name, m in self._objects.items()} if self._is_updated else None,
        }

    def put_back(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self._averages.load_state_dict(state["averages"])
        self._kind, self._waiting = None, None
        if state["joinable"] is not None:
            preds, targets = state["joinable"]["preds"], state["joinable"]["targets"]
            self._room = state["joinable"]["room"]
            self._kind = preds.shape[1:], targets.shape[1:], preds.dtype, targets.dtype, state["joinable"]["size"]
            for row in zip(preds, targets, strict=True):
                if self._waiting is None:
                    self._waiting = BatchBuffer(*row, self._room)
                self._waiting.add(*row)
        self._is_updated, self._is_placed = state["objects"] is not None, False
        for name, metric in self._objects.items() if self._is_updated else ():
            put_back(metric, state["objects"][name])


def _share(name: str) -> str:
    """Return under which name it is averaged how much of the batches a metric is a mean over."""
    return f"share of {name}"


def _by_name(metrics: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """Give each metric a name of its own, or say why it cannot have one."""
    found: dict[str, Any] = {}
    for metric in metrics:
        name = first = _name_of(metric)
        number = 1
        while is_object(metric) and name in found:
            number += 1
            name = f"{first}_{number}"
        if name in found:
            raise _used_twice(name)
        found[name] = metric
    for name, metric in named.items():
        if name in found:
            raise _used_twice(name)
        found[name] = metric
    for name, metric in found.items():
        if name == "loss":
            raise ValueError("a metric must have another name than 'loss', which is averaged anyway.")
        if isinstance(metric, type) or not (is_object(metric) or callable(metric)):
            hint = f"pass {metric.__name__}()" if isinstance(metric, type) else "pass metrics one by one"
            raise TypeError(
                f"metric `{name}` must be a function of (preds, target), or an object with `reset`, `update` and "
                f"`compute`, got {metric!r}; {hint}."
            )
        if is_object(metric) and sum(metric is other for other in found.values()) > 1:
            raise ValueError(f"metric `{name}` must be an object of its own, got one that has another name too.")
    return found


def _name_of(metric: Any) -> str:
    name: str = getattr(metric, "__name__", type(metric).__name__)
    if isinstance(metric, partial) or name == "<lambda>":
        raise ValueError(f"a metric must have a name, got {metric!r}; pass it as `name=...`.")
    return name


def _used_twice(name: str) -> ValueError:
    return ValueError(
        f"metric `{name}` must have a name of its own, got it twice; pass one of them as `other_name=...`."
    )
