"""Learning-rate schedules: anything of `torch.optim.lr_scheduler`."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from callbacks.train.accumulate import AccumulateCallback
from callbacks.train.optimizer_options import OptimizerOptions, optimizers_in
from callbacks.train.schedule_length import count_steps, open_count
from callbacks.train.schedules import FactorSchedule, one_cycle, warmup_cosine
from learner import Callback, Learner, LearnerError
from learner.checkpoint.plain import plain
from learner.data.loaders import role_of
from learner.loop.steps import require_own_optimizer
from learner.optim.several import parts_of

_RATES = ("base_lrs", "_last_lr")  # which follow from the rate of the fit, and are compared as that

# Schedules that compute a rate from the step alone, and so replace what another one has set.
_FROM_SCRATCH = (
    FactorSchedule,
    lr_scheduler.LambdaLR,
    lr_scheduler.OneCycleLR,
    lr_scheduler.CyclicLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
)


class SchedulerCallback(Callback):
    """Let a schedule of torch set the learning rate (and what else it sets, such as a one-cycle's momentum).

    The schedule is made anew in each fit. Where `make` has a parameter for the number of steps without a value
    (`total_steps`, `T_max` or Hugging Face's `num_training_steps`), it is given the number that this fit makes; so
    one-cycle needs no counting: `SchedulerCallback(partial(OneCycleLR, max_lr=0.1))`. Replacing the optimizer or
    `learn.epochs` later in the fit is an error. A group that is added later is scheduled from the rate it has then.

    It steps once for each optimizer step, not for one that was skipped; or, with `each="epoch"`, at the end of the last
    training pass of a round, if that went well and an optimizer step was made since. A schedule that watches a metric
    steps when the pass over that metric's loader has ended:
    `SchedulerCallback(ReduceLROnPlateau, metric="valid/loss")`.

    After the fit the learning rate stays where the schedule has left it, to be looked at; the next fit sets it. All
    else that the schedule has changed in the optimizer is put back.

    A checkpoint keeps the schedule by its `state_dict`, so functions that it was given are those of the new process. A
    fit that goes on must have as many steps as it was to have, where the schedule was told them.

    Of several optimizers as one (`learner.optim.Optimizers`) it schedules all, or one by its name:
    `SchedulerCallback(lambda opt, total_steps: CosineAnnealingLR(opt["D"], total_steps))`. `callbacks.one_cycle` and
    `callbacks.warmup_cosine` make schedules that keep the proportions of parameter groups.

    Args:
        make: called as `make(opt)`, returns the schedule; a class, a `partial`, a function.
        each: what a step of the schedule is: "batch" (as long as nothing is said), or "epoch".
        metric: `loader/metric` as in the history, for a schedule whose `step` takes it; goes with "epoch".

    Attributes:
        scheduler: the schedule of this fit or of the last one; None before.

    Reads:
        `opt`, `n_epochs`, `dls`, `batches_per_step`, `n_steps`, `metrics`.

    Raises:
        TypeError, ValueError: if `make` cannot be called with an optimizer, or the arguments do not go together.
        LearnerError: at the start of a fit, if a number of steps cannot be known, loader or metric do not fit the
            schedule, or it is of another optimizer; at the end of the first pass, if there is no such metric.
        TypeError: at the first checkpoint, if the schedule has no `state_dict`.

    Source:
        https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from learner import Loaders
        >>> dls = Loaders.from_arrays(train=(torch.ones(8, 1), torch.ones(8, 1)), batch_size=4)
        >>> schedule = SchedulerCallback(partial(torch.optim.lr_scheduler.CosineAnnealingLR, eta_min=0.05))
        >>> learn = Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, lr=0.1, cbs=schedule)
        >>> learn.fit(3)
        >>> schedule.scheduler.T_max, learn.opt.param_groups[0]["lr"]
        (6, 0.05)
    """

    order = 50
    after = (AccumulateCallback,)

    def __init__(
        self, make: Callable[..., Any], each: Literal["batch", "epoch"] | None = None, metric: str | None = None
    ) -> None:
        if not callable(make):
            raise TypeError(
                f"`make` must be called as make(opt), got an object of {type(make).__name__}; pass the class, or a "
                f"`partial` of it."
            )
        if make in (one_cycle, warmup_cosine):
            raise TypeError(f"`make` must be what `{make.__name__}()` returns, got the function itself; call it.")
        if each not in (None, "batch", "epoch"):
            raise ValueError(f"`each` must be 'batch' or 'epoch', got {each!r}.")
        if metric is not None and each == "batch":
            raise ValueError("`each` must be 'epoch' for a schedule that watches a metric, got 'batch'; leave it out.")
        if metric is not None and (not isinstance(metric, str) or "/" not in metric):
            raise ValueError(f"`metric` must be written 'loader/metric', as 'valid/loss', got {metric!r}.")
        self._count_name = open_count(make)
        self.make, self.metric = make, metric
        self.each: Literal["batch", "epoch"] = each or ("batch" if metric is None else "epoch")
        self.scheduler: Any = None
        self._counts: dict[str, int] = {}
        self._made: dict[str, Any] = {}  # the schedule before its first step
        self._n_steps, self._last_train = 0, ""
        self._former: OptimizerOptions | None = None  # put back when the fit ends; there while it runs
        self._epochs: Any = None  # of this fit

    def before_fit(self, learn: Learner) -> None:
        """Make the schedule for this fit."""
        self._n_steps = learn.n_steps
        self._last_train = [name for name in learn.dls if role_of(name) == "train"][-1]
        if self.metric is not None and self.metric.split("/", 1)[0] not in learn.dls:
            raise LearnerError(f"`metric` must be of one of the loaders {list(learn.dls)}, got {self.metric!r}.")
        name = self._count_name
        self._counts = {} if name is None else {name: count_steps(learn, self.each, name)}
        opt: Any = learn.opt
        rates = [float(group["lr"]) for group in opt.param_groups]
        self._former, self._epochs = OptimizerOptions.of(opt), learn.epochs
        try:
            self.scheduler = self.make(opt, **self._counts)
            _check_scheduler(self.scheduler, self.metric)
            _check_optimizer(self._scheduled(opt), opt)
            self._refuse_another(learn)
            _warn_of_equal_rates(rates, opt)
            self._made = copy.deepcopy(self._settings(self._former))
        except BaseException:
            self.cleanup_fit(learn)
            raise

    def _refuse_another(self, learn: Learner) -> None:
        """Refuse two schedules of one optimizer of which one sets its rates from scratch: the last one would win."""
        mine = parts_of(self._scheduled(learn.opt))
        for cb in learn.cbs:
            if isinstance(cb, SchedulerCallback) and cb is not self and cb._former is not None:
                is_shared = any(part in mine for part in parts_of(cb._scheduled(learn.opt)))
                replaces = isinstance(self.scheduler, _FROM_SCRATCH) or isinstance(cb.scheduler, _FROM_SCRATCH)
                if is_shared and replaces:
                    raise LearnerError(
                        f"`cbs` must hold one schedule for an optimizer, got {type(cb.scheduler).__name__} and "
                        f"{type(self.scheduler).__name__}, of which one sets rates from scratch; leave one out, or "
                        f"join them by `torch.optim.lr_scheduler.SequentialLR`."
                    )

    def before_epoch(self, learn: Learner) -> None:
        """Refuse another optimizer or other epochs; give a group that was added since a base rate."""
        if self._former is None or learn.is_side_pass:
            return
        opt = self._former.opt
        for name, now, then in (("opt", learn.opt, opt), ("epochs", learn.epochs, self._epochs)):
            if now is not then:
                raise LearnerError(
                    f"`learn.{name}` must stay as it was when the schedule was made for it, in `before_fit`, got "
                    f"another in epoch {learn.epoch}; set it in `before_fit`, at an order below {self.order:g}."
                )
        self._follow_groups(self._scheduled(opt))

    def after_step(self, learn: Learner) -> None:
        """Step, if it is by the batch."""
        if self.each == "batch":
            self.scheduler.step()

    def after_epoch(self, learn: Learner) -> None:
        """Step, if it is by the epoch and this pass is the one."""
        if learn.training:
            require_own_optimizer(learn, type(self).__name__)
        if self._former is None or learn.is_side_pass or self.each == "batch":
            return
        if self.metric is not None:
            name, metric = self.metric.split("/", 1)
            if learn.dl_name == name:
                self.scheduler.step(self._metric_of(learn.metrics.get(name, {}), name, metric))
        elif learn.dl_name == self._last_train and learn.n_steps > self._n_steps:
            self._n_steps = learn.n_steps
            # What torch wants to see before a first step: those of the optimizer may lie before a checkpoint.
            vars(self._scheduled(learn.opt))["_opt_called"] = True
            self.scheduler.step()

    def cleanup_fit(self, learn: Learner) -> None:
        """Put back what the schedule has changed in the optimizer."""
        if self._former is not None:
            self._former.put_back()
            self._former = self._epochs = None

    def state_dict(self) -> dict[str, Any] | None:
        """Return the schedule, and what is to be put back when the fit ends; None between two fits.

        Raises:
            TypeError: if the schedule has no `state_dict`.
        """
        if self._former is None:
            return None
        if not (hasattr(self.scheduler, "state_dict") and hasattr(self.scheduler, "load_state_dict")):
            raise TypeError(
                f"`make` must return a schedule with `state_dict` and `load_state_dict` for a checkpoint, got "
                f"{type(self.scheduler).__name__}."
            )
        return {
            "kind": self._kind(),
            "made": self._made,
            "former_groups": self._former.groups,
            "n_steps": self._n_steps,
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take over what `state_dict` gave, in a fit."""
        if self._former is None:
            return
        # Not in place: what is taken over from a checkpoint must be undone where a later part of it fails.
        # None is of a fit that is over: nothing is left to be put back.
        self._former = self._former._replace(groups=[] if state is None else state["former_groups"])
        if state is not None:
            self._n_steps = state["n_steps"]
            self.scheduler.load_state_dict(state["scheduler"])

    def differences(self, state: dict[str, Any] | None) -> list[str]:
        """Say what of the schedule is not as in a checkpoint of a fit; its settings are that one's."""
        if self._former is None or state is None:
            return []
        for now, saved in ((self._kind(), state["kind"]), (plain(self._made), state["made"])):
            unlike = [what for what in now if what in saved and not _is_same(now[what], saved[what])]
            if unlike:  # what is of another kind has other settings as well
                return [f"{what} is {now[what]} here, {saved[what]} saved" for what in unlike]
        return []

    def _settings(self, options: OptimizerOptions) -> dict[str, Any]:
        """Return what the schedule keeps, and what it has put into the optimizer, but for rates."""
        kept = self.scheduler.state_dict() if hasattr(self.scheduler, "state_dict") else {}
        added = [
            {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr", *former)}
            for group, former in zip(options.opt.param_groups, options.groups, strict=True)
        ]
        settings = {f"`{name}` of the schedule": value for name, value in kept.items() if name not in _RATES}
        return {**settings, "what the schedule has put into the optimizer": added}

    def _kind(self) -> dict[str, Any]:
        return {
            "the schedule": _name_of(self.scheduler),
            "the number of steps": self._counts.get(self._count_name or ""),
            "`each`": self.each,
            "`metric`": self.metric,
        }

    def _scheduled(self, opt: Any) -> Optimizer:
        """Return the optimizer that the schedule was made for: this one, or one of several that it is made of."""
        scheduled: Optimizer = getattr(self.scheduler, "optimizer", opt)
        return scheduled

    def _follow_groups(self, opt: Optimizer) -> None:
        """Give groups that were added since a base rate: the rate that they have."""
        bases: Any = getattr(self.scheduler, "base_lrs", None)
        if isinstance(bases, list):
            bases.extend(group.setdefault("initial_lr", group["lr"]) for group in opt.param_groups[len(bases) :])

    def _metric_of(self, metrics: dict[str, float], name: str, metric: str) -> float:
        if metric not in metrics:
            there = ", ".join(f"{name}/{m}" for m in metrics) or "none"
            raise LearnerError(f"`metric` must be one of those of loader {name!r} ({there}), got {self.metric!r}.")
        return metrics[metric]


def _is_same(mine: Any, saved: Any) -> bool:
    if isinstance(mine, Tensor):
        return isinstance(saved, Tensor) and torch.equal(mine.cpu(), saved)
    if isinstance(mine, dict) and isinstance(saved, dict):
        return mine.keys() == saved.keys() and all(_is_same(mine[key], saved[key]) for key in mine)
    if isinstance(mine, list | tuple) and isinstance(saved, list | tuple):
        return len(mine) == len(saved) and all(map(_is_same, mine, saved))
    return bool(mine == saved)


def _check_scheduler(scheduler: Any, metric: str | None) -> None:
    """Refuse what is not a schedule, one that needs a metric and has none, and one that has a metric and needs none."""
    name = type(scheduler).__name__
    if not callable(getattr(scheduler, "step", None)):
        raise TypeError(f"`make` must return a scheduler with a `step` method, got {name}.")
    takes_metric = any(p.default is p.empty for p in inspect.signature(scheduler.step).parameters.values())
    if takes_metric and metric is None:
        raise LearnerError(f"`metric` must be given for {name}, which watches one; do `metric='valid/loss'`.")
    if not takes_metric and metric is not None:
        raise LearnerError(f"`metric` must be left out for {name}, which watches none, got {metric!r}.")


def _check_optimizer(scheduled: Any, opt: Optimizer) -> None:
    """Refuse a schedule of an optimizer that does not train here."""
    if not any(scheduled is one for one in optimizers_in(opt)):
        raise LearnerError(
            f"`make` must return a schedule of the optimizer that it is called with, or of one of several in it, got "
            f"one of another {type(scheduled).__name__}; do `lambda opt: StepLR(opt, 10)`."
        )


def _warn_of_equal_rates(rates: list[float], opt: Optimizer) -> None:
    """Say that a schedule has given all groups one base rate, where they had rates of their own."""
    bases = [float(group.get("initial_lr", group["lr"])) for group in opt.param_groups]
    if len(set(rates)) > 1 and len(set(bases)) == 1:
        warnings.warn(
            f"the schedule gives all parameter groups one rate, where they had rates of their own, {rates}; give it a "
            f"list, one for each group, as `max_lr=[...]`.",
            RuntimeWarning,
            stacklevel=3,
        )


def _name_of(scheduler: Any) -> str:
    """Return the class of a schedule, with those that it is made of."""
    parts = ", ".join(_name_of(part) for part in getattr(scheduler, "_schedulers", ()))
    return type(scheduler).__name__ + (f"({parts})" if parts else "")
