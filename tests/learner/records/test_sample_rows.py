"""Rows on record: what is read, chosen and averaged; against pandas, numpy and arithmetic by hand."""

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from sklearn.metrics import precision_recall_fscore_support

from learner import LearnerError
from learner.records import parts as parts_module
from learner.records.arrow import to_arrow
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel
from tests.learner.records.recorded import ANIMALS, EPOCHS, N, columns_of, made

# -- reading -------------------------------------------------------------------------------------------------------


def test_columns_come_as_they_were_written(samples, frame):
    assert len(samples) == len(frame) == 2 * EPOCHS * N
    for name in frame:
        np.testing.assert_array_equal(samples.numpy(name), frame[name].to_numpy())
    assert samples.numpy("loss").dtype == np.float32
    assert samples.numpy("label").dtype.kind == "i"
    vectors = np.concatenate([columns_of(s, e)["embeddings_1"] for s in ("train", "valid") for e in range(EPOCHS)])
    np.testing.assert_array_equal(samples.numpy("embeddings_1"), vectors)
    assert samples.numpy("embeddings_1").dtype == np.float16


def test_only_what_is_asked_for_is_read(samples, monkeypatch):
    seen = []
    read = parts_module.read_columns

    def spy(path, names):
        seen.append((path.stem, names))
        return read(path, names)

    monkeypatch.setattr(parts_module, "read_columns", spy)
    len(samples), samples.columns, samples.scalars, repr(samples)
    assert seen == []
    samples.numpy("loss")
    assert {tuple(names) for _, names in seen} == {("loss",)}
    seen.clear()
    samples.to_pandas(), samples.by("label"), samples.aggregates, samples.top("loss", 3)
    assert not [stem for stem, _ in seen if stem.endswith("embeddings_1")]
    chosen = samples.where(split="train", epoch=1)
    seen.clear()
    chosen.numpy("embeddings_1")
    assert [stem for stem, _ in seen] == ["train-0001.embeddings_1"]


def test_columns_may_be_written_to_and_go_into_torch_without_a_warning(samples):
    for name in ("loss", "example_id", samples.columns[-1]):
        torch.as_tensor(samples.numpy(name)).zero_()
        assert samples.numpy(name).any()


def test_the_last_epoch_of_what_there_is(samples, frame):
    assert len(samples.last()) == (frame["epoch"] == frame["epoch"].max()).sum()
    assert set(samples.where(split="train").last().numpy("epoch")) == {frame["epoch"].max()}


def test_vectors_are_the_last_columns_and_no_scalars(samples):
    assert samples.columns[-1] == "embeddings_1"
    assert set(samples.columns) - set(samples.scalars) == {"embeddings_1"}
    assert "embeddings_1" not in samples.to_pandas()
    assert samples.to_arrow(["example_id", "embeddings_1"]).num_columns == 2


def test_classes_are_ids_names_and_categoricals(samples, frame):
    assert samples.classes("label") == ("cat", "dog", "eel")
    found = samples.to_pandas()
    assert list(found["label"].cat.categories) == ["cat", "dog", "eel"]
    assert found["label"].cat.codes.tolist() == frame["label"].tolist()
    assert samples.words("label").tolist() == [ANIMALS.classes[i] for i in frame["label"]]
    with pytest.raises(ValueError, match="`loss` must have class names, got none"):
        samples.classes("loss")


def test_an_unknown_column_is_an_error_that_names_the_nearest(samples):
    for ask in (samples.numpy, samples.classes, samples.top, samples.by, samples.pivot, samples.plot_histogram):
        with pytest.raises(ValueError, match=r"`los` must be a column.*did you mean 'loss'"):
            ask("los")
    with pytest.raises(ValueError, match="did you mean 'loss'"):
        samples.where(los=1)
    with pytest.raises(ValueError, match="did you mean 'loss'"):
        samples.to_arrow(["los"])


