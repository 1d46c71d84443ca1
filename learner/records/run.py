"""A run: a folder with what ran, its scalars, samples and figures, that a person can read and a tool can open."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from learner.checkpoint.atomic import replacing
from learner.checkpoint.lock import LOCK
from learner.data.batch import describe
from learner.errors import LearnerError
from learner.records.environment import environment
from learner.records.files import file_name, files_in, is_temporary, make_folder, own_folder, writing
from learner.records.info import FORMAT, INFO, plain, read_info, write_info
from learner.records.lock import RunLock
from learner.records.scalars import Number, ScalarFile, Series, checked_scalars
from learner.records.schema import CategoricalLabel, checked_schemas
from learner.records.table import Table
from learner.records.writer import SampleWriter

if TYPE_CHECKING:
    from learner.records.listing import Listing
    from learner.records.samples import Samples

SCALARS = "scalars.jsonl"
Rows = list[dict[str, Number]]  # in `Run`, `list` is a method

_active: ContextVar[tuple[Run, ...]] = ContextVar("active runs, the innermost last", default=())


class Run:
    """Keep a run in a folder; `Run.create` makes one, `Run.open` goes on with it.

    | in the folder | what |
    |---|---|
    | `run.json` | what ran: config, versions, state of git, seed, tables; how it ended |
    | `scalars.jsonl` | a line for each `log` |
    | `samples/`, `vectors/` | Parquet, a file per part; vectors beside the scalars |
    | `figures/` | PNG |
    | `checkpoints/` | for callbacks that save the model |
    | `report.html` | all of it on a page, by `report()` |

    In a `with` block it is the active run, to which `log` and `collect_metrics` write. Blocks may be nested; the
    innermost counts. Each thread has active runs of its own.

    Files have their names when they are whole, and nothing is changed that was recorded, so a run that is killed leaves
    all that it recorded before. One writes at a time, of this program and of all others: the run is locked in a `with`
    block, during a fit that records, and when something is put down. Reading and `report` need no lock.

    Of several processes that train together the first one writes; the others have a copy in a temporary folder, where
    nothing that they do is in its way. Make the run after the `DistributedCallback`.

    The folder may come from anywhere: what is a link in it is neither read nor written to.

    Attributes:
        path: the folder, absolute.

    Raises:
        LearnerError: from all that writes, if the folder cannot be written to, or another writes to it.

    Example:
        >>> import tempfile
        >>> with Run.create(Path(tempfile.mkdtemp()) / "first", config={"lr": 0.1}) as run:
        ...     log({"epoch": 0, "loss": 0.5})
        ...     log({"epoch": 1, "loss": 0.25})
        >>> run.scalars()["loss"]
        Series(axis='epoch', x=[0, 1], values=[0.5, 0.25])
        >>> Run.open(run.path).config
        {'lr': 0.1}
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self._info = info
        self._scalars = ScalarFile(path / SCALARS)
        self._tables: dict[str, Table] = {}
        self._lock = RunLock(path, INFO)

    # -- make and find ---------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any] | None = None, name: str | None = None
    ) -> Run:
        """Make a run in a new folder.

        Args:
            path: the folder; it must not exist or be empty.
            config: what is worth knowing about the run: numbers, strings, and lists and mappings of them.
            name: what the run is called; the folder's name if None.

        Raises:
            FileExistsError: if the folder holds something.
            TypeError: if `config` holds something that cannot be kept as text.
        """
        folder = own_folder(Path(path).expanduser().absolute())  # wherever the program goes next
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a string, got {name!r}.")
        kept = plain("config", {} if config is None else config)
        if not isinstance(kept, dict):
            raise TypeError(
                f"`config` must be a mapping, got {describe(config)}; do `vars(args)`, or `asdict(config)`."
            )
        _check_empty(folder)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        info = {"format": FORMAT, "name": name or Path(path).name, "created": created, "status": "created"}
        run = cls(folder, {**info, "config": kept, **environment(), "tables": {}})
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with run.hold():
            _check_empty(folder)  # another may have been faster
            write_info(folder, run._info)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Return the run in a folder, to read it or to add to it.

        Raises:
            FileNotFoundError: if there is no run.
            LearnerError: if what is there is none, or is only half there.
        """
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise FileNotFoundError(f"`path` must be the folder of a run, got {str(folder)!r}, which is none.")
        own = own_folder(folder)
        return cls(own, read_info(own))

    @classmethod
    def list(cls, folder: str | os.PathLike[str]) -> Listing:
        """Return a row for each run in a folder, the oldest first: how it ended, its config, its last scalars.

        A run that is half there has the status "broken"; `Run.open` says what is wrong with it.

        Raises:
            FileNotFoundError: if there is no such folder.
        """
        from learner.records.listing import Listing

        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"`folder` must be a folder with runs in it, got {str(folder)!r}.")
        marks = (INFO, SCALARS, "samples")
        paths = [path for path in sorted(folder.iterdir()) if any(os.path.lexists(path / mark) for mark in marks)]
        rows = sorted((_row(path) for path in paths), key=lambda row: row["created"])
        columns = dict.fromkeys(name for row in rows for name in row) or ("run", "status", "created")
        return Listing({name: np.array([row.get(name) for row in rows], object) for name in columns})

    @staticmethod
    def active() -> Run | None:
        """Return the run of the innermost `with` block; None if there is none."""
        runs = _active.get()
        return runs[-1] if runs else None

    def hold(self) -> AbstractContextManager[None]:
        """Keep others from writing to the run, in a `with` block; blocks may be nested.

        Raises:
            LearnerError: if another writes to it: another program, or another `Run` of this folder in this one.
        """
        return self._lock.hold()

    def __enter__(self) -> Self:
        self._lock.acquire()
        _active.set((*_active.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        runs = _active.get()
        last = max(i for i, run in enumerate(runs) if run is self)
        _active.set((*runs[:last], *runs[last + 1 :]))
        self._lock.release()

    # -- what ran --------------------------------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        """What ran, as in `run.json`; a copy."""
        return copy.deepcopy(self._info)

    @property
    def config(self) -> dict[str, Any]:
        """What the run was made with, as it is on record: tuples are lists there, NaN is "nan"."""
        return self.info["config"]  # type: ignore[no-any-return]

    def update(self, **info: Any) -> None:
        """Put something down about what ran, in `run.json`; what had the same name is replaced.

        Raises:
            TypeError: if it holds something that cannot be kept as text.
        """
        new = {name: plain(name, value) for name, value in info.items()}
        with self.hold():
            changed = {**read_info(self.path), **new}  # others may have put something down since
            write_info(self.path, changed)
        self._info = changed

    def register_table(self, table: Table) -> None:
        """Put down which table the samples are from, so that they are known again; `samples` shows its samples.

        Raises:
            TypeError: if it is no `Table`.
        """
        if not isinstance(table, Table):
            raise TypeError(f"`table` must be a Table, got {type(table).__name__}; do `Table(dataset)`.")
        self._tables[table.fingerprint] = table
        entry = {"name": table.name, "n_rows": len(table)}
        if self._info["tables"].get(table.fingerprint) != entry:
            with self.hold():
                self.update(tables={**read_info(self.path)["tables"], table.fingerprint: entry})

    # -- scalars ---------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any]) -> None:
        """Put down scalars, which extend the series of their names.

        Args:
            values: numbers, or tensors with one, which are waited for; and "epoch", "iteration" or "step" if they are
                on such an axis. Of several the finest is the axis; without any the values are counted.

        Raises:
            TypeError, ValueError: if there is no value, or one is no number.
        """
        row = checked_scalars(values)
        with self.hold():
            self._scalars.append(row)

    def logged(self) -> Rows:
        """Return what was logged, a dict for each time."""
        return self._scalars.rows()

    def scalars(self) -> dict[str, Series]:
        """Return the series that were logged, by name."""
        return self._scalars.series()

    # -- samples ---------------------------------------------------------------------------------------------------

    def writer(self, name: str, **options: Any) -> SampleWriter:
        """Return a writer of a part in this run, which it holds until it is closed; for options see `SampleWriter`."""
        return SampleWriter(self.path, name, hold=self.hold(), **options)

    @property
    def samples(self) -> Samples:
        """All samples on record."""
        return self.samples_of(files_in(self.path / "samples", "*.parquet"))

    def samples_named(self, name: str) -> Samples:
        """Return the samples of the part of this name and of those whose name is this one with a number.

        Raises:
            ValueError: if there is none.
        """
        parts = files_in(self.path / "samples", "*.parquet")
        found = [path for path in parts if re.fullmatch(re.escape(file_name(name)) + r"(-\d+)?", path.stem)]
        if not found:
            known = sorted({re.sub(r"-\d+$", "", path.stem) for path in parts})
            raise ValueError(
                f"`name` must be of samples on record, {', '.join(known) or 'and there are none'}, got {name!r}."
            )
        return self.samples_of(found)

    def samples_of(self, parts: Sequence[Path]) -> Samples:
        """Return the samples in some files of this run, with the tables that it knows."""
        from learner.records.samples import Samples

        return Samples(parts, table=[*self._tables.values()])

    def add_metrics_data(
        self,
        columns: Mapping[str, Any],
        input_table: Any = None,
        override_column_schemas: Mapping[str, CategoricalLabel] | None = None,
    ) -> Samples:
        """Put down columns as a part of their own.

        Args:
            columns: lists, arrays or tensors of one length. `example_id` says which sample a row is of, where samples
                come several times or not at all; without it, row i is of sample i.
            input_table: a `Table` or a dataset that the samples are from.
            override_column_schemas: class names of columns of class ids.

        Returns:
            These samples.

        Raises:
            TypeError, ValueError: if a column cannot be kept, or does not fit the others or the table.
        """
        from learner.records.samples import Samples

        if not isinstance(columns, Mapping) or not columns:
            raise TypeError(f"`columns` must be a mapping from names to columns, got {describe(columns)}.")
        arrays = {name: _to_column(name, values) for name, values in columns.items()}
        schemas = checked_schemas(override_column_schemas, "override_column_schemas")
        if unknown := sorted(schemas.keys() - arrays.keys()):
            raise ValueError(f"`override_column_schemas` must be of columns, {', '.join(arrays)}, got {unknown[0]!r}.")
        table = input_table if isinstance(input_table, Table | None) else Table(input_table)
        n_rows = len(next(iter(arrays.values())))
        if table is not None:
            _check_rows(arrays, n_rows, table)
        of_table = {"fingerprint": table.fingerprint, "table_name": table.name} if table is not None else {}
        arrays.setdefault("example_id", np.arange(n_rows))
        with self.hold():
            with self.writer(self._free_name("metrics"), schemas=schemas, **of_table) as writer:
                writer.add(arrays)
            if table is not None:
                self.register_table(table)
        return Samples(writer.paths[:1], table=table)

    def _free_name(self, name: str) -> str:
        taken = {path.stem for path in (self.path / "samples").glob(f"{name}-*.parquet")}
        return next(free for i in range(len(taken) + 1) if (free := f"{name}-{i:04d}") not in taken)

    # -- figures and the report ------------------------------------------------------------------------------------

    def add_figure(self, name: str, figure: Any) -> Path:
        """Keep a figure of matplotlib as a picture; one of the same name is replaced. Return the file."""
        if not hasattr(figure, "savefig"):
            raise TypeError(f"`figure` must be a figure of matplotlib, got {describe(figure)}; of axes, `ax.figure`.")
        path = self.path / "figures" / f"{file_name(name)}.png"
        with self.hold(), writing(path):
            make_folder(path.parent)
            with replacing(path) as file:
                figure.savefig(file, format="png", bbox_inches="tight")
        return path

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write a page with all of it, that needs no server and no network; return the file.

        Args:
            path: the file; `report.html` in the folder if None.
        """
        from learner.records.report.report import write_report

        where = self.path / "report.html" if path is None else Path(path).expanduser()
        write_report(self, where)
        return where

    def __repr__(self) -> str:
        return f"Run({self._info['name']!r}, {self._info['status']}, in {str(self.path)!r})"


