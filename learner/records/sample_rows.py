"""Rows on record: read from files column by column, chosen, averaged by group, laid out by epoch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from learner.data.signature import nearest
from learner.records.arrow import pyarrow, to_numpy
from learner.records.choosing import checked_k, meets, order_of
from learner.records.keys import Cells, Pivot, cells_of
from learner.records.listing import Listing, pandas
from learner.records.parts import Part, Parts
from learner.records.schema import CategoricalLabel
from learner.records.writer import KEYS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

_NO_WORD = "(missing)"
_CLASS_IDS = ("label", "predicted")  # as collectors call them; no numbers to be averaged, also where they have no names


class SampleRows:
    """Rows of parts, by number: what of `Samples` needs neither the samples themselves nor a picture.

    The files are read when a column is asked for, and only that column; selections are made of row numbers.

    Args:
        parts: Parquet files or Arrow tables, as for `Samples`.
        aggregates: means by column; computed if None.

    Raises:
        TypeError: if `parts` is something else.

    Example:
        >>> from learner.records.arrow import to_arrow
        >>> rows = SampleRows([to_arrow({"example_id": np.arange(3), "loss": np.array([0.5, 2.0, 1.0])})])
        >>> rows.top("loss", 2).numpy("example_id"), rows.aggregates
        (array([1, 2]), {'loss': 1.1666666666666667})
    """

    def __init__(self, parts: Sequence[Path | Any], aggregates: Mapping[str, float] | None = None) -> None:
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise TypeError(f"`parts` must be a list of files or Arrow tables, got {type(parts).__name__}.")
        self._parts = Parts(Part(part) for part in parts)
        self._aggregates = aggregates
        self._chosen: np.ndarray | None = None
        self._joins: tuple[_Join, ...] = ()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, those of vectors last."""
        mine = (*self._parts.scalars, *self._parts.vectors)
        return (*mine, *(name for join in self._joins for name in join.names))

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the columns that hold one value per sample; known without opening a file of vectors."""
        return tuple(self._kinds())

    def numpy(self, name: str) -> np.ndarray:
        """Return a column: (N,), or (N, width) of vectors; of class names their ids, see `classes`."""
        values = self._arrays([name])[name]
        return values if values.flags.writeable else values.copy()  # torch warns of what cannot be written to

    def classes(self, name: str) -> tuple[str, ...]:
        """Return the class names of a column by id.

        Raises:
            ValueError: if it has none.
        """
        label = self.schema(self._checked(name))
        if label is None:
            raise ValueError(f"`{name}` must have class names, got none; give them as `column_schemas` when recording.")
        return label.classes

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """Return a `pa.Table` of these columns; of all but the vectors if None."""
        names = list(self.scalars if columns is None else columns)
        found = self._read(names)
        return pyarrow().table({name: found[name] for name in names})

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a data frame of these columns, class names as categoricals; of all but the vectors if None.

        Raises:
            ImportError: if pandas is not installed.
        """
        pandas()
        return self.to_arrow(columns).to_pandas()

    def intact(self) -> Self:
        """Return the samples of those files that can be opened; each row, what was chosen before is chosen no more."""
        parts = [part for part in (part.intact() for part in self._parts.parts) if part is not None]
        return self._with(Parts(parts), None, ())

    def __len__(self) -> int:
        return self._parts.n_rows if self._chosen is None else len(self._chosen)

    @property
    def _rows(self) -> np.ndarray:
        return np.arange(self._parts.n_rows) if self._chosen is None else self._chosen

    def _checked(self, name: str) -> str:
        if self._parts.type_of(name) is None and not any(name in join.names for join in self._joins):
            known = ", ".join(self.columns) or "none"
            raise ValueError(f"`{name}` must be a column, got the columns {known}{nearest(str(name), self.columns)}.")
        return name

    def _read(self, names: Sequence[str]) -> dict[str, Any]:
        """Return columns as Arrow has them."""
        for name in names:
            self._checked(name)
        mine = [name for name in names if self._parts.type_of(name) is not None]
        table = self._parts.read(mine, self._rows)
        found = {name: table[name] for name in mine}
        for join in self._joins:
            theirs = join.samples._read([join.names[name] for name in names if name in join.names])
            places = pyarrow().array(join.places, mask=join.places < 0)
            found |= {name: theirs[join.names[name]].take(places) for name in names if name in join.names}
        return found

    def _arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: _to_numpy(column, self.schema(name)) for name, column in self._read(names).items()}

    def schema(self, name: str) -> CategoricalLabel | None:
        """Return the class names of a column; None if it has none."""
        for join in self._joins:
            if name in join.names:
                return join.samples.schema(join.names[name])
        return self._parts.label(name)

    def _kinds(self) -> dict[str, Any]:
        """Return the Arrow type of each column of one value per sample."""
        found = {name: kind for name, kind in self._parts.scalars.items() if not _is_list(kind)}
        for join in self._joins:
            theirs = join.samples._kinds()
            found |= {name: theirs[original] for name, original in join.names.items() if original in theirs}
        return found

    def _measures(self) -> list[str]:
        """Return the names of the columns that hold numbers which may be averaged."""
        types = pyarrow().types
        kinds = (types.is_integer, types.is_floating, types.is_boolean)
        found = [name for name, kind in self._kinds().items() if any(is_kind(kind) for is_kind in kinds)]
        return [name for name in found if name not in (*KEYS, *_CLASS_IDS) and self.schema(name) is None]

    # -- choosing --------------------------------------------------------------------------------------------------

    def where(self, **conditions: Any) -> Self:
        """Return the rows that meet all conditions.

        Args:
            **conditions: by column a value, a list of values, or a function of the column's array that gives a bool
                for each row. A column of classes is compared by name or id: `label="cat"`, `label=[0, "dog"]`.

        Raises:
            ValueError: if a class is unknown, or a function does not give one bool for each row.
            TypeError: if words are compared with numbers.
        """
        arrays = self._arrays(list(conditions))
        keep = np.ones(len(self), bool)
        for name, condition in conditions.items():
            keep &= meets(name, arrays[name], condition, self.schema(name))
        return self._take(np.flatnonzero(keep))

    def top(self, column: str, k: int = 20, *, largest: bool = True) -> Self:
        """Return the k rows with the largest values, largest first; NaN comes last.

        Args:
            column: of numbers.
            k: how many; fewer if there are not as many.
            largest: whether to begin with the largest, not the smallest.
        """
        return self._take(order_of(self._numbers(column), largest=largest)[: checked_k(k)])

    def _numbers(self, column: str) -> np.ndarray:
        """Return a column, or say why it is not of numbers."""
        values = self.numpy(column)
        if values.ndim > 1 or values.dtype.kind not in "biuf" or self.schema(column) is not None:
            kind = "vectors" if values.ndim > 1 else "words" if values.dtype.kind == "O" else "classes"
            raise ValueError(f"`{column}` must be a column of numbers, got {kind}; there are {self._measures()}.")
        return values

    def _take(self, places: np.ndarray) -> Self:
        """Return the rows at these places."""
        parts, rows = self._parts.pruned(self._rows[places])
        return self._with(parts, rows, tuple(join.taken(places) for join in self._joins))

    def _with(self, parts: Parts, rows: np.ndarray | None, joins: tuple[_Join, ...]) -> Self:
        made = copy.copy(self)
        made._parts, made._chosen, made._joins, made._aggregates = parts, rows, joins, None
        return made

    def _beside(self, other: SampleRows, names: Mapping[str, str], places: np.ndarray) -> Self:
        """Return the same rows with columns of others beside them.

        Args:
            other: the others.
            names: their columns, by the names that these have here.
            places: which of their rows stands beside each of these, -1 for none.
        """
        return self._with(self._parts, self._chosen, (*self._joins, _Join(other, dict(names), places)))

    # -- putting together ------------------------------------------------------------------------------------------

    @property
    def aggregates(self) -> dict[str, float]:
        """Mean of each column of numbers: as the collection has them, else computed in float64; NaN where one is."""
        if self._aggregates is not None:
            return dict(self._aggregates)
        arrays = self._arrays(self._measures())
        return {name: float(values.mean(dtype=np.float64)) for name, values in arrays.items() if len(values)}

    def by(self, column: str) -> Listing:
        """Return count and means of the columns of numbers for each value of a column; prints as a table.

        Means are NaN where a value is. Rows without a value are a group as well. By "label", where there is `predicted`
        too, each class has its precision (of the rows said to be of it, the share that is), recall (of its rows, the
        share that was said to be) and F1 (their harmonic mean); NaN where that is a share of nothing.

        Args:
            column: of classes, words, flags or whole numbers.
        """
        values, label = self.numpy(column), self.schema(column)
        if values.ndim > 1 or (values.dtype.kind == "f" and bool((values % 1 > 0).any())):
            raise ValueError(
                f"`{column}` must be of classes, words, flags or whole numbers, got {values.dtype} values."
            )
        # By id, so that classes keep their order.
        found, which = np.unique(values if label is not None else self.words(column), return_inverse=True)
        names = found if label is None else np.array([*label.classes, _NO_WORD])[found]
        arrays = self._arrays([name for name in self._measures() if name != column])
        counts = np.bincount(which, minlength=len(names))
        means = {
            name: np.bincount(which, arrays[name].astype(np.float64), minlength=len(names)) / counts for name in arrays
        }
        rates = self._rates(names) if column == "label" and "predicted" in self.scalars else {}
        return Listing({column: names, "count": counts, **means, **rates})

    def _rates(self, names: np.ndarray) -> dict[str, np.ndarray]:
        """Return precision, recall and F1 of classes."""
        true, said = self.words("label"), self.words("predicted")
        hits = np.array([((true == name) & (said == name)).sum() for name in names], np.float64)
        n_true = np.array([(true == name).sum() for name in names])
        n_said = np.array([(said == name).sum() for name in names])
        with np.errstate(invalid="ignore"):  # 0 of 0
            return {"precision": hits / n_said, "recall": hits / n_true, "f1": 2 * hits / (n_true + n_said)}

    def pivot(self, column: str) -> Pivot:
        """Return a column of numbers as a matrix of samples by epochs.

        Where a sample comes several times in an epoch (a weighted sampler), the cell is their mean; where it does
        not come, NaN.

        Raises:
            ValueError: if there are no epochs, or several splits: an epoch has a value for each.
        """
        self._numbers(column)
        cells = self.cells([column])
        return Pivot(cells.example_ids, cells.epochs, cells.values[column])

    def cells(self, columns: Sequence[str]) -> Cells:
        """Return columns of numbers as matrices of samples by epochs, as `pivot`, and how often each sample came.

        Raises:
            ValueError: as `pivot`.
        """
        if missing := [name for name in ("example_id", "epoch") if name not in self.scalars]:
            raise ValueError(f"`samples` must have a column {missing[0]!r}, got {', '.join(self.scalars) or 'none'}.")
        splits = self.splits
        if len(splits) > 1:
            raise ValueError(
                f"`samples` must be of one split, got {', '.join(map(repr, splits))}; choose one, as by "
                f"`where(split={splits[0]!r})`."
            )
        arrays = self._arrays(["example_id", "epoch", *columns])
        return cells_of(arrays.pop("example_id"), arrays.pop("epoch"), arrays)

    @property
    def epochs(self) -> np.ndarray:
        """The epochs that there are, rising."""
        found = np.unique(self.numpy("epoch")) if "epoch" in self.scalars else np.zeros(0)
        return found[~np.isnan(found)]

    @property
    def splits(self) -> list[str]:
        """The splits that there are; rows of none come as "None"."""
        if "split" not in self.scalars:
            return []
        return sorted(map(str, self._read(["split"])["split"].unique().to_pylist()))

    def words(self, name: str) -> np.ndarray:
        """Return a column as `numpy` does, but with class names instead of ids; missing words are "(missing)"."""
        label, values = self.schema(name), self.numpy(name)
        if label is not None:
            return np.asarray(np.array([*label.classes, _NO_WORD])[values])
        if values.dtype.kind == "O":
            return np.array([_NO_WORD if value is None else value for value in values], str)
        return values

    def last(self) -> Self:
        """Return the samples of the last epoch; all of them if they are of no epoch.

        Example:
            >>> from learner.records.arrow import to_arrow
            >>> columns = {"epoch": np.array([0, 1, 1]), "loss": np.array([3.0, 2.0, 1.0])}
            >>> SampleRows([to_arrow(columns)]).last().numpy("loss")
            array([2., 1.])
        """
        epochs = self.epochs
        return self.where(epoch=epochs[-1]) if len(epochs) else self


class _Join(NamedTuple):
    """Columns of other samples: their names here and there, and which of their rows stands beside each of ours."""

    samples: SampleRows
    names: dict[str, str]
    places: np.ndarray

    def taken(self, chosen: np.ndarray) -> _Join:
        return self._replace(places=self.places[chosen])


def _is_list(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _to_numpy(column: Any, label: CategoricalLabel | None) -> np.ndarray:
    """Return an Arrow column as an array in which what is missing is NaN, None for words, -1 for class ids."""
    pa = pyarrow()
    if column.null_count and pa.types.is_boolean(column.type):
        column = column.cast(pa.float64())
    if column.null_count and pa.types.is_fixed_size_list(column.type):
        known = to_numpy(column.drop_null())
        filled = np.full((len(column), known.shape[1]), np.nan, np.result_type(known, np.float16))
        filled[column.is_valid().to_numpy()] = known
        return filled
    return to_numpy(column, label)