def test_what_a_part_does_not_have_is_missing():
    first = to_arrow({"example_id": np.arange(2), "a": np.arange(2), "ok": np.array([True, False])})
    second = to_arrow(
        {
            "example_id": np.arange(2),
            "word": np.array(["x", "y"]),
            "label": np.array([1, 0]),
            "vector": np.ones((2, 3), np.float32),
        },
        {"label": ANIMALS},
    )
    samples = Samples([first, second])
    np.testing.assert_array_equal(samples.numpy("a"), [0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(samples.numpy("ok"), [1, 0, np.nan, np.nan])
    assert samples.numpy("word").tolist() == [None, None, "x", "y"]
    assert samples.numpy("label").tolist() == [-1, -1, 1, 0]
    assert samples.words("label").tolist() == ["(missing)", "(missing)", "dog", "cat"]
    np.testing.assert_array_equal(samples.numpy("vector"), [[np.nan] * 3] * 2 + [[1.0] * 3] * 2)
    assert samples.where(word=["x"]).numpy("label").tolist() == [1]
    assert samples.to_pandas()["label"].isna().tolist() == [True, True, False, False]
    found = samples.by("label")
    assert found["label"].tolist() == ["(missing)", "cat", "dog"]
    assert found["count"].tolist() == [2, 1, 1]
    assert samples.by("word")["word"].tolist() == ["(missing)", "x", "y"]


def test_no_parts_are_no_rows():
    samples = Samples([])
    assert (len(samples), samples.columns, samples.aggregates, repr(samples)) == (
        0,
        (),
        {},
        "Samples: 0 rows in 0 parts; ",
    )
    assert samples.to_arrow().num_rows == len(samples.to_pandas()) == 0
    with pytest.raises(ValueError, match="`loss` must be a column, got the columns none"):
        samples.numpy("loss")


@pytest.mark.parametrize("wrong", ["a.parquet", 3, {"a": 1}])
def test_parts_are_a_list(wrong):
    with pytest.raises(TypeError, match="`parts` must be a list of files or Arrow tables"):
        Samples(wrong)


# -- broken files --------------------------------------------------------------------------------------------------


def test_a_file_cut_short_is_named_and_the_others_stay_readable(samples, files):
    files[4].write_bytes(files[4].read_bytes()[:-20])
    for ask in (lambda s: s.numpy("loss"), lambda s: s.where(epoch=0), len):
        with pytest.raises(LearnerError, match=r"valid-0001.parquet` must be a whole Parquet file.*intact"):
            ask(Samples(files))
    assert "valid-0001.parquet" in repr(Samples(files))
    assert "valid-0001.parquet" in Samples(files)._repr_html_()
    rest = Samples(files).intact()
    assert len(rest) == (2 * EPOCHS - 1) * N
    assert len(rest.where(split="valid", epoch=1)) == 0
    assert samples.intact().numpy("loss").tolist() == rest.numpy("loss").tolist()


def test_broken_vectors_leave_the_scalars_readable(files):
    path = files[0].parent.parent / "vectors" / "train-0000.embeddings_1.parquet"
    path.write_bytes(b"PAR1")
    samples = Samples(files)
    assert len(samples.numpy("loss")) == len(samples)
    with pytest.raises(LearnerError, match=r"train-0000.embeddings_1.parquet` must be a whole Parquet file"):
        samples.numpy("embeddings_1")
    found = samples.intact().where(split="train").numpy("embeddings_1")
    assert np.isnan(found[:N]).all()
    assert np.isfinite(found[N:]).all()


def test_a_file_that_is_gone_is_named(files):
    files[2].unlink()
    with pytest.raises(LearnerError, match=r"train-0002.parquet` must be there, but was moved or deleted"):
        Samples(files).numpy("loss")


def test_other_tools_read_the_files(files):
    assert parquet.read_table(files[0]).num_rows == N
    assert pd.read_parquet(files[0])["label"].dtype == "category"
    assert pa.types.is_dictionary(parquet.read_schema(files[0]).field("label").type)


# -- choosing ------------------------------------------------------------------------------------------------------


def test_where_is_what_pandas_chooses(samples, frame):
    chosen = samples.where(split="train", epoch=[0, 2], loss=lambda loss: loss > 0.5, label=["cat", 2])
    wanted = frame[(frame.split == "train") & frame.epoch.isin([0, 2]) & (frame.loss > 0.5) & frame.label.isin([0, 2])]
    assert 0 < len(wanted) < N
    for name in frame:
        assert chosen.numpy(name).tolist() == wanted[name].tolist()
    again = chosen.where(label="cat").where(accuracy=True)
    assert again.numpy("example_id").tolist() == wanted[(wanted.label == 0) & wanted.accuracy]["example_id"].tolist()


def test_vectors_keep_to_their_rows(samples):
    everything = dict(zip(zip(*key_of(samples), strict=True), samples.numpy("embeddings_1").tolist(), strict=True))
    chosen = samples.where(epoch=[1, 2]).top("loss", 20)
    for key, vector in zip(zip(*key_of(chosen), strict=True), chosen.numpy("embeddings_1").tolist(), strict=True):
        assert everything[key] == vector


def key_of(samples):
    return [samples.numpy(name).tolist() for name in ("example_id", "epoch", "split")]


def test_where_compares_in_the_precision_of_the_column():
    samples = made({"example_id": [0, 1], "loss": np.array([0.1, 0.2], np.float32)})
    assert samples.where(loss=0.1).numpy("example_id").tolist() == [0]


def test_where_takes_ranges_tensors_sets_and_vectors(samples):
    assert len(samples.where(epoch=range(1, 3))) == len(samples.where(epoch=torch.tensor([1, 2]))) == 4 * N
    assert len(samples.where(split={"valid"})) == EPOCHS * N
    assert len(samples.where(epoch=7)) == len(samples.where(epoch=[])) == 0
    assert len(samples.where(epoch=7).numpy("embeddings_1")) == 0
    near = samples.where(embeddings_1=lambda vectors: vectors[:, 0] > 0.5)
    assert (near.numpy("embeddings_1")[:, 0] > 0.5).all()


@pytest.mark.parametrize(
    ("conditions", "error", "match"),
    [
        ({"label": "dgo"}, ValueError, "`label` must be one of cat, dog, eel, got 'dgo', did you mean 'dog'"),
        ({"label": 3}, ValueError, "`label` must be a class name or an id from 0 to 2, got 3"),
        ({"label": True}, ValueError, "`label` must be a class name or an id"),
        ({"epoch": "1"}, TypeError, "`epoch` must be compared with numbers, which it holds, got '1'"),
        ({"split": 1}, TypeError, "`split` must be compared with words, which it holds, got 1"),
        ({"split": [None]}, TypeError, "`split` must be compared with words"),
        ({"loss": lambda loss: loss}, ValueError, "`loss` must be a function that gives a bool for each of the 72"),
        ({"loss": lambda loss: loss[:2] > 0}, ValueError, "got bool of shape"),
        ({"embeddings_1": 1.0}, TypeError, "`embeddings_1` must be chosen by a function"),
    ],
)
def test_where_says_what_is_wrong(samples, conditions, error, match):
    with pytest.raises(error, match=match):
        samples.where(**conditions)


def test_top_begins_with_the_largest_and_ends_with_nan():
    samples = made({"example_id": [0, 1, 2, 3, 4], "loss": [1.0, np.nan, 3.0, 2.0, 3.0]})
    assert samples.top("loss", 9).numpy("example_id").tolist() == [2, 4, 3, 0, 1]
    assert samples.top("loss", 2).numpy("loss").tolist() == [3.0, 3.0]
    assert samples.top("loss", 9, largest=False).numpy("example_id").tolist() == [0, 3, 2, 4, 1]
    assert len(samples.top("loss", 0)) == 0


def test_top_is_of_numbers(samples):
    for column, kind in {"label": "classes", "split": "words", "embeddings_1": "vectors"}.items():
        with pytest.raises(ValueError, match=f"`{column}` must be a column of numbers, got {kind}; there are .*'loss'"):
            samples.top(column)
    for k, error in {-1: ValueError, 1.5: TypeError, True: TypeError}.items():
        with pytest.raises(error, match="`k` must be"):
            samples.top("loss", k)


# -- putting together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["label", "split", "accuracy", "epoch"])
def test_by_is_what_pandas_groups(samples, frame, column):
    found = samples.by(column)
    wanted = frame.groupby(column)
    assert found["count"].tolist() == wanted.size().tolist()
    for name in {"loss", "accuracy"} - {column}:
        np.testing.assert_allclose(
            found[name], wanted[name].apply(lambda values: values.astype(float).mean()), rtol=1e-7
        )
    rates = {"precision", "recall", "f1"} if column == "label" else set()
    assert set(found.columns) == {column, "count", "loss", "accuracy"} | rates
    names = wanted.size().index.tolist()
    assert found[column].tolist() == ([ANIMALS.classes[i] for i in names] if column == "label" else names)


def test_by_refuses_what_has_no_groups(samples):
    for column in ("loss", "embeddings_1"):
        with pytest.raises(ValueError, match=f"`{column}` must be of classes, words, flags or whole numbers"):
            samples.by(column)


def test_class_ids_without_names_are_not_averaged():
    samples = made({"example_id": [0, 1], "label": [3, 4], "predicted": [3, 3], "loss": [1.0, 2.0]})
    assert samples.aggregates == {"loss": 1.5}
    assert list(samples.by("label").columns) == ["label", "count", "loss", "precision", "recall", "f1"]


def test_aggregates_are_given_or_exact(samples, frame):
    assert samples.aggregates == {
        "loss": float(frame.loss.astype(float).mean()),
        "accuracy": float(frame.accuracy.mean()),
    }
    given = made({"example_id": [0], "loss": [1.0]}, aggregates={"loss": 0.25})
    assert given.aggregates == {"loss": 0.25}
    assert given.where(loss=1.0).aggregates == {"loss": 1.0}
    assert np.isnan(made({"example_id": [0, 1], "loss": [1.0, np.nan]}).aggregates["loss"])


def test_pivot_is_what_pandas_pivots(samples, frame):
    found = samples.where(split="train").pivot("loss")
    wanted = frame[frame.split == "train"].pivot(index="example_id", columns="epoch", values="loss")
    assert found.example_ids.tolist() == wanted.index.tolist()
    assert found.epochs.tolist() == wanted.columns.tolist()
    np.testing.assert_array_equal(found.values, wanted.to_numpy())


def test_pivot_averages_what_came_twice_and_leaves_gaps():
    samples = made({"example_id": [5, 5, 2, 5], "epoch": [1, 1, 1, 3], "loss": [1.0, 2.0, 4.0, np.nan]})
    np.testing.assert_array_equal(samples.pivot("loss").values, [[4.0, np.nan], [1.5, np.nan]])


def test_pivot_is_of_one_split_with_epochs(samples):
    with pytest.raises(ValueError, match=r"`samples` must be of one split, got 'train', 'valid'; .*split='train'"):
        samples.pivot("loss")
    with pytest.raises(ValueError, match="`samples` must have a column 'epoch'"):
        made({"example_id": [0], "loss": [1.0]}).pivot("loss")
    with pytest.raises(ValueError, match="`label` must be a column of numbers, got classes"):
        samples.pivot("label")


def test_rates_of_each_class_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 4, 200), rng.integers(0, 3, 200)  # the last class is never said
    found = made({"example_id": np.arange(200), "label": label, "predicted": predicted}).by("label")
    expected = precision_recall_fscore_support(label, predicted, labels=range(4), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1", "count"), expected, strict=True):
        np.testing.assert_allclose(found[name], values)


def test_large_whole_numbers_are_told_apart():
    """Floats would round them: above 2**53 not every whole number is one."""
    values = np.array([2**60, 2**60 + 1, 2**60 - 1, -(2**63)])
    samples = made({"example_id": np.arange(4), "key": values, "of": values.astype(np.uint64)})
    assert samples.top("key", 4).numpy("example_id").tolist() == [1, 0, 2, 3]
    assert samples.top("key", 4, largest=False).numpy("example_id").tolist() == [3, 2, 0, 1]
    for name in ("key", "of"):
        assert samples.where(**{name: 2**60 + 1}).numpy("example_id").tolist() == [1]
        assert samples.where(**{name: [2**60, 0.5, -1.0, 2**70]}).numpy("example_id").tolist() == [0]


def test_names_that_are_no_text_are_on_record():
    """As `os.listdir` gives those of files in another encoding."""
    name = os.fsdecode(b"caf\xe9.png")
    label = CategoricalLabel("label", [name, "b"])
    samples = made({"file": [name, "b"], "label": [0, 1]}, {"label": label})
    assert samples.numpy("file").tolist() == ["caf\\udce9.png", "b"]
    assert samples.words("label").tolist() == ["caf\\udce9.png", "b"]


def test_a_flipped_bit_is_told(files):
    data, loss = files[0].read_bytes(), Samples(files[:1]).numpy("loss")
    rng = np.random.default_rng(0)
    n_told = 0
    for place in rng.integers(0, len(data), 100):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        files[0].write_bytes(flipped)
        try:
            assert np.array_equal(Samples(files[:1]).numpy("loss"), loss)
        except LearnerError:
            n_told += 1
    assert n_told
