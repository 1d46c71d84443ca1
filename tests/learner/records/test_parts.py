"""Parts: which files belong together, and what is read of them."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from learner import LearnerError
from learner.records.arrow import to_arrow
from learner.records.parts import Part, Parts
from learner.records.schema import CategoricalLabel
from learner.records.writer import SampleWriter


def write(folder, name, vectors):
    with SampleWriter(folder, name, fingerprint="ab") as writer:
        writer.add({"example_id": np.arange(3), "loss": np.arange(3.0), **vectors})
    return Part(folder / "samples" / f"{name}.parquet")


def test_vectors_belong_to_the_part_of_their_name(tmp_path):
    one = write(tmp_path, "a", {"x:in": np.zeros((3, 2)), "y": np.ones((3, 2))})
    other = write(tmp_path, "a.b", {"y": np.full((3, 4), 2.0)})
    assert (sorted(one.vectors), sorted(other.vectors)) == (["x:in", "y"], ["y"])
    read = Parts([one]).read(["y", "loss", "x:in"], np.array([2, 0]))
    assert read.column_names == ["y", "loss", "x:in"]
    assert read.to_pydict() == {"y": [[1, 1], [1, 1]], "loss": [2.0, 0.0], "x:in": [[0, 0], [0, 0]]}
    assert (one.fingerprint, one.n_rows) == ("ab", 3)


def test_names_with_dots_and_brackets_read_their_own_column(tmp_path):
    table = pa.table({"a": [1, 2], "a.b": [3, 4]})
    (tmp_path / "samples").mkdir()
    path = tmp_path / "samples" / "x[1].parquet"
    parquet.write_table(table, path)
    assert Parts([Part(path)]).read(["a"], np.arange(2)).to_pydict() == {"a": [1, 2]}
    assert Parts([Part(path)]).read(["a.b"], np.arange(2)).to_pydict() == {"a.b": [3, 4]}
    (tmp_path / "vectors").mkdir()
    parquet.write_table(to_arrow({"v": np.ones((2, 3))}), tmp_path / "vectors" / "x[1].v.parquet")
    assert list(Part(path).vectors) == ["v"]


def test_vectors_of_another_length_are_refused(tmp_path):
    part = write(tmp_path, "a", {"y": np.ones((3, 2))})
    parquet.write_table(to_arrow({"y": np.ones((2, 2))}), tmp_path / "vectors" / "a.y.parquet")
    with pytest.raises(LearnerError, match=r"a.y.parquet` must have 3 rows, as .*a.parquet, got 2"):
        part.vectors


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_all_parts_come_in_the_order_asked_for(seed):
    rng = np.random.default_rng(seed)
    tables = [pa.table({"x": rng.random(n)}) for n in (3, 1, 0, 5, 4)]
    whole = np.concatenate([table["x"].to_numpy() for table in tables])
    parts = Parts(Part(table) for table in tables)
    assert parts.n_rows == len(whole)
    for rows in (rng.permutation(13), rng.integers(0, 13, 30), np.arange(13), np.arange(3, 9), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(parts.read(["x"], rows)["x"].to_numpy(), whole[rows])
        kept, numbers = parts.pruned(rows)
        np.testing.assert_array_equal(kept.read(["x"], numbers)["x"].to_numpy(), whole[rows])
    assert len(parts.pruned(np.array([3, 11, 12]))[0].parts) == 2


def test_class_names_may_be_more_but_not_others():
    def part(*classes):
        return Part(to_arrow({"label": np.array([0])}, {"label": CategoricalLabel("label", classes)}))

    plain = Part(pa.table({"x": [1]}))
    assert Parts([part("cat"), plain, part("cat", "dog"), part("cat")]).label("label").classes == ("cat", "dog")
    assert Parts([plain]).label("x") is None
    assert Parts([plain]).label("y") is None
    with pytest.raises(
        LearnerError, match=r"`label` must have the same class names in all parts, got \['dog', 'cat'\]"
    ):
        Parts([part("cat"), part("dog", "cat")]).label("label")


def test_dictionaries_of_other_tools_have_class_names():
    part = Part(pa.table({"word": pa.array(["b", "a", "b"]).dictionary_encode()}))
    assert part.label("word").classes == ("b", "a")


def test_columns_of_several_types_or_widths_are_refused():
    with pytest.raises(LearnerError, match=r"a column must be of one type in all parts, got several: .*Field x"):
        Parts([Part(pa.table({"x": [1]})), Part(pa.table({"x": ["a"]}))]).read(["x"], np.arange(2))
    wide = [Part(to_arrow({"x": np.ones((1, width))})) for width in (2, 3)]
    with pytest.raises(LearnerError, match=r"`x` must be equally wide in all parts, got widths \['2', '3'\]"):
        Parts(wide).read(["x"], np.arange(2))
    mixed = Parts([Part(pa.table({"x": [1]})), Part(pa.table({"x": [0.5]}))])
    assert mixed.read(["x"], np.arange(2)).to_pydict() == {"x": [1.0, 0.5]}


@pytest.mark.parametrize("wrong", [3, None, {"x": [1]}])
def test_a_part_is_a_file_or_a_table(wrong):
    with pytest.raises(TypeError, match="`parts` must be paths of Parquet files or Arrow tables"):
        Part(wrong)
