"""Write a file of plain data so that no crash leaves half of one, and read it so that it can do no harm.

Format, version 1. A file is, from its beginning to its end,

    a zip archive   as `torch.save(state, file)` writes it: entries under `archive/`, none compressed, a pickle of
                    protocol 2, byte order of the machine. `state` is a dict of plain data as `learner.checkpoint.plain`
                    says, its tensors on the CPU, each in a memory of its own that is no larger.
    8 bytes         "LEARNER" and the version of the format, one byte
    32 bytes        the SHA-256 digest of all bytes before it

so `torch.load(path, weights_only=True)` reads it as well, but sees no damage. What is in `state` is up to who writes
it. A reader of version 1 refuses a higher version; a later reader has to read version 1.

A file is written under another name in the same folder, brought to the disk, and renamed (`learner.checkpoint.atomic`):
a file that has its name is whole, and one that was there before is there until then.

Nothing else in this project reads such a file, or any pickle. Reading runs no code, follows no path and takes memory
in proportion to the size of the file: `learner.checkpoint.archive` and `learner.checkpoint.pickle_scan` see to that
before torch does, with `weights_only=True`, and there is no other way if that fails. That is a strong fence, but no
proof: it is best to read files from sources that one trusts.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch

from learner.checkpoint.archive import check_archive
from learner.checkpoint.atomic import replacing
from learner.checkpoint.pickle_scan import RefusedError
from learner.checkpoint.plain import plain
from learner.errors import LearnerError

VERSION = 1
_MAGIC = b"LEARNER"
_TAIL = len(_MAGIC) + 1 + hashlib.sha256().digest_size


def write_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any], *, follow_link: bool = True) -> None:
    """Write plain data to a file that is whole or not there; what had the name before is there until then.

    Folders are made where they are missing.

    Args:
        path: the file.
        state: plain data.
        follow_link: of a link, replace what it points to; else the link itself, which a stranger may have put there.

    Raises:
        TypeError: naming the place of what is not plain data, before anything is written.
        LearnerError: if the file cannot be written. What was there before still is.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.pt")
        >>> write_checkpoint(path, {"weight": torch.ones(2), "epoch": 3})
        >>> read_checkpoint(path)
        {'weight': tensor([1., 1.]), 'epoch': 3}
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"`state` must be a dict, got {type(state).__name__}.")
    data = plain(dict(state), empty=_EmptyBytes())
    try:
        target = Path(path).expanduser()
        _replace(target.resolve() if follow_link else target, data)
    except (OSError, RuntimeError) as error:  # RuntimeError: of torch, or for a loop of links
        raise LearnerError(f"`{path}` cannot be written: {error}") from error
    except RefusedError as error:
        raise LearnerError(f"`{path}` cannot be written: the file {error}.") from None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of `write_checkpoint`; its tensors are on the CPU.

    Raises:
        LearnerError: naming the file and what is wrong with it: it is not there, damaged, of a newer version, of
            another program, or claims what is not to be believed.
    """
    path = Path(path).expanduser()
    try:
        with _opened(path) as file:
            size = _checked_size(file)
            front = _Front(file, size)
            check_archive(front, size)  # type: ignore[arg-type]
            front.seek(0)
            state: dict[str, Any] = torch.load(front, map_location="cpu", weights_only=True, mmap=False)  # type: ignore[arg-type]
            return state
    except RefusedError as error:
        raise LearnerError(f"`{path}` cannot be read: it {error}.") from None
    except OSError as error:
        raise LearnerError(f"`{path}` cannot be read: {error}") from error
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise LearnerError(f"`{path}` cannot be read: {type(error).__name__}: {first:.200}") from error


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Tell whether `read_checkpoint` would read a file; it is gone through, but nothing is made of it."""
    try:
        with _opened(path) as file:
            size = _checked_size(file)
            check_archive(_Front(file, size), size)  # type: ignore[arg-type]
    except Exception:  # of whatever kind, for what cannot be read
        return False
    return True


