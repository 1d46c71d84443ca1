"""Save a learner between two fits, and load it again."""

from __future__ import annotations

import os
from pathlib import Path

from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.checkpoint.resume import between_fits
from learner.checkpoint.shards import is_model_in_shards, read_shards, write_file_and_shards
from learner.checkpoint.snapshot import load_snapshot, snapshot
from learner.checkpoint.unsaved import warn_of_unsaved
from learner.loop.checks import refuse_while_running
from learner.loop.types import Learner


def save(learn: Learner, path: str | os.PathLike[str]) -> None:
    """Write all that this learner holds between two fits to a file: a fit after `load` goes on bit for bit.

    That is the model, the optimizer, counters, history, random generators, what callbacks keep that name it in
    `state` or have a `state_dict`, and what a subclass of Learner names in `state`. A warning names other
    optimizers, modules and generators on them. The file is plain data: reading it runs no code. It takes its name when
    it is whole. Of a model in shards (`callbacks.ShardCallback`) all processes write, to a folder beside the file as
    well, and all have to call this.

    Raises:
        TypeError: if a callback keeps something that is no plain data; names it.
        LearnerError: if a fit or a pass runs, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from learner import Learner
        >>> def learner():
        ...     data = [(torch.ones(2, 1), torch.ones(2, 1))]
        ...     return Learner(nn.Linear(1, 1), {"train": data}, nn.functional.mse_loss)
        >>> path, learn, other = tempfile.mkdtemp() + "/learn.pt", learner(), learner()
        >>> learn.fit(2)
        >>> learn.save(path)
        >>> other.load(path)
        >>> torch.equal(learn.model.weight, other.model.weight), len(other.history)
        (True, 2)
    """
    refuse_while_running(learn, "save")
    warn_of_unsaved(learn)
    if is_model_in_shards(learn.model):
        write_file_and_shards(path, snapshot(learn), learn.job)
    elif learn.job.is_first:
        write_checkpoint(path, snapshot(learn))


def load(learn: Learner, path: str | os.PathLike[str]) -> None:
    """Take over all that `save` wrote, or a `CheckpointCallback`, in a learner that is made as that one was.

    Raises:
        LearnerError: if the file is broken, of a newer version, or of another model, optimizer or callbacks; then
            nothing was changed.
    """
    refuse_while_running(learn, "load")
    state = learn.job.from_first(lambda: read_checkpoint(path), at="a file to load")
    load_snapshot(learn, between_fits(read_shards(state, Path(path), learn.model, learn.job)))
