"""The pictures of samples on a page, and the labels that are most likely wrong."""

import numpy as np
from matplotlib import pyplot as plt
from pyarrow import parquet

from tests.learner.records.report.reading import N_EPOCHS, captions, notes, read, record, rows_of


def test_suspects_are_those_of_the_dynamics(whole):
    from learner.records import dynamics

    found = dynamics(whole.samples_named("train")).suspects(24)
    rows = rows_of(whole.path / "report.html", "labels most likely wrong")
    assert [row["example_id"] for row in rows] == [str(i) for i in found["example_id"]]
    assert [row["reason"] for row in rows] == found["reason"].tolist()


def test_vectors_that_are_cut_short_cost_the_map_alone(full):
    for path in (full.path / "vectors").glob("train-*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    found = read(full.report())
    assert sum(".embeddings.parquet" in one for one in notes(found)) == N_EPOCHS
    assert "Map of embeddings" not in captions(found)
    assert captions(found).count("Loss") == 2


def test_a_column_that_is_rotten_costs_what_needs_it(full):
    path = full.path / "samples" / "train-0002.parquet"
    column = parquet.read_metadata(path).row_group(0).column(8)
    assert column.path_in_schema == "margin"
    data = bytearray(path.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    report = full.report()
    said = [one for one in notes(read(report)) if "train-0002.parquet" in one]
    assert {one.partition(":")[0] for one in said} == {"How samples of train were learned", "Rows of train"}
    assert captions(read(report)).count("Loss") == 2
    assert {*rows_of(report)[0].values()} >= {"valid"}
    assert len(rows_of(report)) == 20


def test_vectors_that_diverged_cost_the_map_alone(run):
    before = plt.get_fignums()
    record(run, "train", 40, 0, embeddings=lambda rng, n: np.full((n, 4), np.nan))
    found = read(run.report())
    assert any(one.startswith("Map of embeddings of train: ") for one in notes(found))
    assert "Loss" in captions(found)
    assert plt.get_fignums() == before