class BackgroundWriter:
    """Write beside the training: the copy is taken at once, the rest goes on in a thread.

    One writing at a time: a second waits for the first. In a `with` block the end waits.

    Example:
        >>> import tempfile
        >>> path, weight = Path(tempfile.mkdtemp(), "a.pt"), torch.ones(2)
        >>> with BackgroundWriter() as writer:
        ...     writer.start(lambda state: write_checkpoint(path, state), {"weight": weight})
        ...     _ = weight.zero_()
        >>> read_checkpoint(path)
        {'weight': tensor([1., 1.])}
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, save: Callable[..., Any], state: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Copy the state, then call `save(copy, *args, **kwargs)` in a thread.

        Raises:
            TypeError: naming the place of what is not plain data.
            BaseException: what went wrong in the writing before; this one is then not begun.
        """
        self.wait()
        copied = plain(dict(state), copy=True)

        def run() -> None:
            try:
                save(copied, *args, **kwargs)
            except BaseException as error:
                self._error = error

        # No daemon: a program that ends waits for its last file.
        thread = threading.Thread(target=run, name="checkpoint")
        thread.start()
        self._thread = thread

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            BaseException: what went wrong, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"Besides, in the background: {failed}")


class _EmptyBytes:
    """`b""`, written as longer ones are; its own way is one that `torch.load(weights_only=True)` does not read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return codecs.encode, ("", "latin1")


class _Hashing:
    """A file to write to that keeps a digest of what goes by, and the first error to itself.

    An error that passed through torch would come out as another one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.digest.update(data)
                self.file.write(data)
            except BaseException as error:  # Ctrl-C as well
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing: the file is flushed once, when it is whole."""


class _Front(io.RawIOBase):
    """The first bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset, whence = self._size + offset, os.SEEK_SET
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._size - self._file.tell())
        return self._file.readinto(memoryview(buffer).cast("B")[:left])  # type: ignore[attr-defined, no-any-return]


def _replace(path: Path, data: dict[str, Any]) -> None:
    """Write a file under another name, bring it to the disk and give it its name."""
    if not path.is_symlink() and path.exists() and not path.is_file():
        raise OSError("it is there, and no ordinary file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        _write(file, data)


def _write(file: BinaryIO, data: dict[str, Any]) -> None:
    hashing = _Hashing(file)
    torch.save(data, hashing, pickle_protocol=2)  # type: ignore[arg-type]
    if hashing.error is not None:
        raise hashing.error
    size = file.tell()
    # Now is the time to hear that it cannot be read; later, others may be deleted because this one is there.
    check_archive(_Front(file, size), size)  # type: ignore[arg-type]
    file.seek(size)
    hashing.write(_MAGIC + bytes([VERSION]))
    if hashing.error is not None:
        raise hashing.error
    file.write(hashing.digest.digest())


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open an ordinary file; of a pipe, do not wait for who writes to it."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RefusedError("is no ordinary file")
    return file


def _checked_size(file: BinaryIO) -> int:
    """Return the size of the archive in a file [bytes], its digest verified."""
    size = file.seek(0, os.SEEK_END) - _TAIL
    file.seek(max(0, size))
    tail = file.read()
    if size < 0 or not tail.startswith(_MAGIC):
        if size <= -_TAIL:
            raise RefusedError("is empty")
        if tail[-22:].startswith(b"PK\5\6"):
            raise RefusedError(
                "has no digest at its end, as if plain torch.save had written it; for weights alone, do "
                "model.load_state_dict(torch.load(path, weights_only=True))"
            )
        raise RefusedError("is cut off, or is no checkpoint: it has no digest at its end")
    version = tail[len(_MAGIC)]
    if version != VERSION:
        raise RefusedError(
            f"is of format version {version}, and this program reads {VERSION}; "
            + ("use a newer one" if version > VERSION else "it is damaged")
        )
    file.seek(0)
    digest = hashlib.file_digest(_Front(file, size + len(_MAGIC) + 1), "sha256")
    if digest.digest() != tail[len(_MAGIC) + 1 :]:
        raise RefusedError("is damaged: its digest is not that of what it holds")
    return size
