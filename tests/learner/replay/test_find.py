"""Which checkpoint is gone on from, and how many are read for it."""

import pytest
import torch
from torch import nn

from callbacks import AccumulateCallback, CheckpointCallback
from learner import Learner
from learner.checkpoint.file import read_checkpoint
from learner.replay import find
from learner.replay.find import Checkpoints, at_batch, at_epoch, at_step


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a checkpoint for each of 40 batches; each second one makes a step."""
    batches = [(torch.ones(2, 1), torch.ones(2, 1))] * 10
    cbs = [CheckpointCallback(tmp_path, every=1, keep=100), AccumulateCallback(2)]
    Learner(nn.Linear(1, 1), {"train": batches}, nn.functional.mse_loss, cbs=cbs).fit(4)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (at_step(1), "step-00000002.pt"),
        (at_step(7), "step-00000014.pt"),
        (at_step(20), "step-00000040.pt"),
        (at_epoch(0, 3), "step-00000003.pt"),
        (at_epoch(2, 0), "step-00000020.pt"),
        (at_epoch(2, 7), "step-00000027.pt"),
        (at_epoch(9, 0), "step-00000040.pt"),
        (at_batch(33, ""), "step-00000033.pt"),
    ],
    ids=lambda value: getattr(value, "words", value),
)
def test_it_is_the_last_one_that_is_not_after_the_place(folder, monkeypatch, target, name):
    """A step is the first batch after it: not one in the middle of its window. Of 40 files at most 6 are read."""
    n_read = []
    monkeypatch.setattr(find, "read_checkpoint", lambda path: n_read.append(path) or read_checkpoint(path))
    path, state = Checkpoints(folder).nearest(target)
    assert (path.name, state["step"]) == (name, int(name[5:13]))
    assert len(n_read) <= 6
    following = f"step-{state['step'] + 1:08d}.pt"
    assert Checkpoints(folder).after(path) == (folder / following if (folder / following).exists() else None)
