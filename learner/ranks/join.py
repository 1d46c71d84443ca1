"""Join the processes of a job, and leave them when the program ends."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from learner.ranks.agreement import Agree, Ranks
from learner.ranks.environment import Environment, environment
from learner.ranks.job import Job, join_as_other
from learner.ranks.talk import Talk


def joined_job(agree: Agree, timeout: float) -> Job:
    """Return the processes that train together; join them, if a launcher has started this one and nobody has yet.

    Args:
        agree: as for `Ranks`.
        timeout: how long any of them waits for the others [s].

    Raises:
        ValueError, RuntimeError: as `environment` and `join`.
    """
    if not dist.is_initialized():
        found = environment()
        if found is None or found.world == 1:
            return Job()
        join(found, timeout)
        atexit.register(leave)
    if dist.get_world_size() == 1:
        return Job()
    if dist.get_rank() > 0:
        join_as_other()
    return Ranks(Talk(timeout), agree)


def leave() -> None:
    """Take the process groups down: they must not outlive the interpreter."""
    if dist.is_initialized():
        dist.destroy_process_group()


def join(found: Environment, timeout: float) -> None:
    """Join the processes of a job: make the default process group of torch, and choose this process's CUDA device.

    torchrun keeps one store over its restarts, with the addresses of processes that are gone in it; each try here has
    a part of it for itself.

    Args:
        found: which process this is.
        timeout: how long any of them waits for the others [s].

    Raises:
        RuntimeError: if the others are not found, or the port is in use.
    """
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(found.local_rank)
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    wait = timedelta(seconds=timeout)
    try:
        server = TCPStore(found.host, found.port, is_master=found.rank == 0 and not is_agents, timeout=wait)
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"the processes of a job must find each other at {found.host}:{found.port}, but {error}; if the port is in "
            f"use by another job, do `torchrun --rdzv-endpoint=localhost:0`, or set another MASTER_PORT."
        ) from error
    store = PrefixStore(f"try-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", server)
    dist.init_process_group(
        "nccl" if has_cuda else "gloo", store=store, rank=found.rank, world_size=found.world, timeout=wait
    )
