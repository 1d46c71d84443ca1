"""A Parquet file that unpacks to more than is believable is refused before memory is taken; the bound can be raised."""

import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from learner import LearnerError
from learner.records import Samples, Table, unpacking
from learner.records.unpacking import unpacked_size

N_ROWS = 1_000_000
REFUSED = (
    r"bomb.parquet` must unpack to at most 4,294,967,296 bytes, or 100 times its size, got a file of [\d,]+ bytes that "
    r"says it unpacks to 9,6\d\d,\d{3},\d{3}; if you trust it .*set `learner.records.unpacking.MAX_BYTES = 9_6"
)


def write_bomb(path, n_groups):
    """Write a million equal numbers, whose encoding says them once, and name them as each of many row groups."""
    parquet.write_table(pa.table({"example_id": np.zeros(N_ROWS, np.int64)}), path)
    metadata, one = parquet.read_metadata(path), parquet.read_metadata(path)
    for _ in range(n_groups - 1):
        metadata.append_row_groups(one)
    body = path.read_bytes()[: -one.serialized_size - 8]
    footer = io.BytesIO()
    metadata.write_metadata_file(footer)
    path.write_bytes(body + footer.getvalue()[4:])
    assert path.stat().st_size < 200_000
    return path


def fail(*_, **__):
    raise AssertionError("it was unpacked")


@pytest.mark.parametrize(
    "read",
    [Table.from_parquet, lambda path: len(Samples([path])), lambda path: Samples([path]).numpy("example_id")],
    ids=["table", "number of rows", "column"],
)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, read):
    bomb = write_bomb(tmp_path / "bomb.parquet", 600)  # 4.8 GB of numbers
    monkeypatch.setattr(parquet.ParquetFile, "read", fail)
    with pytest.raises(LearnerError, match=REFUSED):
        read(bomb)


def test_vectors_that_are_a_bomb_are_refused_and_left_out_of_what_is_intact(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_BYTES", 10**7)
    (tmp_path / "samples").mkdir()
    (tmp_path / "vectors").mkdir()
    path = tmp_path / "samples" / "a.parquet"
    parquet.write_table(pa.table({"loss": [0.5]}), path)
    write_bomb(tmp_path / "vectors" / "a.example_id.parquet", 1)
    with pytest.raises(LearnerError, match=r"a.example_id.parquet` must unpack to at most 10,000,000 bytes"):
        Samples([path]).numpy("example_id")
    assert Samples([path]).intact().numpy("loss") == [0.5]


def test_the_bound_can_be_raised(tmp_path, monkeypatch):
    bomb = write_bomb(tmp_path / "bomb.parquet", 2)
    monkeypatch.setattr(unpacking, "MAX_BYTES", 10**6)
    with pytest.raises(LearnerError, match=r"set `learner.records.unpacking.MAX_BYTES = 32_\d"):
        Table.from_parquet(bomb)
    monkeypatch.setattr(unpacking, "MAX_BYTES", unpacked_size(parquet.read_metadata(bomb)))
    assert len(Table.from_parquet(bomb)) == len(Samples([bomb]).numpy("example_id")) == 2 * N_ROWS


def test_a_file_that_is_as_large_as_what_it_holds_is_read_whatever_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_BYTES", 0)
    parquet.write_table(pa.table({"x": np.random.default_rng(0).normal(size=10_000)}), tmp_path / "x.parquet")
    assert len(Table.from_parquet(tmp_path / "x.parquet")) == 10_000


@pytest.mark.parametrize(
    ("column", "n_bytes"),
    [
        (np.zeros(1000), 8),
        (np.zeros(1000, np.float32), 4),
        (np.zeros(1000, np.float16), 2),
        (np.zeros(1000, bool), 1),
        (pa.nulls(1000, pa.int64()), 8),
        (pa.array(["word"] * 1000), 8),
        (pa.array([[1.0] * 50] * 1000), 50 * 8),
        (pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4000, np.float32)), 4), 4 * 4),
        (pa.array([{"x": 0.0, "y": 0.0}] * 1000), 2 * 8),
    ],
    ids=lambda value: str(getattr(value, "dtype", getattr(value, "type", value))),
)
def test_each_value_counts_as_what_it_takes_in_memory(tmp_path, column, n_bytes):
    parquet.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    rows = 8 * 1000  # the numbers of the rows
    assert unpacked_size(parquet.read_metadata(tmp_path / "x.parquet")) == rows + 1000 * n_bytes


def test_rows_without_columns_count_too(tmp_path):
    parquet.write_table(pa.table({"x": np.zeros(1000)}).select([]), tmp_path / "x.parquet")
    metadata = parquet.read_metadata(tmp_path / "x.parquet")
    assert unpacked_size(metadata) == 8 * metadata.num_rows
