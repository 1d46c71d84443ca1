"""Change whole batches on the device, at random, and the same again when training goes on from a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from learner import Callback, Learner, LearnerError
from learner.data.batch import batch_size_of, describe, fields_of, has_places
from learner.data.fields import TARGET_NAMES
from learner.data.loaders import role_of
from learner.data.moving import mapped, tensors_of
from learner.data.numbers import whole_number
from learner.data.seeding import PositionGenerators, position_seed


class PositionTransform(Callback):
    """Base of callbacks that replace batches at random: it gives each batch a generator that follows from its position.

    A subclass has a method `transform(learn, generator)` that returns what takes the place of `learn.batch`.
    """

    order = -95  # the batch is on its device, and nobody has looked at it

    def __init__(self, on: tuple[str, ...], seed: int) -> None:
        self.on, self.seed = on, whole_number(seed, "seed")
        self._generators = PositionGenerators()
        self._pass: tuple[Any, ...] = ()  # which one `_is_on` and `_seed_of_pass` are of
        self._is_on, self._seed_of_pass = False, 0

    def before_epoch(self, learn: Learner) -> None:
        """Begin anew: another fit, or a pass within a pass, may have the same name and number."""
        self._pass = ()

    def before_batch(self, learn: Learner) -> None:
        """Replace the batch."""
        if (learn.epoch, learn.dl_name, learn.training) != self._pass:
            self._look_at_pass(learn)
        if self._is_on:
            learn.batch = self.transform(learn, self._generators.at(self._seed_of_pass, learn.i, _device_of(learn)))

    def transform(self, learn: Learner, generator: torch.Generator) -> Any:
        """Return what takes the place of `learn.batch`."""
        raise NotImplementedError

    def wants(self, name: str) -> bool:
        """Tell whether `on` names a loader, or its role."""
        return name in self.on or role_of(name) in self.on

    def _look_at_pass(self, learn: Learner) -> None:
        self._pass = learn.epoch, learn.dl_name, learn.training
        self._is_on = self.wants(learn.dl_name) and (learn.training or role_of(learn.dl_name) != "train")
        before = takewhile(lambda cb: cb is not self, learn.cbs)
        n_alike = sum(type(cb) is type(self) and cb.seed == self.seed for cb in before)
        epoch = learn.history.state_dict()["start"] + learn.epoch
        own = () if learn.job.is_first else ("rank", learn.job.rank)  # each share has numbers of its own
        self._seed_of_pass = position_seed(self.seed, type(self).__name__, n_alike, epoch, learn.dl_name, *own)


class BatchTransformCallback(PositionTransform):
    """Replace each batch by `fn(batch, generator)`, where it is: after `DeviceCallback` has moved it.

    The generator is on the device of the batch's tensors and is seeded anew for each batch, from `seed`, the epoch as
    the history counts it, the name of the loader and the number of the batch. So what is drawn from it is a function of
    the position: it is the same after a resume, with any number of workers, with and without validation, and a
    checkpoint has nothing to keep. Two callbacks of this kind in one learner draw different numbers. What `fn` draws
    from the global generators in its place is not a function of the position.

    Training data are transformed while they are trained on: `validate("train")`, `get_preds("train")` and passes that
    collect samples see them as they are. Other loaders that `on` names are transformed in each pass over them, also in
    one that was asked for by hand, so that it measures what the validation of a fit does.

    Args:
        fn: called as `fn(batch, generator)`, returns a batch of as many samples, on the same device, with its target.
            It must not write into the batch: that may be the memory of the dataset.
        on: names of loaders, or roles: `train` is all loaders named so; one, or a tuple of them.
        seed: another one gives other random numbers.

    Reads: batch, dl_name, training, epoch, i, history, cbs, dls.
    Writes: batch.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: at the start of a fit, if `on` names no loader.
        LearnerError: in a batch, if `fn` returns None, drops the target, or changes the number of samples or the
            device.

    Example:
        >>> from learner import Loaders
        >>> def noise(batch, generator):
        ...     x, y = batch
        ...     return x + 0.1 * torch.randn(x.shape, generator=generator, device=x.device), y
        >>> x = torch.linspace(-1, 1, 16)[:, None]
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=4)
        >>> learn = Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, cbs=BatchTransformCallback(noise))
        >>> learn.fit(20)
        >>> learn.validate()["loss"] < 0.1
        True
    """

    def __init__(
        self, fn: Callable[[Any, torch.Generator], Any], on: str | tuple[str, ...] = "train", seed: int = 0
    ) -> None:
        self.fn = _checked_function(fn)
        names = (on,) if isinstance(on, str) else tuple(on) if isinstance(on, tuple | list) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"`on` must be names or roles of loaders, got {on!r}; do 'train' or ('train', 'valid').")
        super().__init__(names, seed)

    def before_fit(self, learn: Learner) -> None:
        """Refuse what would never happen."""
        if not any(self.wants(name) for name in learn.dls):
            raise ValueError(f"`on` must name loaders that there are, {list(learn.dls)} or their roles, got {self.on}.")

    def transform(self, learn: Learner, generator: torch.Generator) -> Any:
        """Return what `fn` returns, if it can take the place of the batch."""
        old = learn.batch
        new = self.fn(old, generator)
        if not _is_alike(old, new) and (problem := _problem(old, new, learn.predictor.target_key)):
            name = getattr(self.fn, "__qualname__", type(self.fn).__name__)
            raise LearnerError(
                f"`fn` of {type(self).__name__}, {name}, must return {problem}; "
                f"it got {describe(old)} and returned {describe(new)}."
            )
        return new


def inputs_of(batch: Any, xb: Any, who: str) -> dict[Any, Any]:
    """Return those parts of a batch that go into the model, by their names or places.

    Args:
        batch: what the loader gave.
        xb: what goes into the model, as the predictor takes it from the batch.
        who: the name of the callback that wants to change them.

    Raises:
        LearnerError: if the predictor makes the inputs anew, so that none of them is a part of the batch.
    """
    fields = _parts_of(batch)
    if isinstance(xb, dict):
        inputs = xb
    elif has_places(batch):
        inputs = dict(zip(fields, xb if isinstance(xb, tuple) else (xb,), strict=False))
    else:
        inputs = {name: xb for name, value in fields.items() if value is xb}
    if not inputs or any(fields.get(name) is not value for name, value in inputs.items()):
        raise LearnerError(
            f"the inputs of the model must be parts of the batch for {who} to change them, got {describe(batch)}, of "
            f"which the predictor makes others; prepare them in the dataset."
        )
    return dict(inputs)


def with_parts(batch: Any, parts: Mapping[Any, Any]) -> Any:
    """Return a batch with other parts in the place of some, by their names or places."""
    items = iter([parts.get(name, value) for name, value in _parts_of(batch).items()])
    return mapped(batch, lambda _: next(items))


def _parts_of(batch: Any) -> dict[Any, Any]:
    fields = fields_of(batch)
    if fields is not None:
        return dict(fields)
    return dict(enumerate(batch)) if has_places(batch) else {}


def _is_alike(old: Any, new: Any) -> bool:
    """Tell at a glance whether two batches have the same parts, each of one length and on one device."""
    if type(old) is not type(new) or type(old) not in (tuple, list, dict) or len(old) != len(new):
        return False
    if type(old) is dict:
        if old.keys() != new.keys():
            return False
        old, new = old.values(), [new[name] for name in old]
    for a, b in zip(old, new, strict=True):
        if a is not b:
            if not (type(a) is type(b) is Tensor and a.dim() and b.dim()):
                return False
            if a.size(0) != b.size(0) or a.device != b.device:
                return False
    return True


def _problem(old: Any, new: Any, target_key: str | None) -> str | None:
    """Say what of a batch must be otherwise for it to take the place of another one; None if nothing."""
    if new is None:
        return "the batch, got None: end it by `return`"
    if _has_dropped_target(old, new, target_key):
        return "the target with the inputs, as it got them"
    sizes = _n_samples(old), _n_samples(new)
    if None not in sizes and sizes[0] != sizes[1]:
        return f"as many samples as it got, {sizes[0]}, not {sizes[1]}: leave out samples in the dataset or its sampler"
    devices = {tensor.device for tensor in tensors_of(old)}
    if devices and (others := {tensor.device for tensor in tensors_of(new)} - devices):
        where, there = ", ".join(sorted(map(str, devices))), ", ".join(sorted(map(str, others)))
        return f"the batch on its device, {where}, not {there}: make tensors there, and let DeviceCallback move batches"
    return None


def _has_dropped_target(old: Any, new: Any, target_key: str | None) -> bool:
    """Tell whether elements are gone, or a field that is named like a target."""
    new_fields = fields_of(new)
    old_fields = fields_of(old)
    if old_fields is not None and new_fields is not None:
        targets = TARGET_NAMES if target_key is None else (*TARGET_NAMES, target_key)
        return any(name in old_fields and name not in new_fields for name in targets)
    if has_places(old) and len(old) > 1 and new_fields is None:
        return not has_places(new) or len(new) < len(old) or (new[-1] is None and old[-1] is not None)
    return False


def _n_samples(batch: Any) -> int | None:
    """Return the number of samples of a batch, whose target is its last element if it has several."""
    if has_places(batch) and len(batch) > 1:
        return batch_size_of(tuple(batch[:-1]), batch[-1])
    return batch_size_of(batch)


def _device_of(learn: Learner) -> torch.device:
    """Return the device of the first tensor of the batch; where none is found, that of the model."""
    batch = learn.batch
    for part in batch.values() if type(batch) is dict else batch if type(batch) in (tuple, list) else ():
        if type(part) is Tensor:
            device: torch.device = part.device
            return device
    tensors = tensors_of(batch) or list(learn.model.parameters())
    return tensors[0].device if tensors else torch.device("cpu")


def _checked_function(fn: Callable[[Any, torch.Generator], Any]) -> Callable[[Any, torch.Generator], Any]:
    problem = f"`fn` must be called as fn(batch, generator), got {fn!r}"
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{problem}; pass a function of both.")
    try:
        inspect.signature(fn).bind(None, None)
    except TypeError:
        raise TypeError(f"{problem}, which takes other arguments; do `lambda batch, generator: ...`.") from None
    except ValueError:  # written in C: nobody knows
        pass
    return fn
