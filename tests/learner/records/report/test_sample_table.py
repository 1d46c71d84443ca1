"""The table of samples: the worst first, and a share for each group."""

import re

import numpy as np

from tests.learner.records.report.reading import CLASSES, read, record, rows_of


def test_samples_of_the_newest_epoch_come_worst_first(whole):
    rows = rows_of(whole.path / "report.html")
    assert list(rows[0])[:5] == ["split", "example_id", "label", "predicted", "loss"]
    assert not {"epoch", "step"} & rows[0].keys()
    newest = {split: whole.samples.where(split=split, epoch=2) for split in ("train", "valid")}
    loss = {
        (split, str(i)): value
        for split, one in newest.items()
        for i, value in zip(one.numpy("example_id"), one.numpy("loss"), strict=True)
    }
    assert [(row["split"], row["example_id"]) for row in rows] == sorted(loss, key=loss.get, reverse=True)
    assert {row["label"] for row in rows} == {*CLASSES}
    assert {row["accuracy"] for row in rows} == {"0", "1"}


def test_wrong_rows_are_marked(whole):
    html = (whole.path / "report.html").read_text()
    wrong = re.findall(r'<tr class="wrong">.*?data-v="(\d+)"', html)
    assert sorted(map(int, wrong)) == sorted([*range(0, 40, 5), *range(0, 20, 5)])


def test_few_of_many_samples_are_listed_and_the_rest_is_counted(run):
    record(run, "train", 5000, 0, classes=None)
    record(run, "valid", 300, 0, classes=None)
    path = run.report()
    rows = rows_of(path)
    assert len(rows) == 2000
    assert sum(row["split"] == "valid" for row in rows) == 300  # a split that is small is there as a whole
    words = "train: 5,000 rows, epoch 0, 3,300 of smaller loss left out; valid: 300 rows, epoch 0."
    assert f">{words}<" in path.read_text()
    worst = run.samples.where(split="train").top("loss", 1700)
    assert {row["example_id"] for row in rows if row["split"] == "train"} == {*map(str, worst.numpy("example_id"))}


def test_splits_that_are_large_share_the_table(run):
    for split, n in {"train": 5000, "valid": 3000}.items():
        record(run, split, n, 0, classes=None)
    splits = [row["split"] for row in rows_of(run.report())]
    assert splits.count("train") == splits.count("valid") == 1000


def test_samples_without_loss_come_by_number(run):
    run.add_metrics_data({"score": np.arange(3000) / 7, "label": ["b", "a", "c"] * 1000})
    path = run.report()
    rows = rows_of(path)
    assert [row["example_id"] for row in rows] == [str(i) for i in range(2000)]
    assert "1,000 that come later left out" in path.read_text()


def test_a_loss_that_is_not_finite_is_listed(run):
    run.add_metrics_data({"loss": [1.0, np.nan, np.inf, 2.0]})
    assert [row["loss"] for row in rows_of(run.report())] == ["inf", "2", "1", "nan"]


def test_names_and_ids_of_classes_are_not_compared(run):
    run.add_metrics_data({"label": [0, 1], "predicted": ["a", "b"]})
    assert not read(run.report())("tr", "wrong")


def test_times_are_listed_in_words(run):
    times = np.array(["2020-01-01T06:30", "NaT", "2020-01-03"], "datetime64[us]")
    run.add_metrics_data({"loss": np.arange(3.0), "when": times, "took": times - times[0]})
    path = run.report()
    assert not read(path)("div", "notes")
    assert [(row["when"], row["took"]) for row in rows_of(path)] == [
        ("2020-01-03", "1 day, 17:30:00"), ("", ""), ("2020-01-01 06:30", "0:00:00"),
    ]  # fmt: skip
