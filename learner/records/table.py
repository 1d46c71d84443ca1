"""A table: samples by number, the same number for good, so that records can be kept of each. Start at `Table`."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from learner.data.batch import describe
from learner.records.arrow import pyarrow, schemas_of, to_numpy
from learner.records.fingerprint import fingerprint_of
from learner.records.schema import CategoricalLabel, checked_ids, checked_schemas
from learner.records.unpacking import check_size

PLAIN = (np.bool_, np.int64, np.float64, np.str_, np.bytes_)  # collated alike as NumPy's and as Python's values


class Table(Dataset[Any]):
    """Number the samples of a dataset, say what they look like, and know the data again by its fingerprint.

    Sample `i` is row `i` of the data after the functions given to `map`. A table goes into any `DataLoader`, with
    workers as well if the functions can be sent to them.

    Args:
        dataset: anything with a length and items by number.
        table_name: what the table is called in records.
        column_schemas: class names of columns of class ids.

    Attributes:
        name: what the table is called.
        rows: the data as it is stored, by number, without the functions of `map`.
        column_schemas: class names of columns of class ids, by the column's name.

    Raises:
        TypeError: if `dataset` has no length or no items by number.

    Example:
        >>> table = Table.from_dict({"x": [0.5, 1.5], "label": [1, 0]})
        >>> table[0]
        {'x': 0.5, 'label': 1}
        >>> table.map(lambda row: (row["x"], row["label"]))[0], table.rows[0]
        ((0.5, 1), {'x': 0.5, 'label': 1})
    """

    def __init__(
        self,
        dataset: Any,
        table_name: str = "table",
        column_schemas: Mapping[str, CategoricalLabel] | None = None,
    ) -> None:
        if not isinstance(table_name, str):
            raise TypeError(f"`table_name` must be a string, got {table_name!r}.")
        self.name = table_name
        self.rows = Rows(_checked_dataset(dataset), table_name)
        self.column_schemas = checked_schemas(column_schemas)
        self._maps: tuple[Callable[[Any], Any], ...] = ()
        self._collect_maps: tuple[Callable[[Any], Any], ...] = ()
        self._fingerprint: str | None = None

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        table_name: str = "table",
        column_schemas: Mapping[str, CategoricalLabel] | None = None,
    ) -> Table:
        """Return a table of columns in memory, which are kept and not copied.

        Args:
            data: lists, arrays or tensors of one length, by column; their entries may be anything, images too.
            table_name: what the table is called in records.
            column_schemas: class names of columns of class ids.

        Raises:
            TypeError: if a name is no string, or a column has no length.
            ValueError: if there is no column, the lengths differ, or a class id has no name.
        """
        columns = Columns(data)
        schemas = checked_schemas(column_schemas)
        columns.check_ids(schemas)
        return cls(columns, table_name, schemas)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        table_name: str | None = None,
        column_schemas: Mapping[str, CategoricalLabel] | None = None,
    ) -> Table:
        """Return the table in a Parquet file. Class names that are in the file become `column_schemas`.

        A column at a time is decoded; numbers without gaps become arrays, class names become class ids. Checksums
        of pages are verified where the file has some, as with pyarrow's `write_page_checksum=True`.

        Args:
            path: the file.
            table_name: what the table is called in records; without it, the file's name is.
            column_schemas: class names of further columns, or other ones.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no whole Parquet file, is damaged, or a class id has no name.
            LearnerError: if it would take far more memory than its size suggests; for a file that you trust, set
                `learner.records.unpacking.MAX_BYTES`.
        """
        path = Path(path).expanduser()
        given = checked_schemas(column_schemas)
        data, found = _read(path)
        columns = Columns(data)
        columns.check_ids(given)
        return cls(columns, path.stem if table_name is None else table_name, {**found, **given})

    def map(self, fn: Callable[[Any], Any]) -> Table:
        """Change what samples look like, from now on; a further function gets what the one before it returns.

        Args:
            fn: takes a row as stored and returns the sample. It is called each time a sample is asked for.

        Returns:
            The same table.
        """
        self._maps += (_checked_function(fn),)
        return self

    def map_collect_metrics(self, fn: Callable[[Any], Any]) -> Table:
        """Change what samples look like while metrics are collected, instead of what `map` says.

        Args:
            fn: takes a row as stored and returns the sample, as without augmentation.

        Returns:
            The same table.
        """
        self._collect_maps += (_checked_function(fn),)
        return self

    def collect_view(self) -> Table:
        """Return the table as it looks while metrics are collected: of the same rows, with the maps for that.

        Without a function given to `map_collect_metrics`, it looks as always.
        """
        view = copy.copy(self)
        view._maps = self._collect_maps or self._maps
        return view

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that change when the rows do; computed when first asked for, then kept.

        Of columns the content counts, whatever holds it, and their names; of another dataset what `fingerprint_of`
        can see without reading a sample. Maps, class names and the table's name do not count.
        """
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.rows.dataset)
        return self._fingerprint

    @property
    def weights(self) -> np.ndarray | None:
        """How much each sample counts (n_rows,), float64: the column `weight`; None where there is none.

        Raises:
            ValueError: if it holds something else than finite numbers of at least 0.
        """
        dataset = self.rows.dataset
        if not isinstance(dataset, Columns) or "weight" not in dataset.columns:
            return None
        column = dataset.columns["weight"]
        weights = np.asarray(column.cpu() if isinstance(column, Tensor) else column)
        if weights.ndim != 1 or weights.dtype.kind not in "biuf" or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(f"`weight` must hold a finite number of at least 0 per sample, got {describe(column)}.")
        return weights.astype(np.float64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        sample = self.rows[i]
        for fn in self._maps:
            try:
                sample = fn(sample)
            except Exception as error:
                error.add_note(f"This was row {operator.index(i)} of table {self.name!r}, in {fn}.")
                raise
        return sample

    def __repr__(self) -> str:
        dataset = self.rows.dataset
        held = ", ".join(dataset.columns) if isinstance(dataset, Columns) else f"of {type(dataset).__name__}"
        return f"Table({self.name!r}, {len(self)} rows: {held})"


class Rows(Dataset[Any]):
    """The rows of a table as they are stored, by number; negative numbers count from the end.

    Args:
        dataset: what holds them.
        name: of the table.

    Raises:
        IndexError: if there is no such row.
        TypeError: if a row is asked for by something else than a whole number.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = dataset
        self._name = name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: Any) -> Any:
        try:
            number = operator.index(i)
        except TypeError:
            raise TypeError(
                f"`i` must be the number of a row of table {self._name!r}, got {i!r}; for several do "
                f"`[table[i] for i in range(...)]`."
            ) from None
        n_rows = len(self.dataset)
        if not -n_rows <= number < n_rows:
            raise IndexError(f"`i` must be one of the {n_rows} rows of table {self._name!r}, got {number}.")
        return self.dataset[number % n_rows]

    def __repr__(self) -> str:
        return f"Rows of {self._name!r} ({len(self)})"


class Columns(Dataset[dict[str, Any]]):
    """Columns in memory as a dataset of rows, each a dict.

    Args:
        data: lists, arrays or tensors of one length, by column.

    Raises:
        TypeError: if `data` is no mapping, a name is no string, or a column has no length.
        ValueError: if there is no column, or the lengths differ.
    """

    def __init__(self, data: Any) -> None:
        if not isinstance(data, Mapping):
            hint = "; do `frame.to_dict('list')`" if hasattr(data, "iloc") else "; do `{'x': [...]}`"
            raise TypeError(f"`data` must be a mapping from names to columns, got {type(data).__name__}{hint}.")
        if not data:
            raise ValueError("`data` must hold at least one column, got none.")
        for name in data:
            if not isinstance(name, str):
                raise TypeError(f"`data` must have strings as names of columns, got {name!r}; do `str(name)`.")
        self.columns = {name: _checked_column(name, column) for name, column in data.items()}
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
            raise ValueError(f"`data` must have columns of one length, got {told}.")

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that change when a value, a name or the order of rows does."""
        return fingerprint_of(self.columns)

    def check_ids(self, schemas: Mapping[str, CategoricalLabel]) -> None:
        """Refuse class names of a column that there is not, and class ids that have no name."""
        for name, label in schemas.items():
            if name not in self.columns:
                raise ValueError(
                    f"`column_schemas` must be of columns of the table, got {name!r}; it has {', '.join(self.columns)}."
                )
            column = self.columns[name]
            checked_ids(name, np.asarray(column.cpu() if isinstance(column, Tensor) else column), label)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: _entry(column, i) for name, column in self.columns.items()}


