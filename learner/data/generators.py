"""Random generators: find those that a loader owns, and put all of them back after a pass that only looks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from learner.data.zipped import ZippedLoader


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the random generators that a loader owns, its samplers' included, each once; and those of its parts."""
    found: dict[int, torch.Generator] = {}
    parts = loader.loaders.values() if isinstance(loader, ZippedLoader) else ()
    places = [loader, *(generator for part in parts for generator in generators_of(part))]
    for name in ("sampler", "batch_sampler"):
        inner = getattr(loader, name, None)
        places += [inner, getattr(inner, "sampler", None)]
    for place in places:
        generator = place if isinstance(place, torch.Generator) else getattr(place, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())


def remember_rng(loaders: Iterable[Any] = ()) -> Callable[[], None]:
    """Take down the state of Python's, NumPy's, torch's and the loaders' generators; return what puts it back."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    own = [(generator, generator.get_state()) for loader in loaders for generator in generators_of(loader)]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for generator, state in own:
            generator.set_state(state)

    return restore


@contextmanager
def preserved_rng(loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Put every random generator back at the end, however the block ends."""
    restore = remember_rng(loaders)
    try:
        yield
    finally:
        restore()
