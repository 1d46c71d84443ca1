"""What a file of `torch.save` claims, checked before torch believes it.

`torch.load(weights_only=True)` runs no code of the file, but it does what the file says: unpacks what is packed,
makes tensors and byte arrays of any size, follows any nest. So the directory of the archive and the instructions of
its pickle are gone through first, without following them; what `write_checkpoint` does not write is refused. What is
let through takes memory and time in proportion to the size of the file.

The digest of a checkpoint tells damage, not malice: a stranger can make one that fits. These checks do not rely on it.
"""

from __future__ import annotations

import re
import struct
import zipfile
from typing import BinaryIO

from learner.checkpoint.pickle_scan import RefusedError, check_pickle

MAX_PICKLE = 2**26  # [bytes] all that is not tensors

_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_HEADER = 30  # [bytes] of an entry at least, its name apart
_LARGE = 2**32 - 1
_NAMES = re.compile(
    r"archive/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)",
    re.ASCII,
)


def check_archive(file: BinaryIO, size: int) -> None:
    """Refuse a zip archive that is not one that `torch.save` wrote of plain data.

    Args:
        file: holds the archive and nothing else.
        size: of it [bytes].

    Raises:
        RefusedError: for what is not to be believed.
        Exception: of whatever kind, for what cannot be read.
    """
    n_entries = _check_end(file, size)
    with zipfile.ZipFile(file) as archive:
        sizes = _checked_entries(archive.infolist(), n_entries, size)
        if sizes.get("data.pkl", MAX_PICKLE + 1) > MAX_PICKLE:
            found = f"one of {sizes['data.pkl']} bytes" if "data.pkl" in sizes else "none"
            raise RefusedError(f"must have a pickle of at most {MAX_PICKLE} bytes beside the tensors, has {found}")
        check_pickle(archive.read("archive/data.pkl"), sizes)


def _check_end(file: BinaryIO, size: int) -> int:
    """Return the number of entries; refuse an archive whose directory could be read in two ways."""
    tail = _END_64.size + _LOCATOR.size + _END.size
    file.seek(max(0, size - tail))
    end = file.read(tail)
    if len(end) < _END.size or end[-_END.size :][:4] != b"PK\5\6":
        raise RefusedError("is no zip archive")
    _, disk, first_disk, n_here, n_entries, length, start, comment = _END.unpack(end[-_END.size :])
    where = size - _END.size
    if end[_END_64.size :][:4] == b"PK\6\7":
        _, locator_disk, where, n_disks = _LOCATOR.unpack(end[_END_64.size : -_END.size])
        magic, rest, _, _, disk_64, first_64, n_here, n_entries, length, start = _END_64.unpack(end[: _END_64.size])
        is_odd = magic != b"PK\6\6" or rest != _END_64.size - 12 or where != size - tail or n_disks != 1
        if is_odd or locator_disk or disk_64 or first_64:
            raise RefusedError("has an odd end of its directory")
    if disk or first_disk or comment or n_here != n_entries or start + length != where:
        raise RefusedError("has an odd end of its directory")
    return int(n_entries)


def _checked_entries(entries: list[zipfile.ZipInfo], n_entries: int, size: int) -> dict[str, int]:
    """Return the sizes of the entries by name [bytes]."""
    sizes: dict[str, int] = {}
    for entry in entries:
        if entry.orig_filename != entry.filename or not _NAMES.fullmatch(entry.filename):
            raise RefusedError(f"has an entry of the name {entry.filename!r:.100}")
        name = entry.filename.removeprefix("archive/")
        if name in sizes:
            raise RefusedError(f"has two entries of the name {name!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise RefusedError(f"has entry {name!r} compressed or encrypted")
        if entry.header_offset + _HEADER + len(entry.filename) + entry.file_size > size:
            raise RefusedError(f"has entry {name!r} of {entry.file_size} bytes, more than there are")
        if entry.extra and max(entry.file_size, entry.header_offset) < _LARGE:
            raise RefusedError(f"has entry {name!r} with an odd header")
        sizes[name] = entry.file_size
    if len(entries) != n_entries or sum(sizes.values()) > size:
        raise RefusedError(f"claims {n_entries} entries of {sum(sizes.values())} bytes, more than there are")
    return sizes
