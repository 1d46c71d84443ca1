"""Files of a run, whose folder may come from a stranger: no link is followed, no pipe waited for, no name foreseen."""

from __future__ import annotations

import atexit
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from learner.checkpoint.atomic import sync_folder
from learner.checkpoint.lock import LOCK
from learner.errors import LearnerError
from learner.ranks.job import is_other_process

_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_TEMPORARY = re.compile(r".+\.[0-9]+-[0-9a-f]{16}\.tmp")


def opened(path: Path, mode: str = "rb", *, follows_link: bool = False) -> BinaryIO:
    """Open an ordinary file.

    Args:
        path: the file.
        mode: as for `open`, of bytes.
        follows_link: whether it may be a link, as of a path that a person wrote.

    Raises:
        OSError: if it is not there, a link, a pipe or another thing that is no ordinary file.
    """
    flags = _NO_WAIT if follows_link else _NO_WAIT | _NO_LINK
    if not follows_link and path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which is not followed", str(path))
    file = open(path, mode, opener=lambda name, own: os.open(name, own | flags, 0o666))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return file  # type: ignore[return-value]


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Return the ordinary files in a folder that match a pattern, by name; none if the folder is a link.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.png").write_bytes(b""), (folder / "b.png").symlink_to("/etc/passwd")
        >>> [path.name for path in files_in(folder, "*.png")]
        ['a.png']
    """
    if folder.is_symlink():
        return []
    return [path for path in sorted(folder.glob(pattern)) if path.is_file() and not path.is_symlink()]


def make_folder(path: Path) -> None:
    """Make a folder where there is none; its parents as well.

    Raises:
        OSError: if it cannot be made, or is a link to another one.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another folder, which is not followed", str(path))


def temporary(path: Path) -> Path:
    """Return another name for a file, at random, until it is whole: nobody can have put something there before."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")


def is_temporary(path: Path) -> bool:
    """Tell whether a file has such a name."""
    return _TEMPORARY.fullmatch(path.name) is not None


def publish(new: Path, path: Path) -> None:
    """Give a file that is whole its name; what had the name before is gone, and where that was a link the link is."""
    os.replace(new, path)
    sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file it was that could not be written, and that what is on record stays."""
    try:
        yield
    except OSError as error:
        raise LearnerError(
            f"`{path}` must be a file that can be written, got {error}; make room or take another folder. What was "
            f"recorded before is there."
        ) from error


def file_name(name: str) -> str:
    """Return a name with letters, digits and `_.-` alone, the others as `_`.

    Example:
        >>> file_name("block/1 out")
        'block_1_out'
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"`name` must be a string that is not empty, got {name!r}.")
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def own_folder(folder: Path) -> Path:
    """Return a folder to write to; in a process for which another one writes, a copy that is gone when it ends."""
    if not is_other_process():
        return folder
    own = Path(tempfile.mkdtemp(prefix="other-process-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    if folder.is_dir():
        shutil.copytree(folder, own, dirs_exist_ok=True, copy_function=_linked, ignore=shutil.ignore_patterns(LOCK))
    return own


def _linked(source: str, target: str) -> None:
    if Path(source).suffix == ".parquet":  # large, and never changed
        try:
            os.link(source, target)
            return
        except OSError:  # on another disk
            pass
    shutil.copy2(source, target)
