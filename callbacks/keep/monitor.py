"""Follow one metric over the epochs of a fit: what the callbacks that choose or stop by a metric have in common."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from learner import Callback, Learner, LearnerError
from learner.data.loaders import role_of


class Best(NamedTuple):
    """An epoch, numbered as in the history, and what a metric was in it."""

    epoch: int
    value: float
    metric: str  # as in the history, `valid/loss`


class Monitor(Callback):
    """Hand on one metric of one loader, once for each epoch; a base class.

    What counts are the fit's own passes that went well. Not a pass within a pass, one that was cancelled or in which
    nothing was measured, nor any pass of a learning-rate range test.
    """

    order = 50

    def __init__(self, metric: str, loader: str, mode: Literal["min", "max"] | None) -> None:
        for name, value in (("metric", metric), ("loader", loader)):
            if not isinstance(value, str):
                raise TypeError(f"`{name}` must be a name, as in `learn.metrics`, got {value!r}.")
        if mode not in ("min", "max", None):
            raise ValueError(f"`mode` must be 'min' or 'max', got {mode!r}; it says which values are better.")
        self.metric, self.loader, self.mode = metric, loader, mode
        self._asked_mode = mode
        self.best: Best | None = None
        self._is_on = False
        self._start = 0

    def before_fit(self, learn: Learner) -> None:
        """Start clean; refuse a loader or a metric that does not exist."""
        from callbacks.train.lr_find import LRFinderCallback

        name, _, metric = self.metric.partition("/")
        if name in learn.dls and metric:
            if self.loader not in (name, "valid"):
                raise ValueError(
                    f"`metric` must be of loader {self.loader!r}, got {self.metric!r}; leave `loader` out."
                )
            self.loader, self.metric = name, metric
        if self.loader not in learn.dls:
            raise ValueError(f"`loader` must be one of {', '.join(map(repr, learn.dls))}, got {self.loader!r}.")
        self._check_metric(learn)
        self.mode = self._asked_mode or _better_values(self.metric, learn)
        self.best = None
        self._is_on = not any(isinstance(cb, LRFinderCallback) for cb in learn.cbs)
        self._start = learn.history.state_dict()["start"]

    def after_epoch(self, learn: Learner) -> None:
        """Hand on the value of this pass."""
        if not self._is_on or learn.is_side_pass or learn.dl_name != self.loader:
            return
        metrics = learn.metrics[self.loader]
        if "loss" not in metrics and learn.role != "infer":
            return  # every batch was cancelled
        if self.metric not in metrics:
            raise LearnerError(_unknown_metric(self.metric, self.loader, metrics))
        self._see(learn, Best(self._start + learn.epoch, float(metrics[self.metric]), f"{self.loader}/{self.metric}"))

    def better_in(self, row: Mapping[str, Any], best: Best | None) -> Best | None:
        """Return the value in a row of the history if it is better than `best`; None if not, or not measured then.

        Raises:
            LearnerError: if the loader was measured in that epoch, but not the metric.
        """
        name = f"{self.loader}/{self.metric}"
        if name in row:
            now = Best(row["epoch"], row[name], name)
            return now if self._is_better(now, best) else None
        if f"{self.loader}/loss" in row:
            known = [column.partition("/")[2] for column in row if column.startswith(f"{self.loader}/")]
            raise LearnerError(_unknown_metric(self.metric, self.loader, known))
        return None

    def cleanup_fit(self, learn: Learner) -> None:
        """Leave later validations alone."""
        self._is_on = False

    def state_dict(self) -> dict[str, Any]:
        """Return what is followed, and the best of it."""
        return {**self._followed(), "best": None if self.best is None else list(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.best = None if state["best"] is None else Best(*state["best"])

    def differences(self, state: dict[str, Any]) -> list[str]:
        """Say whether a checkpoint follows something else."""
        followed = self._followed()
        if self.metric == f"{state['loader']}/{state['metric']}":  # taken apart when a fit begins
            followed.update(loader=state["loader"], metric=state["metric"])
        return [
            f"`{name}` is {here!r} here, {state[name]!r} saved"
            for name, here in followed.items()
            if here != state[name] and None not in (here, state[name])  # None: derived when a fit begins
        ]

    def _followed(self) -> dict[str, str | None]:
        return {"metric": self.metric, "loader": self.loader, "mode": self.mode}

    def _see(self, learn: Learner, now: Best) -> None:
        """Do something with the value of an epoch."""
        raise NotImplementedError

    def _is_better(self, now: Best, best: Best | None, by_more_than: float = 0.0) -> bool:
        """Tell whether a value is an improvement; NaN never is, and anything else is one over nothing."""
        if best is None:
            return not math.isnan(now.value)
        gain = best.value - now.value if self.mode == "min" else now.value - best.value
        return gain > by_more_than

    def _check_metric(self, learn: Learner) -> None:
        """Refuse a metric that will not be measured, as far as that can be known before a batch was seen.

        Values that are logged are known when they come. So where something of the user's own may log, only what looks
        like a typing error is refused.
        """
        from callbacks.measure.metrics import MetricsCallback

        known = ["loss"] if role_of(self.loader) != "infer" else []
        if known:
            known += [name for cb in learn.cbs if isinstance(cb, MetricsCallback) for name in cb.metrics]
        if self.metric in known:
            return
        near = _nearest(self.metric, known, cutoff=0.8)
        is_typing_error = near is not None and near not in self.metric  # `loss_2` may well be a name of its own
        if is_typing_error or self.metric == "loss" or not _may_log(learn):
            raise ValueError(_unknown_metric(self.metric, self.loader, known))


def _better_values(metric: str, learn: Learner) -> Literal["min", "max"]:
    """Return which values of a metric are better, where the metric says so; ask where it does not."""
    from callbacks.measure.metrics import MetricsCallback

    if metric == "loss":
        return "min"
    for cb in learn.cbs:
        if isinstance(cb, MetricsCallback) and metric in cb.metrics:
            is_higher = getattr(cb.metrics[metric], "higher_is_better", None)
            if is_higher is not None:
                return "max" if is_higher else "min"
    raise ValueError(
        f"`mode` must be 'min' or 'max' for {metric!r}, which does not say which values are better, got None; add it."
    )


def _may_log(learn: Learner) -> bool:
    """Tell whether there is code that is not the library's own and gets the learner."""
    from callbacks.lambdas import LambdaCallback

    return type(learn) is not Learner or any(
        isinstance(cb, LambdaCallback) or type(cb).__module__.partition(".")[0] != "callbacks" for cb in learn.cbs
    )


def _nearest(metric: str, known: Iterable[str], cutoff: float) -> str | None:
    names = {name.lower(): name for name in known}
    match = difflib.get_close_matches(metric.lower(), names, n=1, cutoff=cutoff)
    return names[match[0]] if match else None


def _unknown_metric(metric: str, loader: str, known: Iterable[str]) -> str:
    """Return the message for a metric that nothing measures, with the nearest name."""
    near = _nearest(metric, known, cutoff=0.6)
    hint = f"did you mean {near!r}?" if near else "add it to a MetricsCallback, or give it to `learn.log`."
    return (
        f"`metric` must be one that is measured on loader {loader!r} ({', '.join(known) or 'none'}), got {metric!r}; "
        f"{hint}"
    )
