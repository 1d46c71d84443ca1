"""The files that samples were recorded in, read column by column: nothing is read but what is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from learner.errors import LearnerError
from learner.records.arrow import pyarrow, schemas_of
from learner.records.files import file_name, files_in, opened
from learner.records.schema import CategoricalLabel
from learner.records.unpacking import check_size

_FINGERPRINT = b"learner.table_fingerprint"


class Part:
    """One recorded file with the files of vectors beside it, or an Arrow table in memory.

    Args:
        source: `samples/x.parquet`, whose vectors are looked for as `../vectors/x.{column}.parquet`; or a `pa.Table`.
        leave_out: files of vectors to pass over.

    Raises:
        TypeError: if it is neither.
        LearnerError: when read, if a file is not there, is cut short, does not fit the others, or would take far more
            memory than its size suggests (see `learner.records.unpacking`).
    """

    def __init__(self, source: Any, leave_out: Iterable[Path] = ()) -> None:
        if not isinstance(source, str | Path | pyarrow().Table):
            raise TypeError(f"`parts` must be paths of Parquet files or Arrow tables, got {type(source).__name__}.")
        self.source = Path(source) if isinstance(source, str) else source
        self._leave_out = frozenset(leave_out)

    @property
    def name(self) -> str:
        """What an error calls it."""
        return str(self.source) if isinstance(self.source, Path) else "a table in memory"

    @cached_property
    def _footer(self) -> tuple[Any, int]:
        return _footer(self.source) if isinstance(self.source, Path) else (self.source.schema, self.source.num_rows)

    @property
    def schema(self) -> Any:
        """Names and types of the columns that are not in files of their own."""
        return self._footer[0]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self._footer[1]

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the table that was recorded, if known."""
        found = (self.schema.metadata or {}).get(_FINGERPRINT)
        return found.decode() if found else None

    @cached_property
    def vectors(self) -> dict[str, tuple[Path, Any]]:
        """File and type of each column that is in a file of its own."""
        found = {}
        for path in self._vector_files():
            schema, n_rows = _footer(path)
            for field in schema:
                # By its name too: `a.b.x.parquet` is column `x` of part `a.b`, not of part `a`.
                if path.stem == f"{self.source.stem}.{file_name(field.name)}":
                    found[field.name] = (path, field.type)
                    if n_rows != self.n_rows:
                        raise LearnerError(
                            f"`{path}` must have {self.n_rows} rows, as {self.name}, got {n_rows}; one of them is of "
                            f"another recording, leave both out."
                        )
        return found

    def _vector_files(self) -> list[Path]:
        if not isinstance(self.source, Path):
            return []
        files = files_in(self.source.parent.parent / "vectors", f"{escape(self.source.stem)}.*.parquet")
        return [path for path in files if path not in self._leave_out]

    def read(self, types: Mapping[str, Any]) -> Any:
        """Return columns of these types as a `pa.Table`; those that are not there are null."""
        pa = pyarrow()
        mine = [name for name in types if name in self.schema.names]
        found = self.source if not isinstance(self.source, Path) else read_columns(self.source, mine) if mine else {}
        columns = {}
        for name, kind in types.items():
            if name in mine:
                columns[name] = found[name]
            elif name in self.vectors:
                columns[name] = read_columns(self.vectors[name][0], [name])[name]
            else:
                columns[name] = pa.nulls(self.n_rows, kind)
        return pa.table(columns)

    def label(self, name: str) -> CategoricalLabel | None:
        """Return the class names of a column, None if it has none."""
        if name not in self.schema.names:
            return None
        kind = self.schema.field(name).type
        found = schemas_of(self.schema.empty_table()).get(name)  # from the footer, where this library writes them
        if found is None and pyarrow().types.is_dictionary(kind):
            found = schemas_of(self.read({name: kind})).get(name)
        return found

    def intact(self) -> Part | None:
        """Return the part with those of its files that can be opened, None if its scalars cannot."""
        if isinstance(self.source, Path) and not _is_readable(self.source):
            return None
        return Part(self.source, self._leave_out | {path for path in self._vector_files() if not _is_readable(path)})


