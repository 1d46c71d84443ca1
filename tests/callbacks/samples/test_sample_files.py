"""Where samples lie: in the run or a temporary folder, found again by name, and of which table they are."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from callbacks.samples.sample_files import SampleFiles
from learner.records import Run, Table


def write(files, part, n=3):
    """Write the file of a pass."""
    writer = files.writer(part, None, {})
    writer.add({"example_id": np.arange(n), "value": np.ones(n)})
    writer.close()
    files.add(writer.paths[:1])


def test_they_lie_in_the_run_that_was_given_or_else_in_the_active_one(tmp_path):
    given, active = Run.create(tmp_path / "given"), Run.create(tmp_path / "active")
    with active:
        for run in (given, None):
            write(SampleFiles("step", run), "train-0000")
    for run in (given, active):
        assert [path.name for path in (run.path / "samples").iterdir()] == ["step-train-0000.parquet"]


def test_without_a_run_they_lie_in_a_folder_that_lives_as_long_as_what_reads_it():
    files = SampleFiles("step", None)
    write(files, "train-0000")
    folder, samples = files._folder.path, files.samples
    del files
    assert len(samples) == 3
    assert folder.exists()
    del samples
    assert not folder.exists()


def test_a_training_from_the_beginning_replaces_only_what_is_its_own(tmp_path):
    run = Run.create(tmp_path / "run")
    write(SampleFiles("step", run), "train-0000")
    files = SampleFiles("step", run)
    with pytest.raises(ValueError, match="`run` must have no samples of another training, got 1 files as 'step-train"):
        files.begin_anew(may_replace=False)
    files.begin_anew(may_replace=True)
    assert files.names == []
    SampleFiles("other", run).begin_anew(may_replace=False)


def test_files_are_found_again_by_name_and_what_is_gone_is_told_once(tmp_path):
    run = Run.create(tmp_path / "run")
    for part in ("train-0000", "train-0001", "train-0002"):
        write(SampleFiles("step", run), part)
    (run.path / "samples" / "step-train-0001.parquet").unlink()
    files = SampleFiles("step", Run.open(run.path))
    files.expect(["step-train-0000", "step-train-0001"])
    files.find()
    assert files.names == ["step-train-0000", "step-train-0001"]
    assert len(files.samples) == 3  # not of the one after the checkpoint
    assert [files.has(name) for name in files.names] == [True, False]
    with pytest.warns(RuntimeWarning, match="samples of 1 passes before the checkpoint are gone: not in"):
        files.tell_of_gone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.tell_of_gone()


def test_what_lay_in_a_temporary_folder_of_another_process_is_gone():
    files = SampleFiles("step", None)
    files.expect(["step-train-0000"])
    files.find()
    with pytest.warns(RuntimeWarning, match="are gone: a temporary folder goes with its process; collect into a Run"):
        files.tell_of_gone()


def test_a_dataset_has_one_table_and_a_stream_has_none(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    files, data = SampleFiles("step", Run.create(tmp_path / "run")), torch.arange(4)
    table = files.table(DataLoader(data))
    assert table is files.table(DataLoader(data, 2))
    assert len(table) == 4
    own = Table(torch.arange(5))
    assert files.table(DataLoader(own)) is own
    assert files.table(DataLoader(Stream())) is files.table([1, 2]) is None


def test_tables_are_registered_with_the_run(tmp_path):
    run = Run.create(tmp_path / "run")
    files = SampleFiles("step", run)
    files.find_tables([DataLoader(Table.from_dict({"x": [1, 2]}, table_name="numbers")), [1]])
    assert [table["name"] for table in Run.open(run.path).info["tables"].values()] == ["numbers"]
