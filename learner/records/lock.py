"""One writer to a run at a time; who begins to write removes what a killed process left half written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learner.checkpoint.lock import LOCK, Lock
from learner.records.files import files_in, is_temporary, writing

_counting = threading.Lock()


class RunLock:
    """The lock of a run, as often as it is asked for: it is given back when the last who holds it lets go.

    Args:
        path: the folder of the run.
        file: the name of the one in it that is written again and again.

    Raises:
        LearnerError: from what takes the lock, if another writes to the folder, or nobody can.

    Example:
        >>> import tempfile
        >>> lock = RunLock(Path(tempfile.mkdtemp()), "run.json")
        >>> with lock.hold(), lock.hold():
        ...     print("written")
        written
    """

    def __init__(self, path: Path, file: str) -> None:
        self._path, self._file = path, file
        self._lock: Lock | None = None
        self._n_holds, self._is_tidy = 0, False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock in a `with` block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Take the lock, or take it once more."""
        with _counting:
            if not self._n_holds:
                with writing(self._path):
                    self._lock = Lock(self._path / LOCK)
                    self._tidy()
            self._n_holds += 1

    def release(self) -> None:
        """Let go once."""
        with _counting:
            self._n_holds -= 1
            if not self._n_holds and self._lock is not None:
                self._lock.release()
                self._lock = None

    def _tidy(self) -> None:
        """Remove, once, what others left half written; while the lock is held, nobody is writing it."""
        if self._is_tidy:
            return
        # Not what is beside `run.json`: a report may be written without the lock.
        found = files_in(self._path, f"{self._file}.*")
        for name in ("samples", "vectors", "figures"):
            found += files_in(self._path / name, "*.tmp")
        for left in filter(is_temporary, found):
            left.unlink()
        self._is_tidy = True
