"""Rounds of so many batches, where a pass over the data is too long, or never ends."""

from __future__ import annotations

import operator
from typing import Any

from learner import Callback, Learner, Loaders
from learner.data.loaders import role_of
from learner.data.rounds import RoundsLoader


class EpochLengthCallback(Callback):
    """Let an epoch have `n` batches of a loader, however many it has.

    A training loader goes on where the last epoch stopped, over the end of the data and from fit to fit, so nothing is
    left out and nothing comes twice as often; an endless one as well. Any other loader gives its first `n` batches in
    each epoch, or all of them if there are fewer: what is compared has to be measured on the same. So "validate every
    500 batches on 20" is `EpochLengthCallback(train=500, valid=20)`, and each validation is a row of the history.

    With a `CheckpointCallback` order and position are on record, and a fit goes on exactly, as with whole passes.

    Args:
        n: by the loader's name: batches in each epoch, a whole number of at least 1. Loaders that are not named stay as
            they are.

    Reads: in_sandbox, is_resumed.

    Writes: dls, for the length of a fit.

    Raises:
        TypeError, ValueError: if a number is none, or less than 1; at the start of a fit, if there is no such loader.
        LearnerError: if a training loader that should go on gives nothing more.

    Example:
        >>> import torch
        >>> x = torch.randn(60, 1)
        >>> dls = Loaders.from_arrays(train=(x, 2 * x), valid=(x, 2 * x), batch_size=10)
        >>> learn = Learner(torch.nn.Linear(1, 1), dls, torch.nn.functional.mse_loss)
        >>> learn.fit(3, cbs=EpochLengthCallback(train=4, valid=1))
        >>> learn.n_steps, len(learn.history)
        (12, 3)
    """

    order = -1010  # before anyone looks at loaders

    def __init__(self, **n: int) -> None:
        if not n:
            raise TypeError("`EpochLengthCallback` must be told how many batches, got nothing; do train=500.")
        self.n = {name: _checked(name, value) for name, value in n.items()}
        self._rounds: dict[str, RoundsLoader] = {}
        self._whole: Loaders | None = None  # there while a fit runs
        self._positions: dict[str, list[int]] = {}  # put back when there are loaders

    def before_fit(self, learn: Learner) -> None:
        """Put rounds in the place of the loaders."""
        if not learn.n_samples:  # a learner that has not trained begins with the beginning
            self._rounds, self._positions = {}, {}
        dls = Loaders.of(learn.dls)
        if unknown := [name for name in self.n if name not in dls]:
            raise ValueError(f"`{unknown[0]}` must be the name of a loader, one of {list(dls)}; leave it out.")
        rounds = {name: self._rounds_of(name, dls[name], is_tried_out=learn.in_sandbox) for name in self.n}
        if learn.is_resumed or not learn.in_sandbox:  # what is only tried out leaves the next fit where it is
            self._rounds = rounds
        self._put_back_positions()
        self._whole, learn.dls = dls, Loaders({**dls, **rounds})  # last: where this fails, nothing is put back

    def cleanup_fit(self, learn: Learner) -> None:
        """Put the whole loaders back."""
        learn.dls, self._whole = self._whole, None  # type: ignore[assignment]  # `before_fit` has put them there

    def state_dict(self) -> dict[str, Any]:
        """Return how far each training loader is."""
        positions = {name: [one.n_passes, one.n_read] for name, one in self._rounds.items() if one.goes_on}
        return {"n": dict(self.n), "positions": {**self._positions, **positions}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._positions = dict(state["positions"])
        self._put_back_positions()

    def differences(self, state: dict[str, Any]) -> list[str]:
        """Say whether the epochs of a checkpoint have another length."""
        return [] if self.n == state["n"] else [f"the lengths of epochs are {self.n} here, {state['n']} saved"]

    def _rounds_of(self, name: str, loader: Any, *, is_tried_out: bool) -> RoundsLoader:
        """Return the rounds of a loader: those of the last fit, to go on with, or new ones."""
        last = self._rounds.get(name)
        if last is not None and last.loader is loader and last.n == self.n[name] and not is_tried_out:
            return last
        return RoundsLoader(loader, self.n[name], goes_on=role_of(name) == "train")

    def _put_back_positions(self) -> None:
        for name in self._positions.keys() & self._rounds.keys():
            self._rounds[name].set_position(*self._positions.pop(name))


def _checked(name: str, n: Any) -> int:
    role_of(name)
    problem = f"`{name}` must be a whole number of batches, at least 1, got {n!r}; do 500."
    try:
        if isinstance(n, bool):
            raise TypeError
        n = operator.index(n)
    except TypeError:
        raise TypeError(problem) from None
    if n < 1:
        raise ValueError(problem)
    return int(n)
