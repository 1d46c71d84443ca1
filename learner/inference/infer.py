"""Predict for samples that are in no loader, prepared as the samples of one are. Start at `infer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from learner.data.batch import describe, fields_of
from learner.data.generators import preserved_rng
from learner.data.loaders import Loaders
from learner.errors import LearnerError
from learner.inference.alike import rows_of
from learner.inference.class_names import checked_names, class_names
from learner.inference.inference import Inference, n_classes_of
from learner.inference.outputs import checked_meaning, meaning_of
from learner.inference.reference import Reference, loader_like, reference_of
from learner.loop.gather import gathered
from learner.loop.types import Learner

Prepare = Callable[[Any], Any]


def infer(
    learn: Learner,
    x: Any,
    *,
    like: str | None = None,
    prepare: Prepare | None = None,
    is_batch: bool | None = None,
    outputs: str | None = None,
    classes: Sequence[str] | None = None,
) -> Inference:
    """Predict, as `Learner.infer` says."""
    learn.dls = Loaders.of(learn.dls)
    name = loader_like(learn.dls, like)
    meaning = checked_meaning(outputs) or meaning_of(learn.loss_f, learn.model)
    reference = reference_of(learn, name)
    samples, is_one = _samples(x, reference, _checked_prepare(prepare), is_batch)
    loader: Any = DataLoader(
        samples,
        batch_size=reference.batch_size if reference else 64,
        collate_fn=reference.collate if reference else default_collate,
    )
    try:
        preds, _ = gathered(learn, name, loader)
    except Exception as error:
        if reference is not None:
            error.add_note(
                f"A sample of loader {name!r} is {reference}; the first one of `x` is {_described(samples)}."
            )
        raise
    n_classes = n_classes_of(preds, meaning)
    if classes is not None:
        if n_classes is None:
            raise LearnerError(f"`classes` must be left out where the model gives no classes, got {classes!r}.")
        return Inference(preds, meaning, checked_names(classes, n_classes), is_one)
    known = class_names(learn, name, n_classes) if n_classes else None
    return Inference(preds, meaning, known, is_one)


class Samples(Dataset[Any]):
    """A dataset of what a person passes, each item converted to the form of a loader's samples.

    Args:
        given: anything with a length and items by number.
        prepare: makes a sample of an item; None where they are samples.
        reference: a sample of the loader; None if there is none to be had.
    """

    def __init__(self, given: Any, prepare: Prepare | None, reference: Reference | None) -> None:
        self._given, self._prepare, self.reference = given, prepare, reference

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, i: int) -> Any:
        value = self._given[i]
        made = value if self._prepare is None else self._prepare(value)
        if self.reference is None:
            return made
        try:
            return self.reference.sample_of(made)
        except (TypeError, ValueError) as error:
            raise _misfit(error, made, self.reference, self._prepare) from None


def _samples(
    x: Any, reference: Reference | None, prepare: Prepare | None, is_batch: bool | None
) -> tuple[Samples, bool]:
    """Return the samples in what a person passes, and whether it is one sample by itself."""
    if isinstance(x, DataLoader | Iterator):
        raise TypeError(
            f"`x` must be a sample, several of them, or a dataset, got {type(x).__name__}, which gives batches; do "
            f"`learn.get_preds(loader)`, or pass the dataset."
        )
    if hasattr(x, "iloc"):
        raise TypeError("`x` must be a sample, several of them, or a dataset, got a data frame; do `frame.to_numpy()`.")
    if isinstance(x, IterableDataset):
        x = list(x)
    if _is_dataset(x):
        if is_batch is False:
            raise TypeError(f"`is_batch` must not be False for a dataset, got {type(x).__name__}; do `infer(x[0])`.")
        return _checked(Samples(x, prepare, reference)), False
    if is_batch is None:
        is_batch = _is_several(x, reference, prepare)
    try:
        given = rows_of(x) if is_batch else [x]
    except (TypeError, ValueError) as error:
        raise type(error)(f"`x` must be several samples, got {describe(x)}: {error}.") from None
    return _checked(Samples(given, prepare, reference)), not is_batch


def _is_several(x: Any, reference: Reference | None, prepare: Prepare | None) -> bool:
    """Tell whether something is several samples, by what one looks like.

    Raises:
        TypeError, ValueError: if it is neither one nor several, or nobody can tell.
    """
    if prepare is not None:
        if isinstance(x, Tensor | np.ndarray):
            raise TypeError(
                f"`is_batch` must be given with `prepare` for an array, got {describe(x)}; say True if its rows are "
                f"samples."
            )
        return isinstance(x, list)
    if reference is None:
        if isinstance(x, list):
            return True
        raise TypeError(
            f"`is_batch` must be given, for no loader can show what a sample looks like, got {describe(x)}; say True "
            f"if its rows are samples, False if it is one."
        )
    try:
        reference.sample_of(x)
    except (TypeError, ValueError) as not_one:
        try:
            reference.sample_of(rows_of(x)[0])
        except (TypeError, ValueError):
            raise _misfit(not_one, x, reference, prepare) from None
        return True
    return False


def _misfit(error: Exception, value: Any, reference: Reference, prepare: Prepare | None) -> Exception:
    """Return the error for something that is no sample as those of the loader are."""
    hint = (
        "change what `prepare` returns"
        if prepare
        else "make a sample of it as the dataset does, by `infer(x, prepare=fn)`, or say whose it is by `like=`"
    )
    return type(error)(
        f"`x` must be a sample as those of loader {reference.loader_name!r}, {reference}, or several of them, got "
        f"{describe(value)} ({error}); {hint}."
    )


def _checked(samples: Samples) -> Samples:
    if not len(samples):
        raise ValueError("`x` must hold at least one sample, got none.")
    with preserved_rng():
        samples[0]  # what does not fit is said before a pass begins
    return samples


def _described(samples: Samples) -> str:
    value = samples[0]
    reference = samples.reference
    return str(reference._replace(sample=value)) if reference else describe(value)


def _is_dataset(x: Any) -> bool:
    is_value = isinstance(x, Tensor | np.ndarray | str | bytes | list | tuple | nn.Module) or fields_of(x) is not None
    return not is_value and hasattr(x, "__getitem__") and hasattr(x, "__len__")


def _checked_prepare(prepare: Any) -> Prepare | None:
    if prepare is not None and not callable(prepare):
        raise TypeError(f"`prepare` must be a function that makes a sample, got {prepare!r}.")
    return prepare  # type: ignore[no-any-return]
