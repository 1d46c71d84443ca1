"""What metrics have measured in one pass: sums of functions, objects that gather, batches that wait to be joined."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from callbacks.measure.batch_buffer import BatchBuffer
from callbacks.measure.metric_functions import Metric
from callbacks.measure.metric_objects import is_object, joined, joined_state, put_back, state_of
from learner.data.moving import detached
from learner.history import Averages
from learner.loop.checks import checked_scalar
from learner.ranks.job import Job

# What waits to be evaluated at once: enough that the fixed cost of an evaluation is spread thin.
_MAX_BATCHES = 64
_MAX_ELEMENTS = 2**20


class MetricPass:
    """What has been measured so far in one pass.

    Args:
        metrics: functions and objects by name.
        outer: the pass around this one, whose objects are not to be touched; or None.
    """

    def __init__(self, metrics: dict[str, Any], outer: MetricPass | None) -> None:
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
        """Measure a batch of so many samples, whose loss is a mean over `weight` of them."""
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
    def of(cls, metrics: dict[str, Any], state: dict[str, Any]) -> MetricPass:
        """Return a pass that has measured what `state` gave, with objects of its own."""
        one = cls(copy.deepcopy(metrics), outer=None)
        one.put_back(state)
        return one

    @staticmethod
    def joined(passes: list[MetricPass]) -> dict[str, Any]:
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
