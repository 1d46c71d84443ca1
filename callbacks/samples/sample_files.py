"""Where the samples of one collecting callback lie: in a run or a temporary folder, a file for each pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from callbacks.samples.collection import log_means
from callbacks.samples.recording import Folder
from learner.records import CategoricalLabel, Run, Samples, Table
from learner.records.files import file_name, files_in
from learner.records.writer import SampleWriter


class SampleFiles:
    """Know the files that were written, and the tables that their samples are of, over several fits.

    Args:
        name: what the names of the files begin with.
        run: where to record; the active run if None, or else a temporary folder.

    Raises:
        TypeError: if one of them is something else.
    """

    def __init__(self, name: str, run: Run | None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string, got {name!r}.")
        if not isinstance(run, Run | None):
            raise TypeError(f"`run` must be a Run, got {run!r}; do `Run.create(path)`.")
        self.name = name
        self._run = run
        self._parts: dict[str, Path | None] = {}  # None for one that was recorded, and is gone
        self._tables: dict[int, Table] = {}
        self._folder: Folder | None = None
        self._was_told = False

    @property
    def run(self) -> Run | None:
        """Where they are recorded now, if not in a temporary folder."""
        return self._run or Run.active()

    @property
    def names(self) -> list[str]:
        """The names of all files so far, also of those that are gone."""
        return list(self._parts)

    @property
    def samples(self) -> Samples:
        """What is in them."""
        parts = [path for path in self._parts.values() if path is not None]
        return Samples(parts, table=list(self._tables.values()), holder=self._folder)

    def begin_anew(self, may_replace: bool) -> None:
        """Forget what there was, for a training from the beginning.

        Args:
            may_replace: whether files of this name in the run are of the same training.

        Raises:
            ValueError: if there are some and they are not.
        """
        self._parts, self._tables, self._folder = {}, {}, None
        run = self.run
        found = [] if run is None else files_in(run.path / "samples", f"{file_name(self.name)}-*.parquet")
        if found and not may_replace:
            raise ValueError(
                f"`run` must have no samples of another training, got {len(found)} files as {found[0].stem!r}; make a "
                f"new Run, or say `name=`. A learner that goes on, by `resume` or after `load`, may."
            )

    def writer(self, part: str, table: Table | None, schemas: Mapping[str, CategoricalLabel]) -> SampleWriter:
        """Return what writes the file of one pass.

        Args:
            part: what its name ends with.
            table: that the samples are of, if they have numbers.
            schemas: class names by column.
        """
        home: Run | Folder | None = self.run
        if home is None:
            home = self._folder = self._folder or Folder()
        elif isinstance(home, Run) and table is not None:
            home.register_table(table)
        return SampleWriter(
            home.path,
            f"{self.name}-{part}",
            schemas=dict(schemas),
            fingerprint=None if table is None else table.fingerprint,
            table_name="" if table is None else table.name,
            hold=home.hold() if isinstance(home, Run) else None,
        )

    def has(self, name: str) -> bool:
        """Tell whether the run has a file of this name already."""
        return self.run is not None and (self.run.path / "samples" / f"{name}.parquet").exists()

    def log(self, run: Run, means: Mapping[str, float], keys: Mapping[str, Any], *, is_again: bool) -> None:
        """Log the means of a pass to a run.

        Args:
            run: where to.
            means: by name.
            keys: as for `log_means`.
            is_again: whether the run may have this pass already, as when training goes on from a checkpoint before it:
                then the same row does not come twice.
        """
        known = {str(row) for row in run.logged()} if is_again else set()
        log_means(lambda row: None if str(row) in known else run.log(row), means, keys)

    def add(self, paths: Iterable[Path]) -> None:
        """Put files down that have been written."""
        self._parts |= {path.stem: path for path in paths}

    def table(self, loader: Any) -> Table | None:
        """Return the table that a loader is over, one for each dataset; None if its samples have no numbers."""
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            return None
        if id(dataset) not in self._tables:
            self._tables[id(dataset)] = dataset if isinstance(dataset, Table) else Table(dataset)
        return self._tables[id(dataset)]

    # -- going on --------------------------------------------------------------------------------------------------

    def find_tables(self, loaders: Iterable[Any]) -> None:
        """Know the tables also of loaders over which no pass comes any more."""
        for table in map(self.table, loaders):
            if self.run is not None and table is not None:
                self.run.register_table(table)

    def expect(self, names: Iterable[str]) -> None:
        """Know which files there were when a checkpoint was written."""
        self._parts = {name: self._parts.get(name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Return which files there are, for a sandbox to put back."""
        return {"parts": dict(self._parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._parts = dict(state["parts"])

    def find(self) -> None:
        """Look for the files in the run; by name, for a path from a checkpoint is not to be followed."""
        run = self.run
        there = {} if run is None else {path.stem: path for path in files_in(run.path / "samples", "*.parquet")}
        self._parts = {name: there.get(name, path) for name, path in self._parts.items()}

    def tell_of_gone(self) -> None:
        """Say once in a warning how many of the files are gone, if any are."""
        n_gone = sum(path is None for path in self._parts.values())
        if n_gone and not self._was_told:
            self._was_told = True
            why = "a temporary folder goes with its process; collect into a Run"
            why = why if self.run is None else f"not in {self.run}"
            warnings.warn(
                f"samples of {n_gone} passes before the checkpoint are gone: {why}.", RuntimeWarning, stacklevel=3
            )