def _entry(column: Any, i: int) -> Any:
    value = column[i]
    if isinstance(column, np.ndarray):
        if isinstance(value, PLAIN):
            return value.item()
        if isinstance(value, np.ndarray):
            return value.copy()  # a view of Arrow's memory cannot be written to, and torch warns of it
    return value


def _checked_column(name: str, column: Any) -> Any:
    if hasattr(column, "to_numpy"):  # of pandas, polars or Arrow
        column = column.to_numpy()
    is_column = hasattr(column, "__len__") and hasattr(column, "__getitem__") and getattr(column, "ndim", None) != 0
    if not is_column or isinstance(column, str | bytes | Mapping):
        raise TypeError(
            f"`data[{name!r}]` must be a list, an array or a tensor with an entry per row, got "
            f"{type(column).__name__}; do `list(...)`."
        )
    return column


def _checked_dataset(dataset: Any) -> Any:
    hint = "`dataset` must have a length and items by number"
    if isinstance(dataset, str | Path):
        raise TypeError(f"{hint}, got the text {str(dataset)!r}; read a file by `Table.from_parquet(path)`.")
    if isinstance(dataset, Mapping):
        raise TypeError(f"{hint}, got a mapping; for columns do `Table.from_dict(data)`.")
    if hasattr(dataset, "iloc"):
        raise TypeError(f"{hint}, got a data frame; do `Table.from_dict(frame.to_dict('list'))`.")
    if isinstance(dataset, IterableDataset):
        raise TypeError(f"{hint}, got an iterable dataset, {type(dataset).__name__}; its samples have no numbers.")
    if hasattr(dataset, "dataset") and not hasattr(dataset, "__getitem__"):
        raise TypeError(f"{hint}, got {type(dataset).__name__}; pass its `.dataset`.")
    try:
        len(dataset)
    except (TypeError, NotImplementedError):
        raise TypeError(f"{hint}, got {type(dataset).__name__} without a length; give it a `__len__`.") from None
    if not hasattr(dataset, "__getitem__"):
        raise TypeError(f"{hint}, got {type(dataset).__name__} without items; give it a `__getitem__`.")
    return dataset


