"""Write the history of a fit to a file while it runs."""

import csv
import io
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from learner import Callback, Learner
from learner.checkpoint.atomic import replacing


class CSVLoggerCallback(Callback):
    """Write a row for each epoch to a CSV file as soon as the epoch is done: the rows of `learn.history`.

    The file is closed after each row, so a run that is killed leaves all the epochs it finished. A metric that turns
    up late widens the table, and earlier rows keep an empty cell. A pass that a Cancel ended has the means of the
    batches that it saw, and the reason stands in a column `cut_short`, which comes with the first such pass. A fit
    that ends in the middle of an epoch leaves of it what the history has. Nothing is written in a sandbox.

    A fit that goes on from a checkpoint puts its rows in the place of those that the former one wrote, so the file ends
    as if it had not been stopped. Rows of other fits before them are kept.

    Args:
        path: the file; folders are made where they are missing.
        append: keep the rows that the file holds, of earlier fits or runs. Otherwise each fit starts it afresh.

    Raises:
        ValueError: in `before_fit`, if the file cannot be written, or if `append` meets a file that is no such log.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from learner import Loaders
        >>> path = Path(tempfile.mkdtemp()) / "log.csv"
        >>> dls = Loaders.from_arrays(train=(torch.zeros(4, 1), torch.zeros(4, 1)))
        >>> Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, cbs=CSVLoggerCallback(path)).fit(2)
        >>> path.read_text().splitlines()
        ['epoch,train/loss', '0,...', '1,...']
    """

    order = 100
    ranks = "first"
    state = ("_first", "_old_columns", "_n_old", "_epoch")

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = Path(path).expanduser(), append
        self._is_on = False
        self._first = self._n_written = self._epoch = 0  # the fit's first row in the history; how many are in the file
        self._columns: list[str] = []  # of the file; empty until this fit knows them
        self._old_columns: list[str] = []  # those that it had before the fit
        self._n_old = 0  # rows that it had before the fit

    def before_fit(self, learn: Learner) -> None:
        """Find out now, not after the first epoch, whether the file can be written."""
        self._is_on, self._n_written, self._epoch = not learn.in_sandbox, 0, 0
        self._first = sys.maxsize if learn.is_resumed else len(learn.history)  # no row before the state is put back
        self._columns, self._old_columns, self._n_old = [], [], 0
        if not self._is_on:
            return
        self.path = self.path.absolute()  # wherever the program goes next
        is_kept = self.append or learn.is_resumed
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a" if is_kept else "w"):
                pass
            columns, rows = self._read() if is_kept else ([], [])
        except (OSError, UnicodeError) as error:
            self._is_on = False
            raise ValueError(f"`path` must be a file that can be written, got {str(self.path)!r}: {error}.") from error
        if columns and columns[0] != "epoch":
            self._is_on = False
            raise ValueError(
                f"`path` must be a log of this callback to append to, got {str(self.path)!r} whose first column is "
                f"{columns[0]!r}, not 'epoch'; name another file."
            )
        if not learn.is_resumed:
            self._columns, self._old_columns, self._n_old = columns, columns, len(rows)

    def before_epoch(self, learn: Learner) -> None:
        """Write the epoch before, when a new one begins; its row is complete by then."""
        if learn.epoch != self._epoch:
            self._write(learn)
            self._epoch = learn.epoch

    def cleanup_fit(self, learn: Learner) -> None:
        """Write the last epoch, also of a fit that was cut short."""
        self._write(learn)
        self._is_on = False

    def _write(self, learn: Learner) -> None:
        """Write the rows that the history has and the file has not."""
        rows = learn.history.rows[self._first :]
        new = rows[self._n_written :]
        if not self._is_on or not new:
            return
        self._n_written = len(rows)
        columns = list(dict.fromkeys([*self._old_columns, *(name for row in rows for name in row)]))
        if columns != self._columns:
            self._columns = columns
            self._replace([*self._read()[1][: self._n_old], *rows])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerows(new)

    def _replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole table anew; the old file is there until the new one is complete."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        with replacing(self.path.resolve()) as file:  # of a link, replace what it points to
            file.write(text.getvalue().encode())

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Return the columns and the rows that the file holds."""
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)
