"""What callbacks have recorded, in a file and back, and of several parts of a training as one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from learner.checkpoint.callback_state import callback_differences, callback_state, put_back_callback
from learner.checkpoint.file import read_checkpoint, write_checkpoint
from learner.checkpoint.snapshot import errors_as_one, refuse
from learner.errors import LearnerError
from learner.loop.callbacks import flattened


def save_recorded(path: str | os.PathLike[str], cbs: Any) -> None:
    """Write what callbacks keep, as in a checkpoint, to a file that `load_recorded` reads.

    Raises:
        TypeError, LearnerError: if a callback keeps what is not plain data, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from callbacks import RecorderCallback
        >>> from learner import Learner, Loaders
        >>> def make(): return RecorderCallback(loss=lambda learn: learn.loss)
        >>> dls, recorder = Loaders.from_arrays(train=([[1.0]], [[1.0]]), batch_size=1), make()
        >>> import torch
        >>> Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss, cbs=recorder).fit(2)
        >>> path = tempfile.mkdtemp() + "/recorded.pt"
        >>> save_recorded(path, recorder)
        >>> (again,) = load_recorded(path, make())
        >>> again.values == recorder.values
        True
    """
    write_checkpoint(path, {"recorded": {name: callback_state(name, cb) for name, cb in _named(cbs).items()}})


def load_recorded(path: str | os.PathLike[str], cbs: Any) -> list[Any]:
    """Give callbacks what others of the same kinds had recorded, as `python -m learner hindsight` writes it.

    Args:
        path: of `save_recorded`.
        cbs: callbacks, made as those were.

    Returns:
        The callbacks.

    Raises:
        LearnerError: if the file cannot be read, or the callbacks are not as those that recorded, with what differs.
    """
    named, state = _named(cbs), read_checkpoint(path)
    if "recorded" not in state:
        raise LearnerError(f"`{path}` must be a file of what callbacks have recorded, got one of another kind.")
    _keep(named, state["recorded"])
    return list(named.values())


def require_joinable(cbs: Sequence[Any]) -> list[Any]:
    """Return callbacks that can join what they keep of several parts.

    Raises:
        LearnerError: if there is none, or one has no `join_parts`, or nothing for it to join.
    """
    if not cbs:
        raise LearnerError("`make_cbs` must return a callback at least, got none; return `ActivationStats()`.")
    for cb in cbs:
        keeps = getattr(cb, "state", ()) or hasattr(cb, "state_dict")
        if not (keeps and hasattr(cb, "join_parts")):
            raise LearnerError(
                f"a callback must be able to join what it recorded in several parts, but {type(cb).__name__} has no "
                f"{'`join_parts(states)`' if keeps else '`state`, nor a `state_dict`'}; do it in one process, by "
                f"`learn.hindsight`."
            )
    return list(cbs)


def keep_joined(cbs: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    """Give callbacks what they have recorded in several parts.

    Args:
        cbs: callbacks that `require_joinable` has returned.
        states: what is in the file of each part, in order.

    Raises:
        LearnerError: if the callbacks were others in one of them.
    """
    named, parts = _named(cbs), [state["recorded"] for state in states]
    for part in parts:
        refuse(_differences(named, part))
    with errors_as_one():
        joined = {name: cb.join_parts([part[name] for part in parts]) for name, cb in named.items()}
    _keep(named, joined)


def _named(cbs: Any) -> dict[str, Any]:
    return {f"{type(cb).__name__} ({i})": cb for i, cb in enumerate(flattened(cbs))}


def _differences(named: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    if list(named) != list(saved):
        return [f"the callbacks are {list(named)} here, {list(saved)} saved"]
    return list(callback_differences(named, saved))


def _keep(named: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    refuse(_differences(named, saved))
    with errors_as_one():
        for name, cb in named.items():
            put_back_callback(cb, saved[name])
