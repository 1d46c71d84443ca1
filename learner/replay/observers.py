"""Let callbacks that only observe be other ones in a replay than they were in the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from learner.checkpoint.callback_state import callback_differences, only_observes, stateful
from learner.checkpoint.resume import callbacks_of
from learner.errors import LearnerError
from learner.loop.types import Learner


def require_trained_ones(learn: Learner, state: dict[str, Any]) -> None:
    """Refuse other callbacks than those that trained; those that only observe may be there or not.

    Raises:
        LearnerError: if there are others.
    """
    saved = state["fit"]["callbacks"]
    mine = Counter(type(cb).__name__ for cb in learn.cbs if not only_observes(cb))
    theirs = Counter(saved["all"]) - Counter(saved["observing"])
    if mine != theirs:
        found = [f"without {name}" for name in (theirs - mine).elements()]
        found += [f"with {name}" for name in (mine - theirs).elements()]
        raise LearnerError(
            f"the learner must have the callbacks that trained, but it is {', '.join(found)}; pass what is missing by "
            f"`cbs=`, and add what is to look on within the block, by `with learn.added(cb)`. A callback of your own "
            f"that changes nothing of the training says so by `is_observer = True`."
        )


def with_own_observers(learn: Learner, state: Mapping[str, Any]) -> tuple[dict[str, Any], set[int]]:
    """Return the state of a fit for a learner that has other observers, and the `id` of each that begins anew.

    Those that are made as they were go on with what they kept.
    """
    learn._set_callbacks(list(learn.cbs))  # `every` and the like may have been set since they were added
    mine, saved = stateful(learn), state["callbacks"]
    observers = {name: cb for name, cb in mine.items() if only_observes(cb)}
    known = {name: cb for name, cb in observers.items() if name in saved}
    alike = {name for name, cb in known.items() if not any(callback_differences({name: cb}, saved))}
    gone = {*state["observing"], *observers} - alike
    fit, paces = state["fit"], _paces(learn, state)
    own = {
        **state,
        "callbacks": {name: kept for name, kept in saved.items() if name not in gone},
        "devices": {name: found for name, found in state["devices"].items() if name not in gone},
        "fit": fit if paces is None else {**fit, "callbacks": callbacks_of(learn), "paces": paces},
    }
    return own, {id(cb) for name, cb in observers.items() if name not in alike}


def _paces(learn: Learner, state: Mapping[str, Any]) -> list[dict[str, float]] | None:
    """Return how far those callbacks are that are called every so often; None if those that trained are others."""
    fit = state["fit"]
    saved, by_id = fit["callbacks"], {id(cb): cb for cb in learn.cbs}
    gates = list(zip(callbacks_of(learn)["some"], learn._dispatch.gates.items(), strict=True))
    mine = [words for words, (key, _) in gates if not only_observes(by_id[key])]
    if mine != [words for words in saved["some"] if words.split(" every ")[0] not in saved["observing"]]:
        return None
    known = dict(zip(saved["some"], fit["paces"], strict=True))
    found = []
    for words, (_, gate) in gates:
        gate.pace.restart(state["loop"]["n_steps"])
        found.append(known.get(words, gate.pace.state_dict()))
    return found
