"""Samples: what is read, chosen, averaged, joined and shown; against pandas, numpy and arithmetic by hand."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pyarrow import parquet

from learner import LearnerError
from learner.records import parts as parts_module
from learner.records.arrow import to_arrow
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel
from learner.records.table import Table
from learner.records.writer import SampleWriter

ANIMALS = CategoricalLabel("label", ["cat", "dog", "eel"])
N, EPOCHS, WIDTH = 12, 3, 4


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return Table.from_dict({"image": rng.random((N, 5, 5)), "label": np.arange(N) % 3}, "animals")


def columns_of(split: str, epoch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(100 * epoch + len(split))
    order = rng.permutation(N)
    return {
        "example_id": order,
        "epoch": np.full(N, epoch),
        "split": np.array([split] * N),
        "label": order % 3,
        "predicted": rng.integers(0, 3, N),
        "loss": rng.random(N).astype(np.float32),
        "accuracy": rng.random(N) < 0.5,
        "embeddings_1": rng.random((N, WIDTH)).astype(np.float16),
    }


@pytest.fixture
def files(tmp_path, table):
    paths = []
    for split in ("train", "valid"):
        for epoch in range(EPOCHS):
            schemas = {"label": ANIMALS, "predicted": ANIMALS}
            name = f"{split}-{epoch:04d}"
            with SampleWriter(tmp_path, name, schemas=schemas, fingerprint=table.fingerprint) as writer:
                writer.add(columns_of(split, epoch))
            paths.append(tmp_path / "samples" / f"{name}.parquet")
    return paths


@pytest.fixture
def samples(files, table):
    return Samples(files, table=table)


@pytest.fixture
def frame():
    """What the files hold, by other means."""
    frames = []
    for split in ("train", "valid"):
        for epoch in range(EPOCHS):
            columns = columns_of(split, epoch)
            columns.pop("embeddings_1")
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def made(columns, schemas=None, fingerprint=None, **kwargs):
    part = to_arrow({name: np.asarray(values) for name, values in columns.items()}, schemas or {})
    if fingerprint:
        part = part.replace_schema_metadata({**(part.schema.metadata or {}), b"learner.table_fingerprint": fingerprint})
    return Samples([part], **kwargs)


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
    read = parts_module._read
    monkeypatch.setattr(parts_module, "_read", lambda path, names: seen.append((path.stem, names)) or read(path, names))
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


def test_a_holder_lives_as_long_as_what_was_chosen():
    class Holder: ...

    holder = Holder()
    chosen = made({"example_id": [0, 1], "loss": [1.0, 2.0]}, holder=holder).where(loss=1.0)
    assert chosen._holder is holder


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
    assert set(found.columns) == {column, "count", "loss", "accuracy"}
    names = wanted.size().index.tolist()
    assert found[column].tolist() == ([ANIMALS.classes[i] for i in names] if column == "label" else names)


def test_by_refuses_what_has_no_groups(samples):
    for column in ("loss", "embeddings_1"):
        with pytest.raises(ValueError, match=f"`{column}` must be of classes, words, flags or whole numbers"):
            samples.by(column)


def test_class_ids_without_names_are_not_averaged():
    samples = made({"example_id": [0, 1], "label": [3, 4], "predicted": [3, 3], "loss": [1.0, 2.0]})
    assert samples.aggregates == {"loss": 1.5}
    assert list(samples.by("label").columns) == ["label", "count", "loss"]


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


# -- joining -------------------------------------------------------------------------------------------------------


def test_join_is_what_pandas_merges(samples, frame):
    mine, other = samples.where(split="train"), samples.where(split="valid", epoch=[0, 1])
    found = mine.join(other, suffix="_valid")
    right = frame[(frame.split == "valid") & (frame.epoch < 2)][["example_id", "epoch", "loss", "label"]]
    wanted = frame[frame.split == "train"].merge(right, how="left", on=["example_id", "epoch"], suffixes=("", "_valid"))
    np.testing.assert_array_equal(found.numpy("loss_valid"), wanted["loss_valid"].to_numpy())
    np.testing.assert_array_equal(found.numpy("label_valid"), wanted["label_valid"].fillna(-1).to_numpy())
    assert found.classes("label_valid") == ANIMALS.classes
    assert found.numpy("loss").tolist() == wanted["loss"].tolist()
    assert "split_valid" not in found.columns


def test_join_by_sample_alone_where_one_has_no_epochs(samples):
    once = samples.where(split="valid", epoch=2)
    found = samples.where(split="train").join(once, suffix="_2")
    by_id = dict(zip(once.numpy("example_id").tolist(), once.numpy("loss").tolist(), strict=True))
    assert found.numpy("loss_2").tolist() == [by_id[i] for i in found.numpy("example_id").tolist()]
    assert found.numpy("embeddings_1_2").shape == (EPOCHS * N, WIDTH)


def test_what_is_joined_goes_along_with_its_rows(samples):
    found = samples.where(split="train", epoch=0).join(samples.where(split="valid", epoch=0), suffix="_v")
    chosen = found.where(loss_v=lambda loss: loss > 0.3).top("loss_v", 4)
    by_id = dict(zip(found.numpy("example_id").tolist(), found.numpy("loss_v").tolist(), strict=True))
    assert chosen.numpy("loss_v").tolist() == [by_id[i] for i in chosen.numpy("example_id").tolist()]
    assert chosen.numpy("loss_v").tolist() == sorted(chosen.numpy("loss_v").tolist(), reverse=True)
    assert "loss_v" in chosen.aggregates
    assert "loss_v" in chosen.by("label").columns
    assert "loss_v" in chosen.to_pandas()
    twice = chosen.join(samples.where(split="valid", epoch=1), suffix="_w")
    assert {"loss", "loss_v", "loss_w"} <= set(twice.columns)


def test_join_says_what_is_wrong(samples):
    one = samples.where(split="train", epoch=0)
    with pytest.raises(ValueError, match=r"`label` must be in one of the two, got it in both; say `suffix=`"):
        one.join(samples.where(split="train", epoch=1))
    with pytest.raises(ValueError, match=r"`other` must have one row for each example_id, got 3 for example_id \d+"):
        one.join(samples.where(split="train"), suffix="_")
    with pytest.raises(TypeError, match="`other` must be Samples, got dict"):
        one.join({})
    columns = {"example_id": [0, 1], "x": [1.0, 2.0]}
    for mine, theirs in ((b"aa", b"bb"), (b"aa", None), (None, None)):
        with pytest.raises(ValueError, match="`other` must be of the same table, got fingerprints"):
            made(columns, fingerprint=mine).join(made({**columns, "y": [0, 0]}, fingerprint=theirs))


# -- what they are of ----------------------------------------------------------------------------------------------


def test_the_table_is_known_by_its_fingerprint(files, table):
    other = Table.from_dict({"x": [1, 2, 3]})
    assert Samples(files, table=[other, table]).table is table
    assert Samples(files).table is None
    assert Samples(files).fingerprint == table.fingerprint
    mixed = Samples([files[0], to_arrow({"example_id": np.arange(2)})], table=table)
    assert (mixed.fingerprint, mixed.table) == (None, None)
    assert mixed.where(epoch=0).table is table
    assert made({"example_id": [0]}, table=other).table is other
    with pytest.raises(
        LearnerError, match=rf"the table must be known.*{table.fingerprint}.*'table' \({other.fingerprint}"
    ):
        Samples(files, table=other).show()
    with pytest.raises(LearnerError, match="they are of an unknown one, got none"):
        made({"example_id": [0]}).show()


def test_show_draws_images_as_they_were_collected(table):
    samples = made({"example_id": [3, 1], "label": [0, 1], "predicted": [1, 1], "loss": [0.5, 0.25]}, table=table)
    table.map(lambda row: "augmented").map_collect_metrics(lambda row: (row["image"], row["label"]))
    figure = samples.show(5)
    assert isinstance(figure, Figure)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), table.rows[3]["image"], rtol=1e-6)
    assert figure.axes[0].get_title() == "#3, 0\nsaid 1, loss 0.5"
    assert len(samples.show(1).axes) == 1


def test_samples_that_are_text_are_shown_and_drawn():
    texts = [f"review {i}" for i in range(4)]
    table = Table.from_dict({"text": texts}).map(lambda row: (torch.ones(2), 0))
    ids = np.array([3, 1, 0, 2])
    columns = {"example_id": ids, "label": ids % 2, "predicted": ids * 0, "loss": ids / 4}
    samples = Samples([to_arrow(columns, dict.fromkeys(("label", "predicted"), ANIMALS))], table=table)
    assert samples.show(2)["sample"].tolist() == ["review 3", "review 1"]
    drawn = [[ax.texts[0].get_text() for ax in samples.plot_worst(3).axes if ax.texts]]
    drawn += [
        [ax.texts[0].get_text() for ax in samples.plot_confusion(cell=("dog", "cat")).subfigs[1].axes if ax.texts]
    ]
    assert drawn == [["review 3", "review 2", "review 1"], ["review 3", "review 1"]]


def test_show_writes_what_is_no_image():
    table = Table.from_dict({"x": [1, 3]})
    found = made({"example_id": [1, 0], "loss": [0.5, 0.25]}, table=table).show()
    assert found["sample"].tolist() == ["{'x': 3}", "{'x': 1}"]
    assert found["loss"].tolist() == [0.5, 0.25]


def test_what_is_no_image_can_be_made_one():
    table = Table.from_dict({"x": np.arange(8.0).reshape(2, 4)})
    samples = made({"example_id": [1], "loss": [0.5]}, table=table)
    with pytest.raises(LearnerError, match=r"samples must be images to be drawn, got .*image=lambda"):
        samples.plot_worst()
    figure = samples.plot_worst(image=lambda sample: sample["x"].reshape(2, 2))
    assert figure.axes[0].images[0].get_array().shape == (2, 2)
    assert isinstance(samples.show(image=lambda sample: sample["x"].reshape(2, 2)), Figure)


# -- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_of_the_last_epoch(samples, frame):
    valid = samples.where(split="valid")
    last = frame[(frame.split == "valid") & (frame.epoch == EPOCHS - 1)]
    assert "epoch 2, valid" in valid.plot_histogram().axes[0].get_title()
    worst = valid.plot_worst(3)
    shown = [ax.get_title().split(",")[0] for ax in worst.axes if ax.images]
    assert shown == [f"#{i}" for i in last.sort_values("loss", ascending=False)["example_id"][:3]]
    figure = valid.plot_confusion()
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (last.label, last.predicted), 1)
    written = {t.get_position(): int(t.get_text()) for t in figure.axes[0].texts}
    assert written == {(j, i): counts[i, j] for i in range(3) for j in range(3) if counts[i, j]}


def test_a_cell_of_the_confusion_shows_its_samples(samples, frame):
    last = frame[(frame.split == "train") & (frame.epoch == EPOCHS - 1)]
    cell = last[(last.label == 1) & (last.predicted == last[last.label == 1].predicted.iloc[0])]
    said = ANIMALS.classes[int(cell.predicted.iloc[0])]
    figure = samples.where(split="train").plot_confusion(cell=("dog", said))
    titles = [ax.get_title().split(",")[0] for ax in figure.axes if ax.get_title().startswith("#")]
    assert titles == [f"#{i}" for i in cell["example_id"]]
    with pytest.raises(ValueError, match="`cell` must be one of cat, dog, eel, got 'dgo'"):
        samples.plot_confusion(cell=("dgo", "cat"))


def test_rows_without_an_epoch_are_of_none(files):
    once = to_arrow({"example_id": np.arange(2), "loss": np.array([7.0, 8.0])})
    title = Samples([*files[:2], once]).plot_histogram().axes[0].get_title()
    assert title == "loss of 12 samples, epoch 1, train"


def test_a_confusion_needs_no_names():
    samples = made({"example_id": [0, 1, 2], "label": [3, 7, 7], "predicted": [3, 3, 7]})
    figure = samples.plot_confusion()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["3", "7"]


def test_a_map_has_a_panel_for_each_epoch(samples):
    figure = samples.where(split="train").plot_map("embeddings_1", color="label")
    assert [ax.get_title() for ax in figure.axes] == ["epoch 0", "epoch 1", "epoch 2"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(ANIMALS.classes)
    assert "fitted on epoch 2" in figure.get_suptitle()
    with pytest.raises(ValueError, match="`loss` must hold a vector per sample"):
        samples.plot_map("loss")


# -- in words ------------------------------------------------------------------------------------------------------


def test_repr_says_how_many_and_of_what(samples):
    assert repr(samples).startswith("Samples: 72 rows in 6 parts; example_id epoch split label")
    html = samples.where(epoch=1)._repr_html_()
    assert html.count("<tr>") == 6
    assert "dog" in html


def test_other_tools_read_the_files(files):
    assert parquet.read_table(files[0]).num_rows == N
    assert pd.read_parquet(files[0])["label"].dtype == "category"
    assert pa.types.is_dictionary(parquet.read_schema(files[0]).field("label").type)
