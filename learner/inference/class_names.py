"""The names of classes, from wherever they are known: callbacks, data, or the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learner.data.fields import TARGET_NAMES
from learner.loop.types import Learner


def class_names(learn: Learner, loader_name: str, n_classes: int) -> tuple[str, ...] | None:
    """Return a name for each of so many classes; None where nobody knows them.

    Asked are, in this order: attributes `classes` of callbacks, as `CollectCallback` has it; of the data of the loader
    and then of all others `classes` (as of torchvision's datasets), the class names of a `Table`; and `config.id2label`
    of a model of transformers. Names of another number of classes are of something else, and passed over.

    Args:
        learn: the learner.
        loader_name: of the loader whose data is asked first.
        n_classes: how many there must be.
    """
    for names in _all_known(learn, loader_name):
        if len(names) == n_classes:
            return names
    return None


def checked_names(classes: Any, n_classes: int) -> tuple[str, ...]:
    """Return the names of classes that a person gives.

    Raises:
        TypeError, ValueError: if they are no names, or not as many as there are classes.
    """
    names = _as_names(classes)
    if names is None:
        raise TypeError(f"`classes` must be names by class id, got {classes!r}; do ['cat', 'dog'].")
    if len(names) != n_classes:
        raise ValueError(f"`classes` must be a name for each of the {n_classes} classes, got {len(names)}.")
    return names


def _all_known(learn: Learner, loader_name: str) -> Iterator[tuple[str, ...]]:
    found: list[Any] = [getattr(cb, "classes", None) for cb in learn.cbs]
    for name in dict.fromkeys([loader_name, *learn.dls]):
        found += _of_data(getattr(learn.dls[name], "dataset", None))
    found.append(_of_model(learn.model))
    yield from filter(None, map(_as_names, found))


def _of_data(dataset: Any) -> Iterator[Any]:
    """Yield what a dataset, and those that it is a part of, say of their classes."""
    while dataset is not None:
        yield getattr(dataset, "classes", None)
        schemas = getattr(dataset, "column_schemas", None)
        if isinstance(schemas, Mapping):
            yield from (getattr(schemas.get(name), "classes", None) for name in TARGET_NAMES)
        dataset = getattr(dataset, "dataset", None)


def _of_model(model: Any) -> Any:
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, Mapping) or all(name == f"LABEL_{i}" for i, name in names.items()):
        return None  # what transformers fills in where nobody has named them
    return names


def _as_names(classes: Any) -> tuple[str, ...] | None:
    if isinstance(classes, Mapping) and set(classes) == set(range(len(classes))):
        classes = [classes[i] for i in range(len(classes))]
    if isinstance(classes, str | Mapping) or not isinstance(classes, Iterable):
        return None
    names = tuple(classes)
    return names if names and all(isinstance(name, str) for name in names) else None
