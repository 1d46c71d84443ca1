"""Fetch the next batches of a loader while one is worked on, without losing the place."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from learner.data.position import ResumableLoader
from learner.data.seeding import guarded_generators, position_seed, seed_generators
from learner.data.wrapper import LoaderWrapper


class ReadAhead(LoaderWrapper):
    """A loader whose next batches are fetched, and begun to be moved, before they are asked for.

    All else is as without: batches come in order, an error of the loader comes in the place of its own batch, and a
    checkpoint has the position after the batch that was handed out. For that the state of a loader that has one is
    taken with each batch; what such a loader draws as it goes then comes from a seed that follows from the position,
    for it is drawn before the training draws for the batch before.

    Args:
        loader: any iterable of batches; attributes that are not this object's own are the loader's.
        begin: called with a batch when it is fetched, begins to move it.
        finish: called with what `begin` returned when the batch is asked for, returns the batch.
        n: how many batches are fetched ahead.

    Example:
        >>> events = []
        >>> def begin(batch):
        ...     events.append(f"begin {batch}")
        ...     return batch
        >>> def finish(batch):
        ...     events.append(f"hand out {batch}")
        ...     return batch
        >>> list(ReadAhead("ab", begin, finish))
        ['a', 'b']
        >>> events
        ['begin a', 'begin b', 'hand out a', 'hand out b']
    """

    def __init__(self, loader: Any, begin: Callable[[Any], Any], finish: Callable[[Any], Any], n: int = 1) -> None:
        super().__init__(loader)
        self.n = n
        self._begin, self._finish = begin, finish

    def __iter__(self) -> Iterator[Any]:
        # The pass begins now, as it does without this; the body of a generator would begin with the first batch.
        batches = iter(self.loader)
        resumable = getattr(self.loader, "resumable", None)
        if isinstance(resumable, ResumableLoader) and resumable.stateful is not None:
            return self._read(_with_states(batches, resumable), resumable)
        return self._read(((batch, None) for batch in batches), None)

    def _read(self, batches: Iterator[tuple[Any, Any]], resumable: ResumableLoader | None) -> Iterator[Any]:
        fetched: deque[tuple[Any, Any]] = deque()  # what `begin` returned, and the state of the loader then
        error: Exception | None = None
        has_more = True
        while True:
            while has_more and len(fetched) <= self.n:
                try:
                    batch, state = next(batches)
                except StopIteration:
                    has_more = False
                except Exception as failure:
                    error, has_more = failure, False
                else:
                    fetched.append((self._begin(batch), state))
                    del batch
            if not fetched:
                break
            begun, state = fetched.popleft()
            if resumable is not None:
                resumable.handed_out = state
            yield self._finish(begun)
            del begun
        if error is not None:
            raise error
        if resumable is not None:
            resumable.handed_out = None  # the loader itself is at the end of the pass now


def _with_states(batches: Iterator[Any], resumable: ResumableLoader) -> Iterator[tuple[Any, Any]]:
    """Yield each batch with the state of its loader after it."""
    for i in count(resumable.start):
        with guarded_generators():
            seed_generators(position_seed(resumable.seed, resumable.epoch, i, "ahead"))
            try:
                batch = next(batches)
            except StopIteration:
                return
            state = copy.deepcopy(resumable.stateful.state_dict())
        yield batch, state
