"""Write samples to Parquet files batch by batch: what is held in memory does not grow with what is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from learner.data.batch import describe
from learner.errors import LearnerError
from learner.records.arrow import encodable, pyarrow, to_arrow
from learner.records.files import file_name, files_in, make_folder, opened, publish, temporary, writing
from learner.records.schema import CategoricalLabel, checked_ids, checked_schemas

KEYS = ("example_id", "epoch", "step", "split")  # say which sample and when; they are in every file of a part
ROWS = 8192  # of a row group; smaller ones are slower to read, by five times at 512
BYTES = 2**26  # [bytes] of a row group at most, where rows are very wide
FORMAT = "1"

_Columns = Mapping[str, np.ndarray]


class SampleWriter:
    """Write a part: rows of samples, in `samples/{name}.parquet` and a file per column of vectors.

    A column with a vector per sample goes to `vectors/{name}.{column}.parquet`, with the columns that say which sample
    and when, so that reading the losses never touches it. All files have their rows in the same order.

    The files have their names when they are whole and on the disk, at `close`; until then they have names
    of their own that end in `.tmp`. A part of
    the same name that was there before is there until then. In a `with` block: closed at the end, discarded after an
    error or an interrupt.

    Args:
        folder: of the run; folders are made where they are missing.
        name: of the part; other characters than letters, digits and `_.-` become `_`.
        schemas: class names of columns of class ids.
        fingerprint: of the table that the samples are from.
        table_name: of that table.
        constants: columns with one value for all rows.
        hold: entered now, left when it is closed or discarded, as `Run.hold()`.

    Attributes:
        name: of the part, as its files have it.
        n_rows: how many were added.
        paths: of the files, the scalars' first; none before `close`.

    Raises:
        ImportError: without pyarrow.
        TypeError, ValueError: for columns that cannot be written or differ from those before; nothing of them is kept.
        LearnerError: if a file cannot be written, or the writer is closed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with SampleWriter(folder, "valid-0000", constants={"epoch": 0}) as writer:
        ...     for i in range(3):
        ...         writer.add({"example_id": np.arange(2 * i, 2 * i + 2), "embedding": np.zeros((2, 8), np.float32)})
        >>> sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))
        ['samples/valid-0000.parquet', 'vectors/valid-0000.embedding.parquet']
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        schemas: Mapping[str, CategoricalLabel] | None = None,
        fingerprint: str | None = None,
        table_name: str = "",
        constants: Mapping[str, Any] | None = None,
        hold: AbstractContextManager[None] | None = None,
    ) -> None:
        pyarrow()  # say now, not after the first row group, that it is missing
        self.name, self.n_rows = file_name(name), 0
        self._folder = Path(folder).expanduser().absolute()  # wherever the program goes next
        self._schemas = checked_schemas(schemas, "schemas")
        self._constants = {key: _checked_constant(key, value) for key, value in (constants or {}).items()}
        self._metadata = {"learner.format": FORMAT, "learner.table_name": encodable(table_name)}
        if fingerprint is not None:
            self._metadata["learner.table_fingerprint"] = fingerprint
        self._files: dict[str, _File] = {}  # by column of vectors; "" has all the others
        self._names: set[str] = set()
        self._is_open = True
        self.paths: list[Path] = []
        self._stack = ExitStack()
        if hold is not None:
            self._stack.enter_context(hold)

    def add(self, columns: _Columns) -> None:
        """Write rows: the same columns each time, with an entry per row.

        Shapes: a column is (n_rows,), or (n_rows, width) with the same width each time. It is copied.
        """
        if not self._is_open:
            raise LearnerError(f"`add` must come before `close`, and part {self.name!r} is closed; make a new writer.")
        columns = self._checked(columns)
        n_rows = len(columns["example_id"])
        files = self._files or self._opened(columns)
        for file in files.values():
            file.check(columns)
        for file in files.values():
            file.add(columns)
        self.n_rows += n_rows

    def close(self) -> list[Path]:
        """Give the files their names; return their paths, the scalars' first. Without any row added, there is none."""
        if not self._is_open:
            return self.paths
        try:
            for file in self._files.values():
                file.finish()
            self._is_open = False
            self._remove_other_vectors()
            # The scalars come last: what has them is there as a whole.
            for file in reversed(self._files.values()):
                file.publish()
        except BaseException:
            self.discard()
            raise
        self.paths = [file.path for file in self._files.values()]
        self._stack.close()
        return self.paths

    def discard(self) -> None:
        """Leave nothing behind of what was added; what was there before stays."""
        self._is_open = False
        with self._stack:
            for file in self._files.values():
                file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def _checked(self, given: _Columns) -> dict[str, np.ndarray]:
        """Return the columns as they are written, the constants with them, keys first."""
        if "example_id" not in given and "example_id" not in self._constants:
            raise ValueError("`columns` must hold `example_id`, the number of the sample in its table; add it.")
        if twice := sorted(given.keys() & self._constants.keys()):
            raise ValueError(f"`columns` must have other names than `constants`, got {twice[0]!r} in both; rename one.")
        columns = {name: _checked_column(name, values) for name, values in given.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
            raise ValueError(f"`columns` must have one entry per row each, got {told}.")
        n_rows = next(iter(lengths.values()), 0)
        columns |= {name: np.full(n_rows, value) for name, value in self._constants.items()}
        if self._names and self._names != columns.keys():
            odd = ", ".join(sorted(self._names ^ columns.keys()))
            raise ValueError(f"`columns` must be the same each time, got {odd} once and not another time.")
        for name, label in self._schemas.items():
            if name in columns:  # now, while it is known which batch it was
                checked_ids(name, columns[name], label)
        return {name: columns[name] for name in (*(key for key in KEYS if key in columns), *columns)}

    def _opened(self, columns: _Columns) -> dict[str, _File]:
        """Open the files that these columns need."""
        keys = [name for name in KEYS if name in columns]
        vectors = [name for name in columns if columns[name].ndim == 2]
        by_file: dict[str, str] = {}
        for name in vectors:
            if (other := by_file.setdefault(file_name(name), name)) != name:
                raise ValueError(
                    f"`columns` must differ in letters and digits, got {other!r} and {name!r}; rename one."
                )
        scalars = [name for name in columns if name not in vectors]
        whats = {"": (self._folder / "samples" / f"{self.name}.parquet", scalars)}
        for name in vectors:
            whats[name] = (self._folder / "vectors" / f"{self.name}.{file_name(name)}.parquet", [*keys, name])
        opened = {}
        try:
            for key, (path, names) in whats.items():
                opened[key] = _File(path, {name: columns[name] for name in names}, self._schemas, self._metadata)
        except BaseException:
            for file in opened.values():
                file.discard()
            raise
        self._files, self._names = opened, set(columns)
        return opened

    def _remove_other_vectors(self) -> None:
        """Remove vectors of the part that is replaced, which would else be taken for this one's."""
        kept = {file.path for file in self._files.values()}
        for path in files_in(self._folder / "vectors", f"{escape(self.name)}.*.parquet"):
            columns = [] if path in kept else _columns_of(path)
            # `a.b.x.parquet` is column `x` of part `a.b`, and none of part `a`.
            if any(path.name == f"{self.name}.{file_name(column)}.parquet" for column in columns):
                with writing(path):
                    path.unlink()


class _File:
    """A Parquet file that grows by row groups, and has its name when it is whole.

    Args:
        path: where it will be.
        like: the first rows, which say how the columns look.
        schemas: class names.
        metadata: kept in the schema.
    """

    def __init__(
        self, path: Path, like: _Columns, schemas: Mapping[str, CategoricalLabel], metadata: Mapping[str, str]
    ) -> None:
        from pyarrow import parquet

        self.path, self._schemas = path, schemas
        schema = to_arrow({name: column[:1] for name, column in like.items()}, schemas).schema
        schema = schema.with_metadata({**(schema.metadata or {}), **metadata})
        n_bytes = sum(column.itemsize * int(np.prod(column.shape[1:])) for column in like.values())
        self._n_buffered, self._n_in_group = 0, max(1, min(ROWS, BYTES // n_bytes))
        # A string of NumPy is as long as the first one that came; as an object it may be of any length.
        self._buffer = {
            name: np.empty((self._n_in_group, *column.shape[1:]), object if column.dtype.kind == "U" else column.dtype)
            for name, column in like.items()
        }
        self._new = temporary(path)
        with writing(path):
            make_folder(path.parent)
            self._sink = self._new.open("xb")
            # Floats and ids hardly repeat: a dictionary of them takes time, and a third more room.
            repeating = [name for name, column in like.items() if column.dtype.kind != "f" and name != "example_id"]
            self._writer = parquet.ParquetWriter(
                self._sink, schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
            )

    def check(self, columns: _Columns) -> None:
        """Refuse columns of another type or width than the first ones."""
        for name, buffer in self._buffer.items():
            column = columns[name]
            if column.shape[1:] != buffer.shape[1:]:
                raise ValueError(
                    f"`{name}` must be equally wide each time, got {describe(column)} after rows of {buffer.shape[1:]}."
                )
            is_text, was_text = column.dtype.kind in "UO", buffer.dtype == object
            if is_text != was_text or not (is_text or np.can_cast(column.dtype, buffer.dtype, "safe")):
                before = "text" if was_text else buffer.dtype
                raise TypeError(f"`{name}` must be of one type, got {describe(column)} after {before}; convert it.")

    def add(self, columns: _Columns) -> None:
        """Take rows, and write as many as make whole row groups."""
        n_rows, start = len(next(iter(columns.values()))), 0
        while start < n_rows:
            stop = min(n_rows, start + self._n_in_group - self._n_buffered)
            if stop - start == self._n_in_group:  # no need to wait, nor for a copy
                group = {name: columns[name][start:stop] for name in self._buffer}
                self._write({name: rows.astype(self._buffer[name].dtype, copy=False) for name, rows in group.items()})
            else:
                for name, buffer in self._buffer.items():
                    buffer[self._n_buffered : self._n_buffered + stop - start] = columns[name][start:stop]
                self._n_buffered += stop - start
            if self._n_buffered == self._n_in_group:
                self._write_buffer()
            start = stop

    def _write_buffer(self) -> None:
        self._write({name: buffer[: self._n_buffered] for name, buffer in self._buffer.items()})
        self._n_buffered = 0

    def _write(self, rows: _Columns) -> None:
        with writing(self.path):
            self._writer.write_table(to_arrow(rows, self._schemas))

    def finish(self) -> None:
        """Write what is left, and the footer."""
        if self._n_buffered:
            self._write_buffer()
        with writing(self.path):
            self._writer.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())  # a checkpoint may say soon that it is there
            self._sink.close()

    def publish(self) -> None:
        """Give the file its name."""
        with writing(self.path):
            publish(self._new, self.path)

    def discard(self) -> None:
        """Remove what was written, if it has no name yet."""
        with suppress(Exception):  # its own footer may be what could not be written
            self._writer.close()
        with suppress(Exception):
            self._sink.close()
        self._new.unlink(missing_ok=True)


def _columns_of(path: Path) -> list[str]:
    """Return the columns of a file; none if it is damaged, for then nobody knows whose it is."""
    from pyarrow import parquet

    try:
        with opened(path) as file:
            names: list[str] = parquet.read_schema(file).names
    except (OSError, pyarrow().ArrowException):
        return []
    return names


def _checked_column(name: str, values: Any) -> np.ndarray:
    """Return a column as an array, its keys as int64."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"`columns` must have names that are not empty, got {name!r}.")
    if not isinstance(values, np.ndarray) or values.ndim not in (1, 2):
        raise TypeError(
            f"`{name}` must be an array (n_rows,) or (n_rows, width), got {describe(values)}; flatten what is more."
        )
    if name in KEYS[:3]:
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise TypeError(f"`{name}` must hold a whole number per row, got {describe(values)}.")
        return values.astype(np.int64, copy=False)
    if values.dtype == object and not all(issubclass(kind, str) for kind in set(map(type, values.flat))):
        raise TypeError(f"`{name}` must hold numbers, bools or strings, got an array of objects; convert it.")
    return values


def _checked_constant(name: str, value: Any) -> bool | int | float | str:
    if not isinstance(value, bool | int | float | str | np.bool_ | np.number):
        raise TypeError(f"`constants[{name!r}]` must be a number, a bool or a string, got {describe(value)}.")
    return value  # type: ignore[return-value]
