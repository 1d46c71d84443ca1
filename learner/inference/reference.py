"""What the samples of a loader look like, and how it makes batches of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from learner.data.batch import describe, fields_of, has_places
from learner.data.generators import preserved_rng
from learner.data.loaders import Loaders, as_it_is, role_of
from learner.data.moving import mapped
from learner.data.wrapper import LoaderPart, length_of
from learner.inference.alike import alike
from learner.loop.types import Learner

Keys = tuple[Any, ...]


class Reference(NamedTuple):
    """A sample of a loader.

    Attributes:
        loader_name: of the loader.
        sample: as its dataset gives it.
        inputs: names or places of the parts that go into the model; None where the sample goes in as a whole.
        collate: makes a batch of a list of samples.
        batch_size: of the loader [samples].
    """

    loader_name: str
    sample: Any
    inputs: Keys | None
    collate: Callable[[list[Any]], Any]
    batch_size: int

    def sample_of(self, value: Any) -> Any:
        """Return a value as a sample. It may be a whole one, or the inputs alone: then the known target is added.

        Raises:
            TypeError, ValueError: if it is neither.
        """
        if self.inputs is None:
            return alike(value, self.sample)
        parts = _parts(self.sample)
        problem: Exception = TypeError("it is of another type")
        for given in self._readings(value, parts):
            try:
                made = {key: alike(given[key], known) if key in given else known for key, known in parts.items()}
            except (TypeError, ValueError) as error:
                problem = error
            else:
                return _with_parts(self.sample, made)
        raise problem

    def _readings(self, value: Any, parts: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
        """Yield which parts of a sample a value may hold, by name or place."""
        inputs = self.inputs or ()
        fields = fields_of(value)
        if fields_of(self.sample) is not None and fields is not None:
            if missing := [name for name in inputs if name not in fields]:
                raise ValueError(f"without {', '.join(map(repr, missing))}")
            yield {name: field for name, field in fields.items() if name in parts}
        elif type(value) is type(self.sample) and len(value) == len(parts):
            yield dict(zip(parts, value, strict=True))
        if len(inputs) == 1:
            yield {inputs[0]: value}
        if has_places(value) and len(value) == len(inputs) and (len(inputs) > 1 or isinstance(value, tuple)):
            yield dict(zip(inputs, value, strict=True))

    def __str__(self) -> str:
        parts = _parts(self.sample)
        if self.inputs is None:
            return describe(self.sample)
        if len(self.inputs) == 1 and not isinstance(self.sample, Mapping):
            return describe(parts[self.inputs[0]])
        if fields_of(self.sample) is not None:
            return describe({key: parts[key] for key in self.inputs})
        return describe(tuple(parts[key] for key in self.inputs))


def loader_like(loaders: Loaders, like: str | None = None) -> str:
    """Return as which loader's samples those are taken that a person passes: the first for validation, or the first.

    Raises:
        ValueError: if `like` names none.
    """
    if like is not None:
        if like not in loaders:
            raise ValueError(f"`like` must be the name of a loader, {', '.join(map(repr, loaders))}, got {like!r}.")
        return like
    return next((name for name in loaders if role_of(name) == "valid"), next(iter(loaders)))


def reference_of(learn: Learner, name: str) -> Reference | None:
    """Return a sample of a loader; None of one with neither a dataset of numbered samples nor batches in a list.

    A sample is read once; random generators are as before.
    """
    loader: Any = learn.dls[name]
    while isinstance(loader, LoaderPart):  # which says little of what it is a part of
        loader = loader.loader
    dataset: Any = getattr(loader, "dataset", None)
    if 0 in (length_of(loader), length_of(dataset)):
        return None
    if isinstance(loader, Sequence):
        sample, collate, size = mapped(loader[0], _first), default_collate, 64
        batch = loader[0]
    elif isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    elif getattr(loader, "batch_sampler", loader) is None:  # whose dataset makes whole batches
        with preserved_rng([loader]):
            batch = dataset[0]
        sample, collate, size = mapped(batch, _first), default_collate, 64
    else:
        with preserved_rng([loader]):
            sample = dataset[0]
            collate = getattr(loader, "collate_fn", None) or default_collate
            if collate is as_it_is:  # of arrays, which are cut as a whole
                collate = default_collate
            batch = collate([sample])
        size = getattr(loader, "batch_size", None) or 64
    return Reference(name, sample, _inputs_of(learn, batch, sample), collate, size)


def _first(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value[0] if value.ndim else value
    return mapped(value, _first)


def _inputs_of(learn: Learner, batch: Any, sample: Any) -> Keys | None:
    """Return which parts of a sample go into the model, as the predictor takes them out of a batch."""
    predictor = learn.predictor
    fields = fields_of(sample)
    if fields is None and not has_places(sample):
        return None
    if has_places(sample):
        is_whole = predictor.unpack_lists or predictor.disable_preprocess
        n_inp = len(sample) if is_whole else predictor.n_inp or max(len(sample) - 1, 1)
        return tuple(_parts(sample))[:n_inp]
    asked = copy.copy(predictor)  # which may learn of this batch what the target is
    asked.begin_pass(learn.model, takes_target=learn.loss_f is None, is_training=False)
    xb, yb, _ = asked.split(batch, learn.loss_f is None, needs_target=False)
    found = fields_of(batch) or {}
    inputs = xb.values() if isinstance(xb, dict) else xb if isinstance(xb, tuple) else (xb,)
    names = tuple(name for name, value in found.items() if any(value is part for part in inputs))
    return names or tuple(name for name, value in found.items() if value is not yb)


def _parts(sample: Any) -> dict[Any, Any]:
    fields = fields_of(sample)
    if fields is not None:
        return dict(fields)
    return dict(enumerate(sample)) if has_places(sample) else {}


def _with_parts(sample: Any, made: Mapping[Any, Any]) -> Any:
    items = iter(made.values())
    return mapped(sample, lambda _: next(items))
