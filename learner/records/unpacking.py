"""How large a Parquet file may become in memory: a small file can unpack to more than any machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learner.errors import LearnerError

MAX_BYTES = 2**32  # [bytes] a file that unpacks to no more is always read; set it to read a larger one
MAX_RATIO = 100  # a file that unpacks to no more times its own size is read as well, however large it is

# [bytes] of a value in memory, by its type in the file; of a text, the reference to it.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 8}
_ROW_NUMBER = 8  # [bytes] each row is numbered, whatever columns there are


def check_size(path: Path, metadata: Any) -> None:
    """Refuse a file that would take far more memory than its size suggests, before any of it is unpacked.

    What the file says of itself is believed: pages that are larger than the metadata says are not foreseen, nor one
    long text that many rows share.

    Args:
        path: the file.
        metadata: its `pyarrow.parquet.FileMetaData`.

    Raises:
        LearnerError: if it unpacks to more than `MAX_BYTES`, and to more than `MAX_RATIO` times its size.
    """
    size, unpacked = path.stat().st_size, unpacked_size(metadata)
    if unpacked > max(MAX_BYTES, MAX_RATIO * size):
        raise LearnerError(
            f"`{path}` must unpack to at most {MAX_BYTES:,} bytes, or {MAX_RATIO} times its size, got a file of "
            f"{size:,} bytes that says it unpacks to {unpacked:,}; if you trust it and have the memory, set "
            f"`learner.records.unpacking.MAX_BYTES = {unpacked:_}`."
        )


def unpacked_size(metadata: Any) -> int:
    """Return how many bytes a file takes in memory at least, by what its metadata says.

    Repeated values are counted each, since a few bytes of a file can stand for any number of them.

    Example:
        >>> import io
        >>> from pyarrow import parquet, table
        >>> file = io.BytesIO()
        >>> parquet.write_table(table({"x": [0.5] * 10**6}), file)
        >>> file.tell() < 10_000, unpacked_size(parquet.read_metadata(file)) >= 8 * 10**6
        (True, True)
    """
    lengths = [metadata.schema.column(j).length for j in range(metadata.num_columns)]
    total: int = _ROW_NUMBER * metadata.num_rows
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j, length in enumerate(lengths):
            column = group.column(j)
            width = _WIDTHS.get(column.physical_type, length)
            total += max(column.total_uncompressed_size, width * max(column.num_values, group.num_rows))
    return total
