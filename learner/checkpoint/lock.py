"""One writer to a folder at a time, of this program and of all others on the machine."""

from __future__ import annotations

import errno
import os
import socket
import weakref
from contextlib import suppress
from io import FileIO
from pathlib import Path

from learner.errors import LearnerError

try:
    import fcntl
except ImportError:  # Windows: two programs are not kept apart there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """A lock on a folder, kept in a file of it, `.lock`.

    The system holds it, so it is gone with the process, however that ends. Other files of the folder may be opened,
    read and copied, `.lock` among them, without a change to who holds it. Workers that are forked do not inherit it.

    Args:
        folder: the folder; it has to be there when the lock is taken.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock, other = FolderLock(folder), FolderLock(folder)
        >>> lock.acquire()
        >>> try:
        ...     other.acquire()
        ... except LearnerError as error:
        ...     print(str(error).replace(str(folder), "folder"))
        `folder` is being written to by another part of this program; use one folder each.
        >>> lock.release()
        >>> other.acquire()
        >>> other.release()
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._file: FileIO | None = None
        _locks.add(self)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LearnerError: if another holds it.
            OSError: if the file cannot be made or opened, or is a link, which may lead anywhere.
        """
        file = open(self._path, "a+b", buffering=0, opener=lambda name, flags: os.open(name, flags | _NO_LINK, 0o666))  # noqa: SIM115
        try:
            if fcntl is not None:
                # Not `lockf`: such a lock is given back when any part of the program closes the file, as after a copy.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                owner, folder = self._owner(file), self._path.parent
                file.close()
                raise LearnerError(f"`{folder}` is being written to by {owner}; use one folder each.") from None
            # Any other: this file system has no locks.
        self._file = file
        with suppress(OSError):  # a full disk; this is for people alone
            file.truncate(0)
            file.write(_signature().encode())

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._file is not None:
            if fcntl is not None:
                with suppress(OSError):  # a worker may just be forked, and not have closed the file yet
                    fcntl.flock(self._file, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close the file, without a word to the system of who holds the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _owner(self, file: FileIO) -> str:
        file.seek(0)
        owner = (file.read(200) or b"").decode(errors="replace")
        return "another part of this program" if owner == _signature() else owner or "another program"


def _signature() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _forget_in_child() -> None:
    """Close the files that a fork inherited; else a worker would hold the lock after the training was killed."""
    for lock in _locks:
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
