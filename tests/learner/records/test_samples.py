"""Samples: what is joined, shown and drawn; against pandas, numpy and arithmetic by hand."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from learner import LearnerError
from learner.records.arrow import to_arrow
from learner.records.samples import Samples
from learner.records.table import Table
from tests.learner.records.recorded import ANIMALS, EPOCHS, WIDTH, N, made


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def test_a_holder_lives_as_long_as_what_was_chosen():
    class Holder: ...

    holder = Holder()
    chosen = made({"example_id": [0, 1], "loss": [1.0, 2.0]}, holder=holder).where(loss=1.0)
    assert chosen._holder is holder


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
