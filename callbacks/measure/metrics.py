"""Measure how good the predictions are: functions of a batch, or objects that gather over a pass."""

from __future__ import annotations

from functools import partial
from typing import Any

from callbacks.measure.metric_objects import is_object
from callbacks.measure.metric_pass import MetricPass
from learner import Callback, Learner
from learner.loop.weight import batch_weight


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
        >>> import torch
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
    is_observer = True

    def __init__(self, *metrics: Any, **named: Any) -> None:
        self.metrics = _by_name(metrics, named)
        self._pass: MetricPass | None = None

    def before_fit(self, learn: Learner) -> None:
        """Refuse a name that another callback of this kind has as well, before any time is spent."""
        for cb in learn.cbs:
            if isinstance(cb, MetricsCallback) and cb is not self:
                for name in self.metrics.keys() & cb.metrics.keys():
                    raise _used_twice(name)

    def before_epoch(self, learn: Learner) -> None:
        """Start from nothing."""
        self._pass = MetricPass({} if learn.role == "infer" else self.metrics, outer=self._pass)

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
        passes = [MetricPass.of(self.metrics, state) for state in states if state is not None]
        return {"kinds": self._kinds(), **MetricPass.joined(passes)} if passes else None

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
