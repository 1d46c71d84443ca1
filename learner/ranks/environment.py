"""Which process of a job this is, as the launcher says, and how the others are found."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

_PORTS = range(20_000, 40_000)  # of which a job of SLURM takes one by its number


class Environment(NamedTuple):
    """Which process this is.

    Attributes:
        rank, world: which of how many.
        local_rank: which of those on this machine.
        host, port: where the first one is found.
    """

    rank: int
    world: int
    local_rank: int
    host: str
    port: int


def environment(variables: Mapping[str, str] = os.environ) -> Environment | None:
    """Return what torchrun has set, or else SLURM's `srun`; None where neither has started this process.

    In a job of SLURM, but outside of `srun`, as in its batch script, there is one process.

    Raises:
        ValueError: if a variable that is needed is missing, or is no number.

    Example:
        >>> environment({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"})
        Environment(rank=1, world=2, local_rank=1, host='localhost', port=29500)
        >>> environment({"SLURM_NTASKS": "4"})
    """
    if "RANK" in variables and "WORLD_SIZE" in variables:
        rank = _number(variables, "RANK")
        local_rank = _number(variables, "LOCAL_RANK") if "LOCAL_RANK" in variables else rank
        if "MASTER_ADDR" not in variables:
            raise ValueError("`MASTER_ADDR` must be set beside `RANK`, got none; start the script by `torchrun`.")
        return Environment(
            rank,
            _number(variables, "WORLD_SIZE"),
            local_rank,
            variables["MASTER_ADDR"],
            _number(variables, "MASTER_PORT"),
        )
    if "SLURM_PROCID" in variables and variables.get("SLURM_STEP_ID", "").isdigit():
        hosts = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_JOB_NODELIST", "localhost"))
        job = _number(variables, "SLURM_JOB_ID")
        return Environment(
            _number(variables, "SLURM_PROCID"),
            _number(variables, "SLURM_NTASKS"),
            _number(variables, "SLURM_LOCALID"),
            variables.get("MASTER_ADDR", first_host(hosts)),
            _number(variables, "MASTER_PORT") if "MASTER_PORT" in variables else _PORTS[job % len(_PORTS)],
        )
    return None


def first_host(nodes: str) -> str:
    """Return the first of a list of machines as SLURM writes it.

    Example:
        >>> first_host("node[07-09,12],login"), first_host("a1,a2"), first_host("gpu[3]-ib")
        ('node07', 'a1', 'gpu3-ib')
    """
    match = re.match(r"([^\[,]*)(?:\[([^\]]*)\])?([^\[,]*)", nodes)
    before, within, after = match.groups()  # type: ignore[union-attr]  # it matches anything
    return f"{before}{re.split('[-,]', within)[0] if within else ''}{after}"


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except (KeyError, ValueError):
        raise ValueError(
            f"`{name}` must be a whole number in the environment, got {variables.get(name)!r}; start the script by "
            f"`torchrun`, or by `srun` within SLURM."
        ) from None
