"""What several processes hold each for itself, in the one file that the first of them writes.

All of them hold the same model, optimizer and counters. Of what differs a checkpoint has, under `ranks`, what each of
them holds, and in the usual places what one process would hold. So a fit goes on with as many processes bit for bit,
and with any other number, where the first takes over what was measured so far, and the others begin with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.checkpoint.callback_state import stateful
from learner.checkpoint.plain import plain
from learner.checkpoint.rng import put_back_rng, rng_state
from learner.data.seeding import position_seed, seed_generators
from learner.history import Averages
from learner.loop.types import Learner
from learner.ranks.job import Job


def with_all_ranks(learn: Learner, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a fit with what all processes hold; the same one where there is one process.

    Args:
        learn: the learner, in this process.
        state: of `fit_state`, of this process.
    """
    if learn.job.world == 1:
        return state
    own_callbacks = {name: cb for name, cb in stateful(learn).items() if hasattr(cb, "join_states")}
    mine = {
        "rng": state["rng"],
        "rng_of_pass": state["fit"]["rng"],
        "averages": state["fit"]["averages"],
        "callbacks": {name: state["callbacks"][name] for name in own_callbacks},
    }
    ranks = learn.job.gather(plain(mine), at="a checkpoint")
    joined = {name: cb.join_states([one["callbacks"][name] for one in ranks]) for name, cb in own_callbacks.items()}
    return {
        **state,
        "callbacks": {**state["callbacks"], **joined},
        "fit": {**state["fit"], "averages": _joined_averages([one["averages"] for one in ranks])},
        "ranks": ranks,
    }


def _joined_averages(states: list[dict[str, Any]]) -> dict[str, Any]:
    every = []
    for state in states:
        averages = Averages()
        averages.load_state_dict(state)
        every.append(averages.totals())
    return Averages.joined(every).state_dict()


def of_this_rank(learn: Learner, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a fit as this process goes on from it, whichever number of processes has written it."""
    job, ranks = learn.job, state.get("ranks", [])
    if "fit" not in state or (job.world == 1 and not ranks):
        return state
    if len(ranks) == job.world:
        own = ranks[job.rank]
    elif job.is_first:
        return state
    else:
        rng = _own_rng(learn, job, state["loop"]["n_samples"])
        saved = state["callbacks"]
        keeping = {name: cb for name, cb in stateful(learn).items() if hasattr(cb, "empty_state") and name in saved}
        empty = {name: cb.empty_state(saved[name]) for name, cb in keeping.items()}
        own = {"rng": rng, "rng_of_pass": rng, "averages": {}, "callbacks": empty}
    return {
        **state,
        "rng": own["rng"],
        "callbacks": {**state["callbacks"], **own["callbacks"]},
        "fit": {**state["fit"], "rng": own["rng_of_pass"], "averages": own["averages"]},
    }


def _own_rng(learn: Learner, job: Job, position: int) -> dict[str, Any]:
    """Return random generators for a process that has none in the file: others than those of each other process."""
    now = rng_state(learn)
    seed_generators(position_seed(position, "rank", job.rank))
    try:
        return rng_state(learn)
    finally:
        put_back_rng(learn, now)
