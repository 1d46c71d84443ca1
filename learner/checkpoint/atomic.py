"""A file that is whole or not there: written under another name, brought to the disk, renamed.

The other name is `<name>.<pid>-<random>.tmp`, in the same folder. Nobody can know it before, and it must not be there
yet, so a link that somebody laid out is never written through.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of another at the end of the block; after an error it is removed.

    A link at `path` is replaced itself, not what it leads to.

    Raises:
        OSError: if the file cannot be written. What was there before still is.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.txt")
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole")
        ...     path.exists()
        False
        >>> path.read_bytes()
        b'whole'
    """
    file = create_beside(path)
    try:
        with file:
            yield file
            publish(file, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(file.name)
        raise


def create_beside(path: Path) -> BinaryIO:
    """Return a new file to write to, in the same folder, under a name that nobody can know before.

    For what outlives a block; else take `replacing`. `publish` gives it its name.
    """
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp").open("x+b")


def publish(file: BinaryIO, path: Path) -> None:
    """Bring an open file of `create_beside` to the disk, close it and give it its name, in place of what has it."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    os.replace(Path(file.name), path)
    sync_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Rename a file to `<name>.old`, or `<name>.old1` and so on where that is taken; return its new path.

    Raises:
        OSError: if it cannot be renamed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.txt")
        >>> for _ in range(2):
        ...     _ = path.write_text("")
        ...     set_aside(path).name
        'a.txt.old'
        'a.txt.old1'
    """
    names = (path.with_name(f"{path.name}.old{n or ''}") for n in itertools.count())
    return path.rename(next(name for name in names if not name.exists()))


def sync_folder(folder: Path) -> None:
    """Bring the new name to the disk as well, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems over a network
            raise
    finally:
        os.close(handle)
