"""The files of a training: written by the first process alone, losses with them, a failure is a warning."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from learner.checkpoint.files import CheckpointFiles
from learner.checkpoint.folder import CheckpointFolder
from learner.ranks.job import Job


def learner_of(rank=0):
    job = Job()
    job.rank = rank
    return SimpleNamespace(job=job, model=nn.Linear(1, 1))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def saved(folder, rank=0, n=2):
    files, learn = CheckpointFiles(folder, 3), learner_of(rank)
    files.open(learn)
    files.begin(0, goes_on=False)
    for i in range(n):
        learn.loss = torch.tensor(float(i))
        files.add_loss(learn)
    files.save(learn, {"weights": torch.ones(2)}, n, is_best=False)
    assert files.wait()
    files.close()
    return files


def test_the_first_process_writes_checkpoint_and_losses(tmp_path):
    saved(tmp_path)
    assert names(tmp_path) == ["losses.f64", "step-00000002.pt"]


def test_another_process_writes_nothing(tmp_path):
    saved(tmp_path / "run", rank=1)
    assert not (tmp_path / "run").exists()


def test_a_fit_that_does_not_go_on_sets_files_aside_and_says_so(tmp_path, capsys):
    saved(tmp_path)
    files = CheckpointFiles(tmp_path, 3)
    files.open(learner_of())
    files.begin(0, goes_on=False)
    files.close()
    assert "1 checkpoint of another training" in capsys.readouterr().out
    assert "step-00000002.pt.old" in names(tmp_path)


def test_losses_are_written_without_a_checkpoint(tmp_path):
    files = CheckpointFiles(tmp_path, 3)
    files.open(learner_of())
    files.begin(0, goes_on=False)
    learn = learner_of()
    learn.loss = torch.tensor(1.0)
    files.add_loss(learn)
    files.save_losses(learn, 1)
    files.close()
    assert names(tmp_path) == ["losses.f64"]


def test_what_cannot_be_written_is_a_warning_and_the_folder_is_free_again(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    files, learn = CheckpointFiles(tmp_path, 3), learner_of()
    files.open(learn)
    monkeypatch.setattr(CheckpointFolder, "save", full)
    files.save(learn, {}, 1, is_best=False)
    with pytest.warns(RuntimeWarning, match=r"a checkpoint was not written: no space left"):
        assert not files.wait()
    files.close()
    monkeypatch.undo()
    saved(tmp_path)
