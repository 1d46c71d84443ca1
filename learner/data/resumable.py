"""All loaders of a training, each with what it takes for its passes to begin anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.data.position import ResumableLoader


class ResumableLoaders:
    """Loaders by name, each with the seed of its order or a state of its own.

    Args:
        seeds: of loaders, by name; for others, as `ResumableLoader` finds it.
        states: of loaders with a state of their own, given to each when it is first asked for.

    Attributes:
        states: those that no loader was given yet.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loaders = ResumableLoaders(seeds={"train": 0})
        >>> dl = DataLoader(range(6), batch_size=2, shuffle=True)
        >>> [batch.tolist() for batch in loaders.get("train", dl).at(epoch=0, start=2)]
        [[5, 0]]
        >>> loaders.state_dict()
        {'seeds': {'train': 0}, 'states': {}}
    """

    def __init__(self, seeds: Mapping[str, int] | None = None, states: Mapping[str, Any] | None = None) -> None:
        self.states = dict(states or {})
        self._seeds = dict(seeds or {})
        self._resumable: dict[str, ResumableLoader] = {}

    def get(self, name: str, loader: Any) -> ResumableLoader:
        """Return a loader whose passes can begin anywhere; let it go on from its state, if there is one."""
        if name not in self._resumable or self._resumable[name].loader is not loader:
            resumable = self._resumable[name] = ResumableLoader(name, loader, self._seeds.get(name))
            self._seeds[name] = resumable.seed
            if name in self.states:
                resumable.stateful.load_state_dict(self.states.pop(name))
        return self._resumable[name]

    def agree_on(self, seeds: Mapping[str, int]) -> None:
        """Take seeds that other processes have, too, for loaders that have none yet."""
        self._seeds = {**seeds, **self._seeds}

    def state_dict(self) -> dict[str, Any]:
        """Return the seeds, and the states of loaders that have one, as arguments of a new object."""
        states = {name: one.state_dict() for name, one in self._resumable.items() if one.stateful is not None}
        return {"seeds": dict(self._seeds), "states": {**self.states, **states}}
