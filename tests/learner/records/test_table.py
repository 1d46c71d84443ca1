"""Samples by number: rows as stored, maps, loaders, files, fingerprints."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from learner.data.loaders import ArrayDataset
from learner.records.arrow import to_arrow
from learner.records.schema import CategoricalLabel
from learner.records.table import Table

LABEL = CategoricalLabel("label", ["cat", "dog", "fox"])


def pair(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return a row as a tuple; a function of the module, so that workers can be sent it."""
    return tuple(row.values())


def twice(row: tuple[Any, ...]) -> list[Any]:
    return [2 * value for value in row]


@pytest.fixture
def table() -> Table:
    return Table.from_dict({"arg_1": list(range(10)), "arg_2": list(range(10, 20))}, table_name="table")


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Five rows in three row groups, of each kind of column."""
    columns = {
        "label": np.array([2, 2, 0, 1, 2]),
        "loss": np.arange(5, dtype=np.float32),
        "name": np.array(["a", "b", "c", "d", "é"]),
        "embeddings_fc.0": np.arange(10, dtype=np.float16).reshape(5, 2),
    }
    path = tmp_path / "cats.parquet"
    pq.write_table(to_arrow(columns, {"label": LABEL}), path, row_group_size=2)
    return path


def test_the_first_row_is_a_dict_of_plain_numbers(table: Table) -> None:
    assert str(table[0]) == "{'arg_1': 0, 'arg_2': 10}"
    assert (len(table), table.name) == (10, "table")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_collates_rows_as_a_dict_of_tensors(table: Table, num_workers: int) -> None:
    batch = next(iter(DataLoader(table, batch_size=2, num_workers=num_workers)))

    assert str(batch) == "{'arg_1': tensor([0, 1]), 'arg_2': tensor([10, 11])}"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_map_changes_the_table_in_place(table: Table, num_workers: int) -> None:
    table.map(lambda row: (row["arg_1"], row["arg_2"]))

    assert str(table[0]) == "(0, 10)"
    batch = next(iter(DataLoader(table, batch_size=2, num_workers=num_workers)))
    assert str(batch) == "[tensor([0, 1]), tensor([10, 11])]"


def test_map_returns_the_table_and_is_called_each_time_a_sample_is_asked_for(table: Table) -> None:
    calls = []

    assert table.map(lambda row: calls.append(row["arg_1"])) is table
    assert calls == []
    _ = table[3], table[3]
    assert calls == [3, 3]


def test_a_second_map_gets_what_the_first_returns(table: Table) -> None:
    assert table.map(pair).map(twice)[1] == [2, 22]


def test_rows_stay_as_stored(table: Table) -> None:
    table.map(pair)

    assert table.rows[0] == {"arg_1": 0, "arg_2": 10}
    assert len(table.rows) == 10
    assert list(table.rows)[-1] == {"arg_1": 9, "arg_2": 19}
    assert repr(table.rows) == "Rows of 'table' (10)"


def test_the_map_for_collecting_holds_in_the_collect_view_alone(table: Table) -> None:
    assert table.map(pair).map_collect_metrics(lambda row: row["arg_2"]) is table
    view = table.collect_view()

    assert (view[1], view[-1], len(view)) == (11, 19, 10)
    assert table[1] == (1, 11)
    assert view.fingerprint == table.fingerprint
    assert view.collect_view()[1] == 11


def test_without_a_map_for_collecting_the_view_looks_as_always(table: Table) -> None:
    assert table.map(pair).collect_view()[1] == (1, 11)


def test_what_is_added_to_the_view_stays_there(table: Table) -> None:
    table.collect_view().map(pair)

    assert table[0] == {"arg_1": 0, "arg_2": 10}


def test_an_error_in_a_map_says_which_row_it_was(table: Table) -> None:
    table.map(lambda row: 1 / (row["arg_1"] - 3))

    with pytest.raises(ZeroDivisionError) as raised:
        list(table)
    assert "This was row 3 of table 'table', in <function" in raised.value.__notes__[0]


def test_what_is_no_function_is_refused(table: Table) -> None:
    with pytest.raises(TypeError, match="`fn` must be a function from a row to a sample, got 3"):
        table.map(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`fn` must be a function from a row to a sample, got None"):
        table.map_collect_metrics(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("i", [9, -1, np.int64(9), np.uint8(9), torch.tensor(9), torch.tensor(-1)])
def test_any_whole_number_finds_its_row(table: Table, i: Any) -> None:
    assert table[i] == table.rows[i] == {"arg_1": 9, "arg_2": 19}


def test_a_negative_number_reaches_the_dataset_as_the_one_it_means() -> None:
    class Squares(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> int:
            return i * i

    assert Table(Squares())[-1] == 9


@pytest.mark.parametrize("i", [10, -11, 100])
def test_past_the_end_is_an_index_error(table: Table, i: int) -> None:
    with pytest.raises(IndexError, match=f"`i` must be one of the 10 rows of table 'table', got {i}"):
        table[i]


def test_iterating_stops_at_the_end(table: Table) -> None:
    assert [row["arg_1"] for row in table] == list(range(10))


@pytest.mark.parametrize("i", [slice(2), "arg_1", 1.0, [0, 1], None])
def test_what_is_no_number_of_a_row_is_refused(table: Table, i: Any) -> None:
    with pytest.raises(TypeError, match=r"`i` must be the number of a row of table 'table', got .*; for several do"):
        table[i]


def test_an_empty_table_has_no_rows() -> None:
    table = Table.from_dict({"x": []})

    assert (len(table), list(table), len(Table([]))) == (0, [], 0)
    with pytest.raises(IndexError, match="`i` must be one of the 0 rows of table 'table', got 0"):
        table[0]


def test_entries_of_lists_come_out_as_they_are() -> None:
    image, tensor = Image.new("L", (2, 2)), torch.zeros(2)

    row = Table.from_dict({"image": [image], "tensor": [tensor], "text": ["a"], "nothing": [None]})[0]

    assert row["image"] is image
    assert row["tensor"] is tensor
    assert (row["text"], row["nothing"]) == ("a", None)


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float64, np.float32, np.float16, np.uint8])
def test_a_batch_has_the_type_of_the_column(dtype: type) -> None:
    column = np.array([1, 0], dtype)

    batch = next(iter(DataLoader(Table.from_dict({"x": column}), batch_size=2)))

    assert batch["x"].numpy().dtype == dtype


def test_numbers_of_arrays_come_out_plain_and_rows_as_copies() -> None:
    columns = {"i": np.arange(2), "s": np.array(["a", "b"]), "v": np.zeros((2, 2)), "t": torch.arange(2)}
    table = Table.from_dict(columns)

    row = table[1]
    row["v"][:] = 5

    assert (type(row["i"]), type(row["s"])) == (int, str)
    assert torch.equal(row["t"], torch.tensor(1))
    assert table[1]["v"].tolist() == [0, 0]


def test_columns_of_data_frames_are_taken_by_place() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]}).iloc[::-1]

    assert [row["x"] for row in Table.from_dict({"x": frame["x"]})] == [3, 2, 1]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({}, ValueError, "`data` must hold at least one column, got none"),
        ({"a": [1, 2], "b": [1]}, ValueError, "`data` must have columns of one length, got 2 of 'a', 1 of 'b'"),
        ({0: [1]}, TypeError, "`data` must have strings as names of columns, got 0"),
        ({"a": 3}, TypeError, r"`data\['a'\]` must be a list, an array or a tensor with an entry per row, got int"),
        ({"a": "text"}, TypeError, r"`data\['a'\]` must be a list, .* got str"),
        ({"a": {1, 2}}, TypeError, r"`data\['a'\]` must be a list, .* got set"),
        ({"a": torch.tensor(1)}, TypeError, r"`data\['a'\]` must be a list, .* got Tensor"),
        ({"a": (i for i in [1])}, TypeError, r"`data\['a'\]` must be a list, .* got generator"),
        ([1, 2], TypeError, "`data` must be a mapping from names to columns, got list"),
        (pd.DataFrame({"a": [1]}), TypeError, "`data` must be a mapping .* DataFrame; do `frame.to_dict"),
    ],
)
def test_what_are_no_columns_is_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Table.from_dict(data)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="`table_name` must be a string, got 3"):
        Table([1], 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dataset", "row"),
    [
        (TensorDataset(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])), (torch.tensor([2.0]), torch.tensor(1))),
        (ArrayDataset({"x": [1, 2]}), {"x": torch.tensor(2)}),
        (Subset(TensorDataset(torch.arange(5)), [4, 3]), (torch.tensor(3),)),
        ([(0, "a"), (1, "b")], (1, "b")),
        ([{"x": 1}, {"x": 2}], {"x": 2}),
        (torch.tensor([[1, 2], [3, 4]]), torch.tensor([3, 4])),
        (np.array([1, 2]), 2),
        (range(5, 7), 6),
        (Table([1, 2]), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_with_a_length_and_items_is_a_table(dataset: Any, row: Any) -> None:
    table = Table(dataset, table_name="data")

    assert len(table) == 2
    assert str(table[1]) == str(row)
    assert str(table.rows[-1]) == str(row)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class Endless(Dataset[int]):
    def __getitem__(self, i: int) -> int:
        return i


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("data.parquet", r"got the text 'data.parquet'; read a file by `Table.from_parquet\(path\)`"),
        (Path("data.parquet"), "got the text 'data.parquet'"),
        ({"x": [1]}, r"got a mapping; for columns do `Table.from_dict\(data\)`"),
        (pd.DataFrame({"x": [1]}), "got a data frame; do `Table.from_dict"),
        (Stream(), "got an iterable dataset, Stream; its samples have no numbers"),
        (DataLoader([1, 2]), "got DataLoader; pass its `.dataset`"),
        (Endless(), "got Endless without a length; give it a `__len__`"),
        (3, "got int without a length"),
        ({1, 2}, "got set without items; give it a `__getitem__`"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_has_no_samples_by_number_is_refused(dataset: Any, message: str) -> None:
    with pytest.raises(TypeError, match="`dataset` must have a length and items by number, " + message):
        Table(dataset)


def test_class_names_are_kept_and_ids_checked() -> None:
    table = Table.from_dict({"label": torch.tensor([2, 0])}, column_schemas={"label": LABEL})

    assert table.column_schemas == {"label": LABEL}
    with pytest.raises(ValueError, match=r"`label` must hold class ids from 0 to 2, got 3; .* 3 names"):
        Table.from_dict({"label": [3]}, column_schemas={"label": LABEL})
    with pytest.raises(ValueError, match="`column_schemas` must be of columns of the table, got 'y'; it has label"):
        Table.from_dict({"label": [0]}, column_schemas={"y": LABEL})
    assert Table([(0, 1)], column_schemas={"label": LABEL}).column_schemas == {"label": LABEL}


def test_a_file_gives_rows_class_names_and_the_name(parquet: Path) -> None:
    table = Table.from_parquet(parquet)

    assert (len(table), table.name, table.column_schemas) == (5, "cats", {"label": LABEL})
    row = table[4]
    assert (row["label"], row["loss"], row["name"]) == (2, 4.0, "é")
    assert row["embeddings_fc.0"].tolist() == [8, 9]
    assert Table.from_parquet(str(parquet), table_name="other").name == "other"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_over_a_file_keeps_types_and_warns_of_nothing(parquet: Path, num_workers: int) -> None:
    batch = next(iter(DataLoader(Table.from_parquet(parquet), batch_size=5, num_workers=num_workers)))

    assert batch["label"].tolist() == [2, 2, 0, 1, 2]
    assert batch["embeddings_fc.0"].dtype == torch.float16
    assert batch["loss"].dtype == torch.float32
    assert batch["name"][-1] == "é"


def test_a_file_and_the_same_columns_in_memory_have_one_fingerprint(parquet: Path) -> None:
    same = {
        "label": [2, 2, 0, 1, 2],
        "loss": torch.arange(5.0),
        "name": ["a", "b", "c", "d", "é"],
        "embeddings_fc.0": torch.arange(10, dtype=torch.float16).reshape(5, 2),
    }

    assert Table.from_parquet(parquet).fingerprint == Table.from_dict(same).fingerprint


def test_other_class_names_may_be_given_for_a_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1, 0], "kind": [0, 3]}), tmp_path / "x.parquet")

    assert Table.from_parquet(tmp_path / "x.parquet", column_schemas={"label": LABEL}).column_schemas["label"] == LABEL
    with pytest.raises(ValueError, match="`kind` must hold class ids from 0 to 2, got 3"):
        Table.from_parquet(tmp_path / "x.parquet", column_schemas={"kind": LABEL})


def test_class_names_that_are_given_go_before_those_in_the_file(parquet: Path) -> None:
    french = CategoricalLabel("label", ["chat", "chien", "renard"])

    assert Table.from_parquet(parquet, column_schemas={"label": french}).column_schemas == {"label": french}


def test_a_name_with_a_dot_is_not_taken_for_a_field_of_another_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a.b": [1, 2], "a": [{"b": 3}, {"b": 4}]}), tmp_path / "x.parquet")

    assert Table.from_parquet(tmp_path / "x.parquet")[0] == {"a.b": 1, "a": {"b": 3}}


def test_a_file_that_is_cut_short_or_none_at_all_is_refused(parquet: Path) -> None:
    parquet.write_bytes(parquet.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"`path` must be a whole Parquet file, got '.*cats.parquet'; it is cut short"):
        Table.from_parquet(parquet)
    parquet.write_bytes(b"")
    with pytest.raises(ValueError, match="`path` must be a whole Parquet file"):
        Table.from_parquet(parquet)
    with pytest.raises(FileNotFoundError, match=r"`path` must be a Parquet file, got '.*dogs.parquet'; there is no"):
        Table.from_parquet(parquet.with_name("dogs.parquet"))


def test_a_flipped_bit_in_a_page_is_an_error(tmp_path: Path) -> None:
    """In the data of a column without compression, which decodes to something whatever it holds."""
    path, values = tmp_path / "x.parquet", np.arange(1000.0) + 0.1
    pq.write_table(
        pa.table({"x": values, "name": ["a", "b"] * 500}),
        path,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    whole = path.read_bytes()
    first = whole.index(values.tobytes())
    for place in (first, first + 4001, first + 7999, whole.index(b"\1\0\0\0a\1\0\0\0b") + 4):
        for bit in (0, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=r"`path` must be a whole Parquet file, .* it is cut short or damaged"):
                Table.from_parquet(path)
    path.write_bytes(whole)
    assert np.array_equal(Table.from_parquet(path).rows.dataset.columns["x"], values)


def test_the_fingerprint_is_of_values_names_and_order(table: Table) -> None:
    data = {"arg_1": list(range(10)), "arg_2": list(range(10, 20))}
    changed = [
        {**data, "arg_2": [*range(10, 19), 0]},
        {"arg_1": data["arg_1"], "arg_3": data["arg_2"]},
        {name: column[::-1] for name, column in data.items()},
        {name: column[:9] for name, column in data.items()},
        {"arg_1": data["arg_1"]},
    ]

    prints = {Table.from_dict(other).fingerprint for other in changed} | {table.fingerprint}

    assert len(prints) == 6
    assert table.map(pair).fingerprint == Table.from_dict(data, table_name="other").fingerprint


def test_the_fingerprint_is_computed_once_and_kept() -> None:
    data = {"x": [1, 2]}
    table = Table.from_dict(data)
    before = table.fingerprint
    data["x"][0] = 5

    assert table.fingerprint == before != Table.from_dict(data).fingerprint


def test_a_table_of_a_table_is_known_as_that(table: Table) -> None:
    assert Table(table).fingerprint == table.fingerprint
    assert Table(Subset(table, [0, 1])).fingerprint != Table(Subset(table, [1, 0])).fingerprint


def test_the_fingerprint_of_an_augmented_dataset_is_that_of_its_data() -> None:
    class Noisy(Dataset[Any]):
        def __init__(self, last: int) -> None:
            self.labels = [0, 1, last]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            return torch.rand(2), self.labels[i]

    state = torch.get_rng_state()

    assert Table(Noisy(2)).fingerprint == Table(Noisy(2)).fingerprint != Table(Noisy(1)).fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_a_table_can_be_sent_to_another_process(table: Table) -> None:
    sent = pickle.loads(pickle.dumps(table.map(pair).map_collect_metrics(twice)))

    assert sent[2] == (2, 12)
    assert sent.fingerprint == table.fingerprint


def test_its_picture_names_the_columns_or_the_dataset(table: Table) -> None:
    assert repr(table) == "Table('table', 10 rows: arg_1, arg_2)"
    assert repr(Table(TensorDataset(torch.arange(2)), "data")) == "Table('data', 2 rows: of TensorDataset)"


@pytest.mark.parametrize("weights", [[0, 1, 2], [0.0, 0.5, 2.0], torch.tensor([0.0, 0.5, 2.0]), np.array([0, 1, 2])])
def test_a_column_of_weights_says_how_much_each_sample_counts(weights: Any) -> None:
    found = Table.from_dict({"x": [1, 2, 3], "weight": weights}).map(pair).weights
    assert found is not None
    assert found.dtype == np.float64
    assert found.tolist() == [float(weight) for weight in weights]


def test_without_such_a_column_there_are_no_weights(table: Table) -> None:
    assert table.weights is None
    assert Table([{"weight": 1.0}]).weights is None  # which are in the samples, and would have to be read


@pytest.mark.parametrize("weights", [[0, -1], [1.0, float("nan")], [1.0, float("inf")], ["a", "b"], torch.ones(2, 1)])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    table = Table.from_dict({"weight": weights})
    with pytest.raises(ValueError, match="`weight` must hold a finite number of at least 0 per sample, got"):
        _ = table.weights


def test_large_whole_numbers_with_gaps_are_not_rounded(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": pa.array([2**60 + 1, None]), "few": pa.array([1, None])}), path)
    table = Table.from_parquet(path)
    assert table[0] == {"key": 2**60 + 1, "few": 1.0}
    assert table[1]["key"] is None