class Parts:
    """Parts one after the other, as one table whose rows are numbered from 0.

    Args:
        parts: in the order of their rows.

    Raises:
        LearnerError: when read, if a file cannot be, or a column is of several types or widths.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)

    @cached_property
    def _ends(self) -> np.ndarray:
        """The row number at which each part ends."""
        return np.cumsum([part.n_rows for part in self.parts], dtype=np.int64)

    @property
    def n_rows(self) -> int:
        """Number of rows of all parts."""
        return int(self._ends[-1]) if self.parts else 0

    @cached_property
    def scalars(self) -> dict[str, Any]:
        """Type of each column that is not in files of its own."""
        found: dict[str, Any] = {}
        for part in self.parts:
            for field in part.schema:
                found.setdefault(field.name, field.type)
        return found

    @cached_property
    def vectors(self) -> dict[str, Any]:
        """Type of each column that is in files of its own."""
        found: dict[str, Any] = {}
        for part in self.parts:
            for name, (_, kind) in part.vectors.items():
                found.setdefault(name, kind)
        return found

    def type_of(self, name: str) -> Any:
        """Return the Arrow type of a column, None if there is none; opens files of vectors only if they may have it."""
        return self.scalars[name] if name in self.scalars else self.vectors.get(name)

    def label(self, name: str) -> CategoricalLabel | None:
        """Return the class names of a column, None if it has none.

        Raises:
            LearnerError: if parts have other names for the same ids; that one has more names than another is fine.
        """
        longest: CategoricalLabel | None = None
        for part in self.parts:
            label = part.label(name)
            if label is None:
                continue
            short, long = sorted([label, longest or label], key=lambda one: len(one.classes))
            if long.classes[: len(short.classes)] != short.classes:
                raise LearnerError(
                    f"`{name}` must have the same class names in all parts, got {list(long.classes)} and "
                    f"{list(short.classes)} ({part.name}); look at one at a time, as by `samples.where(split=...)`."
                )
            longest = long
        return longest

    def pruned(self, rows: np.ndarray) -> tuple[Parts, np.ndarray]:
        """Return the parts that hold any of these rows, and the rows as they are numbered there."""
        which = self._which(rows)
        is_used = np.isin(np.arange(len(self.parts)), which)
        if not is_used.any():
            return self, rows
        gone_before = np.cumsum(np.where(is_used, 0, np.diff(self._ends, prepend=0)))
        kept = Parts(part for part, is_kept in zip(self.parts, is_used, strict=True) if is_kept)
        return kept, rows - gone_before[which]

    def _which(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, rows, side="right")

    def read(self, names: Sequence[str], rows: np.ndarray) -> Any:
        """Return columns of these rows, in this order, as a `pa.Table`."""
        if not names:
            return pyarrow().table({})
        types = {name: self.type_of(name) for name in names}
        which = self._which(rows)
        # By part, each of which is read once; most often they are in that order already.
        order = None if bool((which[1:] >= which[:-1]).all()) else np.argsort(which, kind="stable")
        if order is not None:
            which, rows = which[order], rows[order]
        firsts = np.flatnonzero(np.diff(which, prepend=-1))
        tables = []
        for i, chosen in zip(which[firsts] if len(rows) else [0], np.split(rows, firsts[1:]), strict=True):
            local = chosen - (self._ends[i] - self.parts[i].n_rows)
            table = self.parts[i].read(types)
            tables.append(table if _is_count(local, len(table)) else table.take(local))
        joined = _joined(tables)
        return joined if order is None else joined.take(np.argsort(order))


def _is_count(numbers: np.ndarray, n: int) -> bool:
    return len(numbers) == n and bool((numbers == np.arange(n)).all())


def _joined(tables: list[Any]) -> Any:
    pa = pyarrow()
    for name in tables[0].column_names:
        widths = {getattr(table.schema.field(name).type, "list_size", None) for table in tables}
        if len(widths) > 1:
            raise LearnerError(
                f"`{name}` must be equally wide in all parts, got widths {sorted(map(str, widths))}; look at one at a "
                f"time, as by `samples.where(epoch=...)`."
            )
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise LearnerError(
            f"a column must be of one type in all parts, got several: {error}; look at one at a time, as by "
            f"`samples.where(split=...)`."
        ) from None


def _footer(path: Path) -> tuple[Any, int]:
    """Return schema and number of rows of a file."""
    from pyarrow import parquet

    try:
        with opened(path, follows_link=True) as file:  # those of a run are none
            metadata = parquet.read_metadata(file)
            check_size(path, metadata)
    except (OSError, pyarrow().ArrowException) as error:
        raise _broken(path, error) from error
    return metadata.schema.to_arrow_schema(), metadata.num_rows


def _is_readable(path: Path) -> bool:
    try:
        _footer(path)
    except LearnerError:
        return False
    return True


def read_columns(path: Path, names: list[str]) -> Any:
    """Return columns of a Parquet file as a table of pyarrow.

    Raises:
        LearnerError: if the file is gone or damaged.
    """
    from pyarrow import parquet

    try:
        with (
            opened(path, follows_link=True) as file,
            parquet.ParquetFile(file, page_checksum_verification=True) as parquet_file,
        ):
            return parquet_file.read(columns=names)
    except (OSError, pyarrow().ArrowException) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> LearnerError:
    if not path.exists():
        return LearnerError(f"`{path}` must be there, but was moved or deleted; `samples.intact()` leaves it out.")
    return LearnerError(
        f"`{path}` must be a whole Parquet file, got one that is cut short or damaged ({str(error).splitlines()[0]}); "
        f"`samples.intact()` leaves it out and gives the rest."
    )
