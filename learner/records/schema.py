"""What a column means: class names for columns of class ids. Plain numbers and text need no schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CategoricalLabel:
    """Say that a column holds class ids, and how the classes are called.

    Args:
        name: what the label is called, often the name of its column.
        classes: the names in the order of their ids, or a mapping `{id: name}` with the ids 0, 1, 2, ...

    Raises:
        TypeError: if a name is no string.
        ValueError: if there is no class, a name stands twice, or the ids have gaps.

    Example:
        >>> CategoricalLabel("animal", ["cat", "dog"])
        CategoricalLabel(name='animal', classes=('cat', 'dog'))
        >>> CategoricalLabel("animal", {1: "dog", 0: "cat"}).classes
        ('cat', 'dog')
    """

    name: str
    classes: tuple[str, ...]

    def __init__(self, name: str, classes: Iterable[str] | Mapping[int, str]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string, got {name!r}; do `CategoricalLabel('label', ['cat', 'dog'])`.")
        if isinstance(classes, str) or not isinstance(classes, Iterable):
            raise TypeError(f"`classes` must be a list of names or a mapping {{id: name}}, got {classes!r}.")
        if isinstance(classes, Mapping):
            ids = list(classes)
            if set(ids) != set(range(len(ids))):
                raise ValueError(f"`classes` must have the ids 0 to {len(ids) - 1} without gaps, got {ids}.")
            classes = [classes[i] for i in range(len(ids))]
        names = tuple(classes)
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"`classes` must be names, got {wrong[0]!r}; do `[str(c) for c in classes]`.")
        if not names:
            raise ValueError("`classes` must hold at least one name, got none.")
        if twice := [name for name, n_times in Counter(names).items() if n_times > 1]:
            raise ValueError(f"`classes` must be different names, got {twice[0]!r} twice; rename one.")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "classes", names)


def checked_schemas(schemas: Any, argument: str = "column_schemas") -> dict[str, CategoricalLabel]:
    """Return a mapping from column names to `CategoricalLabel` as a dict of its own; None is an empty one.

    Args:
        schemas: what a person passed.
        argument: how that argument is called, for the error.

    Raises:
        TypeError: if it is no such mapping.
    """
    if schemas is None:
        return {}
    if not isinstance(schemas, Mapping):
        raise TypeError(
            f"`{argument}` must be a mapping from column names to CategoricalLabel, got {type(schemas).__name__}; do "
            f"`{{'label': CategoricalLabel('label', ['cat', 'dog'])}}`."
        )
    for column, schema in schemas.items():
        if not isinstance(column, str):
            raise TypeError(f"`{argument}` must have strings as names of columns, got {column!r}.")
        if not isinstance(schema, CategoricalLabel):
            raise TypeError(
                f"`{argument}[{column!r}]` must be a CategoricalLabel, got {schema!r}; leave plain numbers out."
            )
    return dict(schemas)


def checked_ids(name: str, ids: np.ndarray, label: CategoricalLabel) -> np.ndarray:
    """Return a column of class ids, or say which of them has no name.

    Args:
        name: of the column, for the error.
        ids: one per sample.
        label: the names.

    Raises:
        TypeError: if the column holds something else than whole numbers, one per sample.
        ValueError: if an id has no name.
    """
    n_classes = len(label.classes)
    if ids.ndim != 1 or (ids.dtype.kind not in "biu" and ids.size):
        raise TypeError(f"`{name}` must hold class ids, one per sample, got {ids.dtype} of shape {ids.shape}.")
    outside = (ids < 0) | (ids >= n_classes)
    if outside.any():
        raise ValueError(
            f"`{name}` must hold class ids from 0 to {n_classes - 1}, got {ids[outside][0]}; its CategoricalLabel has "
            f"{n_classes} names, add what is missing."
        )
    return ids