def _checked_function(fn: Any) -> Callable[[Any], Any]:
    if not callable(fn):
        raise TypeError(f"`fn` must be a function from a row to a sample, got {fn!r}.")
    return fn  # type: ignore[no-any-return]


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, CategoricalLabel]]:
    """Return the columns of a Parquet file, read one by one so that Arrow holds one at most, and their class names."""
    pa = pyarrow()
    from pyarrow import parquet

    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a Parquet file, got {str(path)!r}; there is no such file.")
    columns: dict[str, np.ndarray] = {}
    schemas: dict[str, CategoricalLabel] = {}
    try:
        with parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            check_size(path, file.metadata)
            for name in file.schema_arrow.names:
                part = file.read(columns=[name])  # of "a.b" it reads the field "b" of a column "a" too
                schemas.update(schemas_of(part))
                columns[name] = (
                    _exact(part[name]) if _is_rounded(part[name]) else to_numpy(part[name], schemas.get(name))
                )
    except (pa.ArrowException, OSError) as error:  # OSError: of a page that is not what its checksum says
        raise ValueError(
            f"`path` must be a whole Parquet file, got {str(path)!r}; it is cut short or damaged "
            f"({str(error).splitlines()[0]})."
        ) from error
    return columns, schemas


def _is_rounded(column: Any) -> bool:
    """Tell whether whole numbers have gaps, which makes floats of them, and are too large for those."""
    pa = pyarrow()
    if not pa.types.is_integer(column.type) or not column.null_count:
        return False
    values = column.drop_null().to_numpy()
    return bool(len(values)) and not -(2**53) <= int(values.min()) <= int(values.max()) <= 2**53


def _exact(column: Any) -> np.ndarray:
    return np.array(column.to_pylist(), object)
