"""Several loaders side by side: a batch of each at once, as of labelled and unlabelled data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from learner.data.wrapper import Source, length_of
from learner.errors import LearnerError

_MANY = 2**20  # passes over a loader beside one of unknown length, so that no two have one number


class ZippedLoader:
    """Batches of several loaders at once, as a mapping of names to batches.

    A pass is as long as the longest loader, or as the one that has no length. The others begin again when they have
    ended, in a new order if they are shuffled; each pass begins all of them anew.

    Args:
        loaders: by name, each an iterable of batches.

    Raises:
        TypeError: if one is no loader.
        ValueError: if there are less than two, or more than one has no length.
        LearnerError: in a pass, if a loader gives nothing when it begins again.

    Example:
        >>> loader = ZippedLoader({"labelled": [1, 2], "unlabelled": ["a", "b", "c"]})
        >>> len(loader), list(loader)[-1]
        (3, {'labelled': 1, 'unlabelled': 'c'})
    """

    def __init__(self, loaders: Mapping[str, Any]) -> None:
        self.loaders = dict(loaders)
        for name, loader in self.loaders.items():
            if isinstance(loader, str | type) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
                raise TypeError(
                    f"`{name}` must be a loader to be zipped, got {loader!r}; each keyword is the name of one."
                )
        if len(self.loaders) < 2:
            raise ValueError(
                f"`zipped` must get two loaders or more, got {list(loaders)}; a single one goes in as it is."
            )
        endless = [name for name, loader in self.loaders.items() if length_of(loader) is None]
        if len(endless) > 1:
            raise ValueError(f"`zipped` must get at most one loader without a length, got {endless}; cut the others.")
        self._leader = endless[0] if endless else max(self.loaders, key=lambda name: len(self.loaders[name]))

    def __len__(self) -> int:
        return len(self.loaders[self._leader])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.at({name: _FromTheBeginning(loader) for name, loader in self.loaders.items()}, 0, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.loaders)})"

    def at(self, sources: Mapping[str, Source], epoch: int, start: int) -> Iterator[dict[str, Any]]:
        """Return an iterator over the rest of a pass, of batches that come from these sources."""
        leading = iter(sources[self._leader].at(epoch, start))
        following = {n: self._cycle(n, source, epoch, start) for n, source in sources.items() if n != self._leader}
        return self._zip(leading, following)

    def places(self, epoch: int, i: int) -> dict[str, tuple[int, int]]:
        """Return for each loader of which of its passes and batches a batch is made.

        Example:
            >>> ZippedLoader({"labelled": [1, 2], "unlabelled": ["a", "b", "c"]}).places(epoch=1, i=2)
            {'labelled': (3, 0), 'unlabelled': (1, 2)}
        """
        return {n: (epoch, i) if n == self._leader else self._place(n, epoch, i) for n in self.loaders}

    def _place(self, name: str, epoch: int, i: int) -> tuple[int, int]:
        """Return which pass over a loader that follows, counted over all epochs, and which batch of it."""
        length, longest = max(1, len(self.loaders[name])), length_of(self.loaders[self._leader])
        n_passes = _MANY if longest is None else math.ceil(longest / length)
        n_done, i = divmod(i, length)
        return epoch * n_passes + n_done, i

    def _zip(self, leading: Iterator[Any], following: Mapping[str, Iterator[Any]]) -> Iterator[dict[str, Any]]:
        for batch in leading:
            yield {name: batch if name == self._leader else next(following[name]) for name in self.loaders}

    def _cycle(self, name: str, source: Source, epoch: int, start: int) -> Iterator[Any]:
        number, start = self._place(name, epoch, start)
        while True:
            is_empty = True
            for batch in source.at(number, start):
                is_empty = False
                yield batch
            if is_empty and not start:
                raise LearnerError(
                    f"loader {name!r} must give batches whenever it begins again, and gave none; is it empty, or an "
                    f"iterator, which is used up by one pass?"
                )
            number, start = number + 1, 0


class _FromTheBeginning:
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def at(self, epoch: int, start: int = 0) -> Any:
        return self.loader
