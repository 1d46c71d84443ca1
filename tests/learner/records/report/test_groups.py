"""Which samples belong together, and what they are called."""

import numpy as np

from tests.learner.records.report.reading import captions, notes, read, rows_of


def test_of_recordings_without_epochs_the_last_one_counts(run):
    run.add_metrics_data({"loss": [1.0, 2.0]})
    run.add_metrics_data({"loss": [3.0]})
    run.add_metrics_data({"score": [5.0]})  # something else
    path = run.report()
    assert [(row["split"], row["loss"], row["score"]) for row in rows_of(path)] == [
        ("metrics-0001", "3", ""), ("metrics-0002", "", "5"),
    ]  # fmt: skip
    assert "metrics-0001: 1 rows, the last of 2 recordings" in path.read_text()


def test_samples_are_called_by_their_split_where_it_is_theirs_alone(run):
    for name, split in {"step-train": "train", "step-valid": "valid", "pass-valid": "valid"}.items():
        with run.writer(f"{name}-0000") as writer:
            writer.add({"example_id": np.arange(2), "split": np.array([split] * 2), "loss": np.ones(2)})
    assert sorted({row["split"] for row in rows_of(run.report())}) == ["pass-valid", "step-valid", "train"]


def test_a_part_that_is_cut_short_is_named_and_the_rest_is_there(full):
    for path in (full.path / "samples" / "train-0002.parquet", full.path / "samples" / "valid-0000.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    path = full.report()
    found = read(path)
    assert sum("must be a whole Parquet file" in one for one in notes(found)) == 2
    assert "train: 40 rows, epoch 1" in path.read_text()
    assert len(rows_of(path)) == 60
    assert "How the samples were learned" in captions(found)
