"""Columns to Arrow and Parquet and back, and what other readers see of them."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learner.records.arrow import pyarrow, schemas_of, to_arrow, to_numpy
from learner.records.schema import CategoricalLabel

LABEL = CategoricalLabel("animal", ["cat", "zebra", "dog", "fox"])  # in no alphabetical order


def write(path: Path, *parts: Any) -> Path:
    """Write each part as a row group of its own."""
    with pq.ParquetWriter(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_table(part)
    return path


def labelled(ids: list[int]) -> Any:
    return to_arrow({"label": np.array(ids)}, {"label": LABEL})


def test_pyarrow_gives_the_module() -> None:
    assert pyarrow() is pa


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(
        ImportError, match=r'`pyarrow` must be installed; do `pip install "learner-callbacks\[records\]"`'
    ):
        pyarrow()


@pytest.mark.parametrize(
    "column",
    [
        np.array([1, -2, 3]),
        np.array([1, 2, 3], np.uint8),
        np.array([1.5, np.nan, np.inf], np.float32),
        np.array([1.5, 2.0, 3.0], np.float16),
        np.array([True, False, True]),
        np.array(["2020-01-01", "2021-02-03", "2022-03-04"], "datetime64[ms]"),
        np.arange(6, dtype=np.float16).reshape(3, 2),
        np.arange(12.0).reshape(6, 2)[::2],
        np.asfortranarray(np.arange(6).reshape(3, 2)),
        np.array([[True, False], [False, True], [True, True]]),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
    ],
    ids=lambda column: f"{column.dtype}{column.shape}",
)
def test_numbers_go_through_a_file_and_back_unchanged(column: np.ndarray, tmp_path: Path) -> None:
    back = to_numpy(pq.read_table(write(tmp_path / "x.parquet", to_arrow({"x": column})))["x"])

    assert (back.dtype, back.shape) == (column.dtype, column.shape)
    np.testing.assert_array_equal(back, column)


def test_bytes_in_the_other_order_are_turned() -> None:
    assert to_numpy(to_arrow({"x": np.array([1, 2], ">i4")})["x"]).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [np.str_, object])
def test_strings_come_back_as_strings(dtype: type) -> None:
    texts = ["a", "", "é, too"]

    table = to_arrow({"name": np.array(texts, dtype)})

    assert table.schema.field("name").type == pa.string()
    assert to_numpy(table["name"]).tolist() == texts


def test_several_row_groups_become_one_array(tmp_path: Path) -> None:
    first, second = np.arange(4.0).reshape(2, 2), np.arange(4.0, 10.0).reshape(3, 2)
    path = write(tmp_path / "x.parquet", to_arrow({"x": first}), to_arrow({"x": second}))

    column = pa.chunked_array([part["x"].chunk(0) for part in map(pq.ParquetFile(path).read_row_group, (0, 1))])

    np.testing.assert_array_equal(to_numpy(column), np.concatenate([first, second]))


def test_a_part_of_a_column_is_that_part() -> None:
    table = to_arrow({"x": np.arange(10.0).reshape(5, 2), "label": np.array([0, 1, 2, 3, 0])}, {"label": LABEL})

    assert to_numpy(table["x"].slice(3)).tolist() == [[6, 7], [8, 9]]
    assert to_numpy(table["label"].slice(3)).tolist() == [3, 0]


def test_numbers_of_one_chunk_are_not_copied() -> None:
    vectors, numbers = np.arange(8.0).reshape(4, 2), np.arange(4)

    table = to_arrow({"x": vectors, "y": numbers})

    assert np.shares_memory(to_numpy(table["x"]), vectors)
    assert np.shares_memory(to_numpy(table["y"]), numbers)


def test_an_array_of_arrow_works_like_a_column() -> None:
    assert to_numpy(pa.array([1, 2])).tolist() == [1, 2]


def test_lists_from_other_writers_become_rows_or_arrays_of_arrays() -> None:
    table = pa.table(
        {"same": [[1, 2], [3, 4]], "ragged": [[1, 2], [3]], "gap": [[1, 2], None], "deep": [[[1], [2, 3]], []]}
    )

    assert to_numpy(table["same"]).tolist() == [[1, 2], [3, 4]]
    assert [row.tolist() for row in to_numpy(table["ragged"])] == [[1, 2], [3]]
    gap = to_numpy(table["gap"])
    assert gap[0].tolist() == [1, 2]
    assert gap[1] is None
    assert to_numpy(table["deep"]).tolist() == [[[1], [2, 3]], []]
    assert to_numpy(pa.chunked_array([], pa.list_(pa.float32(), 2))).shape == (0, 2)


def test_rows_with_a_gap_in_a_fixed_size_list_keep_their_places() -> None:
    column = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))

    rows = to_numpy(column)

    assert [None if row is None else row.tolist() for row in rows] == [[1, 2], None, [3, 4]]


def test_class_ids_come_back_from_a_file_of_several_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", labelled([2, 2, 3]), labelled([0, 1]))

    column = pq.read_table(path)["label"]

    assert to_numpy(column).tolist() == to_numpy(column, LABEL).tolist() == [2, 2, 3, 0, 1]
    assert to_numpy(column).dtype == np.int64


def test_ids_follow_the_names_and_not_the_order_in_the_file() -> None:
    column = pa.array(["dog", None, "cat"]).dictionary_encode()

    assert to_numpy(column, LABEL).tolist() == [2, -1, 0]
    assert to_numpy(column).tolist() == [0, -1, 1]
    parts = pa.chunked_array([pa.array(names).dictionary_encode() for names in (["dog", "cat"], ["cat"])])
    assert to_numpy(parts).tolist() == [0, 1, 1]
    assert to_numpy(parts, LABEL).tolist() == [2, 0, 0]


def test_a_name_that_the_label_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="`animal` must hold names of its CategoricalLabel, got 'wolf'"):
        to_numpy(pa.array(["dog", "wolf"]).dictionary_encode(), LABEL)


def test_a_dictionary_of_numbers_is_just_numbers() -> None:
    assert to_numpy(pa.array([30, 10, 30]).dictionary_encode()).tolist() == [30, 10, 30]


@pytest.mark.parametrize(("n_classes", "kind"), [(127, pa.int8()), (128, pa.int16()), (40_000, pa.int32())])
def test_the_ids_take_as_few_bytes_as_they_can(n_classes: int, kind: Any) -> None:
    label = CategoricalLabel("label", [str(i) for i in range(n_classes)])

    table = to_arrow({"label": np.array([0, n_classes - 1])}, {"label": label})

    assert table.schema.field("label").type.index_type == kind
    assert table["label"].to_pylist() == ["0", str(n_classes - 1)]


def test_pandas_sees_the_names_of_all_classes_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", labelled([2, 2]), labelled([0]))

    column = pd.read_parquet(path)["label"]

    assert column.tolist() == ["dog", "dog", "cat"]
    assert column.cat.categories.tolist() == list(LABEL.classes)


def test_the_names_stand_in_the_schema_as_the_datasets_library_writes_them() -> None:
    metadata = to_arrow({"label": np.array([0]), "x": np.array([1.0])}, {"label": LABEL}).schema.metadata

    assert json.loads(metadata[b"huggingface"]) == {
        "info": {"features": {"label": {"names": list(LABEL.classes), "id": "animal", "_type": "ClassLabel"}}}
    }
    assert to_arrow({"x": np.array([1.0])}, {"label": LABEL}).schema.metadata is None


def test_the_names_are_known_before_a_row_is_read_and_of_an_empty_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", labelled([]))

    assert schemas_of(pq.read_schema(path).empty_table()) == {"label": LABEL}
    assert to_numpy(pq.read_table(path)["label"], LABEL).tolist() == []


def test_names_are_found_in_columns_of_other_writers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": pd.Categorical(["b", "a"], categories=["b", "c", "a"]), "n": [1, 2]})
    frame.to_parquet(tmp_path / "x.parquet")
    of_datasets = {
        "info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}, "n": {"_type": "Value"}}}
    }
    table = pa.table({"label": [1, 0], "n": [1, 2]}, metadata={"huggingface": json.dumps(of_datasets)})

    assert schemas_of(pq.read_table(tmp_path / "x.parquet")) == {"label": CategoricalLabel("label", ["b", "c", "a"])}
    assert schemas_of(table) == {"label": CategoricalLabel("label", ["x", "y"])}
    assert schemas_of(pa.table({"n": pa.array([30, 10]).dictionary_encode()})) == {}


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (
            np.zeros((2, 2, 2)),
            ValueError,
            r"`x` must have a value or a row of values per sample, got shape \(2, 2, 2\)",
        ),
        (np.array(1.0), ValueError, r"`x` must have a value or a row of values per sample, got shape \(\)"),
        (np.zeros((2, 0)), ValueError, r"`x` must have a value or a row of values per sample, got shape \(2, 0\)"),
        (np.zeros(2, complex), TypeError, r"`x` must hold numbers, bools or strings, got complex128 of shape \(2,\)"),
        (np.array([{}, {}]), TypeError, r"`x` must hold numbers, bools or strings, got object of shape \(2,\)"),
        (np.array([["a", "b"]]), TypeError, r"`x` must hold numbers, bools or strings, got <U1 of shape \(1, 2\)"),
    ],
)
def test_what_cannot_be_written_is_an_error_that_names_the_column(
    column: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        to_arrow({"x": column})


def test_a_class_id_outside_the_names_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"`label` must hold class ids from 0 to 3, got 4; .* 4 names"):
        labelled([0, 4])