def log(values: Mapping[str, Any], run: Run | None = None) -> None:
    """Put down scalars in a run, by default the active one; see `Run.log`.

    Raises:
        LearnerError: if no run is active and none is given.
    """
    run = run or Run.active()
    if run is None:
        raise LearnerError(
            "`log` must have a run to write to, and none is active; do `with Run.create(path):` around it."
        )
    run.log(values)


def _check_empty(path: Path) -> None:
    """Refuse a folder that holds something; what a run leaves that was killed when it was made is nothing."""
    held = [one for one in path.iterdir() if not is_temporary(one) and one.name != LOCK] if path.is_dir() else [path]
    if path.exists() and held:
        raise FileExistsError(
            f"`path` must be a new folder or an empty one, got {str(path)!r}, which is there; do `Run.open(path)` to "
            f"read it, or take another name."
        )


def _row(path: Path) -> dict[str, Any]:
    """Return what a list of runs says of one: the values of its config, and the last ones of its scalars."""
    row = {"run": path.name, "status": "broken", "created": ""}
    try:
        run = Run.open(path)
        last = {name: series.values[-1] for name, series in run.scalars().items()}
    except LearnerError:
        return row
    config = {name: value for name, value in run.config.items() if isinstance(value, int | float | str)}
    return {**row, **config, **last, **{name: run.info[name] for name in ("status", "created")}, "run": path.name}


def _to_column(name: str, values: Any) -> np.ndarray:
    """Return a list, array or tensor as an array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        array: np.ndarray = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        return array
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"`{name}` must have equally many values in each row, got a ragged list; pad it.") from None


def _check_rows(arrays: Mapping[str, np.ndarray], n_rows: int, table: Table) -> None:
    """Refuse rows of samples that the table does not have."""
    n_samples = len(table)
    if "example_id" not in arrays:
        if n_rows != n_samples:
            raise ValueError(
                f"`columns` must have a row for each of the {n_samples} samples of table {table.name!r}, got {n_rows}; "
                f"add `example_id` to say which they are of."
            )
        return
    ids = arrays["example_id"]
    if ids.dtype.kind in "iu" and (outside := ids[(ids < 0) | (ids >= n_samples)]).size:
        raise ValueError(
            f"`example_id` must be the number of a sample of table {table.name!r}, 0 to {n_samples - 1}, got "
            f"{outside[0]}."
        )
