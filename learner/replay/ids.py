"""Which samples a training batch holds that a replay goes through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from learner.data.batch import fields_of
from learner.data.position import ResumableLoader, SkipLoader
from learner.data.read_ahead import ReadAhead
from learner.data.rounds import RoundsLoader
from learner.data.zipped import ZippedLoader
from learner.errors import LearnerError
from learner.loop.types import Learner
from learner.records.ids import SampleIds, as_numbers, why_not_known

_NAMES = "the sampler hands out names or tuples, not the numbers of samples"
Ids = np.ndarray | dict[str, Any]  # of loaders side by side those of each, by name


class BatchIds:
    """Know which samples the batches of a training pass hold: begin with the pass, ask when a batch is there.

    They are those that the samples name themselves, those that the sampler is heard to hand out, or, of loaders side by
    side and of rounds, those that it hands out at this position.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._heard: SampleIds | None = None
        self._loader: Any = None

    def begin_pass(self, learn: Learner) -> None:
        """Listen to the sampler of a pass that begins."""
        self._loader = learn.dl.loader if isinstance(learn.dl, ReadAhead) else learn.dl
        try:
            self._heard = self._stack.enter_context(SampleIds(learn.dl, learn.i))
        except ValueError:  # it cannot tell
            self._heard = None

    def end_pass(self) -> None:
        """Listen no longer."""
        self._stack.close()

    def of_batch(self, learn: Learner) -> Callable[[], Ids | None]:
        """Return what tells, now or later, which samples the present batch holds; None for nobody knows."""
        if (named := _named_by_itself(learn.batch)) is not None:
            return lambda: named
        if self._heard is not None:
            try:
                heard = self._heard.of_batch(learn.i)
            except LearnerError:
                return _nobody
            return lambda: heard
        resumable, place = self._place(learn.i)
        return _nobody if resumable is None else partial(_at_place, resumable, *place)

    def why_not(self, learn: Learner) -> str:
        """Say why nobody knows which samples the batches of this pass hold."""
        return _NAMES if self._heard is not None else _why_not(self._loader)

    def _place(self, i: int) -> tuple[ResumableLoader | None, tuple[int, int]]:
        """Return what gives the batches of this pass, and the pass over the data and the batch of it that `i` is."""
        resumable = getattr(self._loader, "resumable", None)
        if not isinstance(resumable, ResumableLoader):
            return None, (0, 0)
        if isinstance(self._loader, RoundsLoader) and self._loader.goes_on:
            return resumable, (self._loader.n_passes, self._loader.n_read - 1)
        return resumable, (resumable.epoch, i)


def _why_not(loader: Any) -> str:
    while isinstance(loader, RoundsLoader | SkipLoader) or isinstance(getattr(loader, "loader", None), ZippedLoader):
        loader = loader.loader
    parts = loader.loaders.values() if isinstance(loader, ZippedLoader) else [loader]
    return next(filter(None, map(why_not_known, parts)), _NAMES)


def _nobody() -> None:
    return None


def _named_by_itself(batch: Any) -> np.ndarray | None:
    given = (fields_of(batch) or {}).get("example_id")
    return None if given is None else np.asarray(given.cpu() if isinstance(given, Tensor) else given)


def _at_place(resumable: ResumableLoader, epoch: int, i: int) -> Ids | None:
    found: Ids | None = _numbers(resumable.samples(epoch, i))
    return found


def _numbers(samples: Any) -> Any:
    if isinstance(samples, dict):
        found = {name: _numbers(one) for name, one in samples.items()}
        return None if all(one is None for one in found.values()) else found
    return None if samples is None else as_numbers(samples)
