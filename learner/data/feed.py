"""What stands between a batch and the model: what goes in, what is the target, how many samples there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from learner.data.batch import batch_size_of, check_lengths, common_length, describe, fields_of, has_places
from learner.data.fields import (
    TARGET_NAMES,
    FieldPlan,
    as_argument,
    no_target_key,
    no_trained_target,
    plan_fields,
)
from learner.data.signature import ForwardSignature, checked_model
from learner.errors import LearnerError

Split = tuple[Any, Any, int | None]

_PAIRS = (tuple, list)


class Feed:
    """Decide of a batch what goes into a model, what is the target and how many samples there are.

    `Predictor` is the public one, and says what the arguments mean.

    Example:
        >>> from torch import ones, zeros
        >>> feed = Feed(nn.Linear(3, 2))
        >>> x, y, n_samples = feed.split((ones(4, 3), zeros(4)))
        >>> feed.feed(feed.model, x).shape, n_samples
        (torch.Size([4, 2]), 4)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        unpack_dicts: bool | None = None,
        unpack_lists: bool | None = None,
        preprocess_fn: Callable[[Any], Any] | None = None,
        disable_preprocess: bool = False,
        n_inp: int | None = None,
        target_key: str | None = None,
        target_fn: Callable[[Any], Any] | None = None,
    ) -> None:
        self.model = checked_model(model)
        _check_options(n_inp, target_key, preprocess_fn=preprocess_fn, target_fn=target_fn)
        _check_flags(unpack_dicts=unpack_dicts, unpack_lists=unpack_lists, disable_preprocess=disable_preprocess)
        if preprocess_fn and disable_preprocess:
            raise ValueError("`preprocess_fn` must be left out with `disable_preprocess=True`; give one of the two.")
        if target_key and target_fn:
            raise ValueError("`target_key` and `target_fn` must not both be given; leave one out.")
        self.unpack_dicts, self.unpack_lists = unpack_dicts, unpack_lists
        self.preprocess_fn, self.disable_preprocess = preprocess_fn, disable_preprocess
        self.n_inp, self.target_key, self.target_fn = n_inp, target_key, target_fn
        self._is_told = (
            bool(preprocess_fn or disable_preprocess) or unpack_dicts is not None or unpack_lists is not None
        )
        self.takes_target = False  # a Learner without `loss_f` says otherwise
        self._is_training = self._is_fed_by_hand = False
        self._trained_on: str | None = None  # the field that was the target in this fit's training, or the last one's
        self._is_plain = not (self._is_told or n_inp or target_key or target_fn)
        # What was found out of one model, the last that was called; it may be swapped, for an average of it say.
        self._known_model, self._takes = self.model, ForwardSignature(self.model)
        self._plans: dict[tuple[Any, ...], FieldPlan] = {}
        self._fitting: set[int] = set()  # numbers of inputs that forward was seen to take

    def explain(self, batch: Any) -> str:
        """Say in words what of a batch goes where when a Learner feeds it.

        Raises:
            LearnerError: as a fit would, if the batch does not fit.

        Example:
            >>> from torch import zeros
            >>> print(Feed(nn.Linear(3, 2)).explain((zeros(4, 3), zeros(4))))
            forward takes (input: torch.Tensor) -> torch.Tensor
            goes in: Tensor(4, 3) float32
            target: Tensor(4,) float32
            samples: 4
        """
        xb, yb, size = self.split(batch, self.takes_target)
        if isinstance(xb, dict):
            inputs = [f"goes in as {name}: {describe(value)}" for name, value in xb.items()]
        else:
            inputs = [f"goes in: {describe(value)}" for value in (xb if isinstance(xb, tuple) else (xb,))]
        used = [*(xb.values() if isinstance(xb, dict) else xb if isinstance(xb, tuple) else (xb,)), yb]
        left = [name for name, value in (fields_of(batch) or {}).items() if all(value is not part for part in used)]
        is_whole = self._is_told or any(batch is part for part in used)
        lines = [f"forward takes {self._signature(self.model)}", *inputs]
        lines += [f"target: {describe(yb) if yb is not None else 'none'}"]
        lines += [f"left out: {', '.join(left)}"] if left and not is_whole else []
        return "\n".join([*lines, f"samples: {size if size is not None else 'unknown'}"])

    def preprocess(self, batch: Any) -> Any:
        """Make of a batch what goes in: by `preprocess_fn`, not at all, or the first elements of a list."""
        if self.preprocess_fn:
            made = self.preprocess_fn(batch)
            if made is None:
                raise LearnerError(
                    f"`preprocess_fn` must return what goes into the model, got None for {describe(batch)}."
                )
            return made
        is_kept = self.disable_preprocess or self.unpack_lists or self.unpack_dicts
        if is_kept or not has_places(batch):
            return batch
        self._require_elements(batch, self.n_inp or 1)
        return batch[0] if self.n_inp in (None, 1) else tuple(batch[: self.n_inp])

    def _require_elements(self, batch: Any, n: int) -> None:
        if len(batch) < n:
            raise LearnerError(
                f"a batch must hold at least {n} element{'s' * (n > 1)} to go into the model, got {describe(batch)}; "
                f"change the dataset, or `n_inp`."
            )

    def call(self, model: nn.Module, value: Any) -> Any:
        """Call a model on what was preprocessed, unpacked as it was said."""
        if self.unpack_dicts and not isinstance(value, Mapping):
            raise LearnerError(
                f"`unpack_dicts=True` must have a mapping to unpack, got {describe(value)}; leave it out, use "
                f"`unpack_lists`, or make a mapping by `preprocess_fn`."
            )
        if self.unpack_lists and not has_places(value):
            raise LearnerError(
                f"`unpack_lists=True` must have a tuple or list to unpack, got {describe(value)}; leave it out, use "
                f"`unpack_dicts`, or make a tuple by `preprocess_fn`."
            )
        is_several = self.unpack_lists or (self.n_inp and not self._is_told and isinstance(value, tuple))
        args = tuple(value) if is_several else () if self.unpack_dicts else (value,)
        kwargs = dict(value) if self.unpack_dicts else {}
        if misfit := self._signature(model).misfit(args, kwargs):
            raise self._misfit(model, misfit, kwargs or args)
        return model(*args, **kwargs)

    # -- in a Learner --------------------------------------------------------------------------------------------

    def begin_fit(self) -> None:
        """Forget which field was the target: the first training batch of the fit decides that for all loaders."""
        self._trained_on = None
        self._plans.clear()

    def begin_pass(
        self, model: nn.Module, *, takes_target: bool, is_training: bool, is_fed_by_hand: bool = False
    ) -> None:
        """Take over the model, and what may have changed with it.

        Args:
            model: what is called on the inputs.
            takes_target: whether it makes its loss itself.
            is_training: whether it is trained in this pass.
            is_fed_by_hand: whether somebody else calls it, so that a batch need not hold what `forward` takes.
        """
        self.model, self.takes_target, self._is_training = model, takes_target, is_training
        self._is_fed_by_hand = is_fed_by_hand
        if is_training and self._trained_on is None:
            self._plans.clear()  # made for loaders that ran before; the training is to decide

    def split(self, batch: Any, takes_target: bool = False, needs_target: bool = True) -> Split:
        """Take a batch apart: what goes in, the target or None, the number of samples or None if unknown.

        What goes in is a tensor or object, the one argument; or a tuple of arguments; or a dict of them by name.

        Args:
            batch: what the loader gave.
            takes_target: whether the model gets the target as well, to make the loss itself.
            needs_target: whether it is an error if the target cannot be told.

        Raises:
            LearnerError: if the batch does not fit; says what it holds, what `forward` takes, what to change.
        """
        if self._is_plain and needs_target and not takes_target and type(batch) in _PAIRS and len(batch) == 2:
            x, y = batch  # nearly every batch there is: two tensors of one length
            try:
                size: int = x.size(0)
                if size and size == y.size(0) and isinstance(x, Tensor):  # a TensorDict has a size as well
                    return x, y, size
            except (AttributeError, IndexError, TypeError):
                pass
        is_known = self._is_plain and type(batch) is dict and self.model is self._known_model
        plan = self._plans.get((*batch, takes_target, needs_target)) if is_known else None
        xb, yb = plan.take(batch, batch) if plan else self._parted(batch, takes_target, needs_target)
        if (n_samples := common_length(xb, yb)) is not None:
            return xb, yb, n_samples
        if self._is_plain:
            check_lengths(xb, yb, batch)
        if (n_samples := batch_size_of(xb, yb)) == 0:
            raise LearnerError(f"a batch must hold at least one sample, got {describe(batch)}.")
        return xb, yb, n_samples

    def _parted(self, batch: Any, takes_target: bool, needs_target: bool) -> tuple[Any, Any]:
        """Return what goes in, and the target."""
        if self._is_told:
            return self.preprocess(batch), self._told_target(batch, needs_target)
        takes, fields = self._signature(self.model), fields_of(batch)
        if has_places(batch) and not (fields and takes.asks_for(fields)):
            return self._parted_by_position(batch, takes_target, needs_target)
        if self.n_inp is not None:
            raise LearnerError(f"`n_inp` must be left out where a batch is no tuple or list, got {describe(batch)}.")
        is_by_hand = self._is_fed_by_hand and not takes.asks_for(fields or {})
        if fields is None or is_by_hand or not (isinstance(batch, Mapping | tuple) or takes.knows_any(fields)):
            return as_argument(batch), self._told_target(batch, needs_target)
        key = (*fields, takes_target, needs_target)
        if key not in self._plans:
            target = self.target_key if needs_target or self.target_key in fields else None
            is_needed = needs_target and not self.target_fn
            plan = plan_fields(
                takes,
                fields,
                target,
                takes_target=takes_target,
                needs_target=is_needed,
                trained_on=self._trained_on,
            )
            self._remember_target(plan.target)
            self._plans[key] = plan
        xb, yb = self._plans[key].take(batch, fields)
        return xb, self.target_fn(batch) if self.target_fn and needs_target else yb

    def _parted_by_position(self, batch: Any, takes_target: bool, needs_target: bool) -> tuple[Any, Any]:
        if self.target_key:
            raise LearnerError(
                f"`target_key` must be a field of the batch, got {self.target_key!r} for {describe(batch)}, which has "
                f"no names; use `target_fn` or `n_inp`."
            )
        takes, n_inp = self._signature(self.model), self.n_inp
        if n_inp is None:
            n_inp = max(len(batch) - 1, 1)
            may_take_all = (takes_target or not needs_target) and takes.fits(batch)
            if may_take_all and (takes_target or not takes.fits(batch[:n_inp])):
                n_inp = len(batch)
        self._require_elements(batch, n_inp)
        targets = tuple(batch[n_inp:])
        yb = targets[0] if len(targets) == 1 else targets or None
        if self.target_fn and needs_target:
            yb = self.target_fn(batch)
        if n_inp > 1:
            return tuple(batch[:n_inp]), yb
        xb = batch[0]
        if isinstance(xb, Mapping) and takes.takes_by_name(fields_of(xb) or {}):
            return dict(xb.items()), yb
        if has_places(xb) and not takes.fits((xb,)) and takes.fits(xb):
            return tuple(xb), yb
        return as_argument(xb), yb

    def _told_target(self, batch: Any, needs_target: bool) -> Any:
        """Return the target of a batch that goes in whole, or as `preprocess_fn` and the like make it."""
        if self.target_fn:
            return self.target_fn(batch) if needs_target else None
        fields = fields_of(batch)
        if self.target_key:
            if fields is None and hasattr(batch, self.target_key):
                return getattr(batch, self.target_key)
            if self.target_key not in (fields or {}) and needs_target:
                raise no_target_key(self.target_key, batch)
            return (fields or {}).get(self.target_key)
        if has_places(batch):
            return batch[-1] if len(batch) > (self.n_inp or 1) else None
        if fields is None:
            return None
        if self._trained_on is not None:
            if self._trained_on not in fields and needs_target and not self.takes_target:
                raise no_trained_target(self._trained_on, batch)
            return fields.get(self._trained_on)
        named = [name for name in TARGET_NAMES if name in fields]
        if len(named) != 1:
            return None
        self._remember_target(named[0])
        return fields[named[0]]

    def _remember_target(self, name: str | None) -> None:
        """Let the first training batch of a fit decide."""
        if self._is_training and self._trained_on is None and not self.target_key:
            self._trained_on = name

    def feed(self, model: nn.Module, xb: Any) -> Any:
        """Call a model on what `split` took out for it: a tuple by position, a dict by name, else as the one argument.

        Raises:
            LearnerError: if `forward` cannot take it; says what both look like and what to change.
        """
        if self._is_told:
            return self.call(model, xb)
        if isinstance(xb, dict):
            return model(**xb)
        args = xb if isinstance(xb, tuple) else (xb,)
        if model is not self._known_model or len(args) not in self._fitting:
            self._check(model, args)
        return model(*args)

    def _check(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Compare what goes in with what `forward` takes, once for each number of inputs."""
        if misfit := self._signature(model).misfit(args):
            raise self._misfit(model, misfit, args)
        self._fitting.add(len(args))

    def _misfit(self, model: nn.Module, misfit: str, given: Any) -> LearnerError:
        return LearnerError(
            f'the model must take what the batch holds, but forward says "{misfit}": {describe(given)} would go in, '
            f"forward takes {self._signature(model)}. Change one of the two, or say what goes in: "
            f"`Predictor(model, n_inp=...)` of a tuple, `preprocess_fn=...` of anything."
        )

    def _signature(self, model: nn.Module) -> ForwardSignature:
        if model is not self._known_model:
            self._known_model, self._takes = model, ForwardSignature(model)
            self._plans.clear()
            self._fitting.clear()
        return self._takes


def _check_options(n_inp: Any, target_key: Any, **functions: Any) -> None:
    if n_inp is not None and (not isinstance(n_inp, int) or isinstance(n_inp, bool) or n_inp < 1):
        raise ValueError(f"`n_inp` must be a whole number of at least 1, got {n_inp!r}.")
    if target_key is not None and not isinstance(target_key, str):
        raise TypeError(f"`target_key` must be the name of a field, got {target_key!r}; use `target_fn` else.")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"`{name}` must be a function of a batch, got {function!r}.")


def _check_flags(**flags: Any) -> None:
    for name, flag in flags.items():
        if not (flag is None or isinstance(flag, bool)):
            raise TypeError(f"`{name}` must be True or False, got {flag!r}.")
    if flags["unpack_dicts"] and flags["unpack_lists"]:
        raise ValueError("`unpack_dicts` and `unpack_lists` must not both be True; leave one out.")


def preds_of(output: Any) -> Any:
    """Return the predictions in what a model gave: its `logits` where it has some, else all of it."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return getattr(output, "logits", output)
