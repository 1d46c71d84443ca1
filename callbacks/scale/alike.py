"""What processes that train together have alike while they train, devices, batches, weights; and what not, noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from learner import Learner, LearnerError
from learner.data.limit import BatchLimit
from learner.data.read_ahead import ReadAhead
from learner.data.seeding import position_seed, seed_generators
from learner.data.shares import why_read_whole
from learner.data.wrapper import LoaderWrapper
from learner.loop.tell import tell
from learner.ranks.job import Job


def draw_own_noise(job: Job, seed: int) -> None:
    """Let each process but the first, whose seed it is, draw numbers of its own: dropout differs between shares."""
    if not job.is_first:
        own = position_seed(seed, "rank", job.rank)
        torch.manual_seed(own)
        seed_generators(own)


def require_own_device(model: nn.Module) -> None:
    """Refuse a model on another CUDA device than that of its process.

    Raises:
        LearnerError: if so; names the parameter.
    """
    for name, p in model.named_parameters():
        if p.is_cuda and p.get_device() != torch.cuda.current_device():
            raise LearnerError(
                f"`model` must be on the device of its process, cuda:{torch.cuda.current_device()}, got {name!r} on "
                f"{p.device}; make the callback of the processes before data and model, and add a DeviceCallback."
            )


def require_equal_weights(of_ranks: Sequence[tuple[int, int]]) -> None:
    """Refuse to go on where processes hold other weights than the first.

    Args:
        of_ranks: of each process how many steps it has made, and a checksum of its weights.

    Raises:
        LearnerError: if so; names the rank.
    """
    if (rank := _first_unlike(of_ranks)) is not None:
        raise LearnerError(
            f"all processes must hold the same weights after a pass, but those of rank {rank} differ from those of "
            f"rank 0, after {of_ranks[rank][0]} and {of_ranks[0][0]} steps: one has left out a step or a batch, or has "
            f"changed weights or gradients by itself; decide by what all have alike, or do `agree='step'`."
        )


def require_one_batch(name: str, digests: Sequence[str]) -> None:
    """Refuse a loader that gives processes different batches, of which each would take a share.

    Args:
        name: of the loader.
        digests: of the first batch of each process.

    Raises:
        LearnerError: if they differ; names the rank.
    """
    if (rank := _first_unlike(digests)) is not None:
        raise LearnerError(
            f"each process must read the same batches of loader {name!r}, to take its share of each, but the first "
            f"one of rank {rank} is another than that of rank 0: the loader gives each process data of its own, or "
            f"shuffles by its own seed; let it give all of them the same, in one order."
        )


def _first_unlike(of_ranks: Sequence[Any]) -> int | None:
    """Return the first rank that has something else than rank 0; None if all have the same."""
    return next((rank for rank, one in enumerate(of_ranks) if one != of_ranks[0]), None)


def say_what_is_read_whole(learn: Learner, told: set[tuple[str, str]]) -> None:
    """Say once of a loader that each process reads all of it, and why; of batches that are there already nobody minds.

    Args:
        learn: the learner, at the beginning of a pass.
        told: loaders of which it was said, and why.
    """
    why = why_read_whole(learn.dl.loader if isinstance(learn.dl, ReadAhead) else learn.dl)
    loader = learn.dl
    while isinstance(loader, LoaderWrapper):
        loader = loader.loader
    if why is None or (learn.dl_name, why) in told or isinstance(loader, list | tuple | BatchLimit):
        return
    told.add((learn.dl_name, why))
    tell(f"each of {learn.job.world} processes reads all of loader {learn.dl_name!r} to take its share: {why}.")
