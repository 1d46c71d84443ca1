"""The weights of a model alone, in a file for other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from learner.checkpoint.atomic import replacing
from learner.checkpoint.shards import is_model_in_shards, whole_weights
from learner.errors import LearnerError
from learner.interrogate.layers import inside
from learner.ranks.job import ALONE, Job


def export_weights(model: nn.Module, path: str | os.PathLike[str], job: Job = ALONE) -> None:
    """Write the weights of a model, without wrappers and their prefixes, for other programs.

    Args:
        model: the model.
        path: of the file, which the first process writes; all have to call this where the model is in shards.
        job: the processes.

    Raises:
        ImportError: if the name ends in `.safetensors` and the library is not installed.
        LearnerError: if the file cannot be written.
    """
    inner, target = inside(model), Path(path).expanduser()
    if is_model_in_shards(inner):
        job.gather(None, at="an export of weights")
        values = whole_weights(inner)
    else:
        values = inner.state_dict()
    if not job.is_first:
        return
    state = {name: value.detach().cpu() for name, value in values.items()}
    write = _write_safetensors if target.suffix == ".safetensors" else torch.save
    try:
        with replacing(target.resolve()) as file:
            write(state, file)
    except (OSError, RuntimeError) as error:  # the second is torch's, or for a loop of links
        raise LearnerError(f"`path` must be a file that can be written, got {str(path)!r}: {error}.") from error


def _write_safetensors(state: Mapping[str, Tensor], file: BinaryIO) -> None:
    try:
        from safetensors.torch import save
    except ImportError:
        raise ImportError("`safetensors` must be installed; do `pip install safetensors`.") from None
    # Tied weights share their memory, which the format refuses: each gets its own.
    file.write(save({name: value.clone().contiguous() for name, value in state.items()}))
