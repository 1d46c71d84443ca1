"""A folder that one at a time writes to: a lock file that the system holds, gone with the process however that ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from io import FileIO
from pathlib import Path

from learner.errors import LearnerError

try:
    import fcntl
except ImportError:  # Windows: two programs are not kept apart there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # the lock file of a folder

_held: dict[tuple[int, int], FileIO] = {}  # lock files of this process, by device and inode


class Lock:
    """Hold a lock file, made where it is missing, until `release` or the end of the process.

    It is of the open file (`flock`), so that reading or copying the lock file in the same program does not give it
    back. A child of the process closes its handle at once: else the lock would outlive a training that was killed.

    Args:
        path: the lock file, in the folder to be written to.

    Raises:
        LearnerError: if another program, or another part of this one, holds it; names whom.
        OSError: if the file cannot be written, or is a link or no ordinary file.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = FileIO(path, "r+b", opener=lambda name, _: os.open(name, flags, 0o666))
        try:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
            self._key = status.st_dev, status.st_ino
            self._take(file, path.parent)
        except BaseException:
            file.close()
            raise
        _held[self._key] = file
        with contextlib.suppress(OSError):  # a full disk; this is for people alone
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    def _take(self, file: FileIO, folder: Path) -> None:
        if self._key in _held:  # also where a file system has no locks
            raise LearnerError(f"`{folder}` is being written to by another part of this program; use one folder each.")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                owner = file.read(200).decode(errors="replace") or "another program"
                raise LearnerError(f"`{folder}` is being written to by {owner}; use one folder each.") from None
            # Any other: this file system has no locks.

    def release(self) -> None:
        """Give the lock back."""
        if file := _held.pop(self._key, None):
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a worker may just be forked, and not have closed its handle yet
                    fcntl.flock(file, fcntl.LOCK_UN)
            file.close()


def _close_in_child() -> None:
    while _held:
        _held.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
