"""The random generators that a training draws from, as plain data, and back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from learner.data.generators import generators_of
from learner.data.loaders import Loaders
from learner.loop.types import Learner


def rng_state(learn: Learner) -> dict[str, Any]:
    """Return the state of Python's, NumPy's, torch's and the loaders' generators, as plain data."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "python": [version, torch.tensor(internal), gauss],  # 625 numbers, which are dear to write one by one
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "loaders": {
            name: [generator.get_state() for generator in generators_of(loader)]
            for name, loader in Loaders.of(learn.dls).items()
        },
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def put_back_rng(learn: Learner, saved: Mapping[str, Any]) -> None:
    """Take over what `rng_state` gave."""
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    kind, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(saved["torch"])
    for name, loader in Loaders.of(learn.dls).items():
        for generator, state in zip(generators_of(loader), saved["loaders"].get(name, []), strict=False):
            generator.set_state(state)
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"][: torch.cuda.device_count()])
    if "mps" in saved and torch.backends.mps.is_available():
        torch.mps.set_rng_state(saved["mps"])


def is_generator(value: Any) -> bool:
    """Tell whether a value is a random generator of torch, NumPy or Python."""
    return isinstance(value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState)


def generator_state(generator: Any) -> Any:
    """Return the state of a generator as plain data."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        version, internal, gauss = generator.getstate()
        return [version, torch.tensor(internal), gauss]
    if isinstance(generator, np.random.RandomState):
        return _numpy_state_to_plain(generator.get_state(legacy=False))
    return _numpy_state_to_plain(generator.bit_generator.state)


def put_back_generator(generator: Any, state: Any) -> None:
    """Take over what `generator_state` gave, in the generator itself, since others may hold it too."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, random.Random):
        version, internal, gauss = state
        generator.setstate((version, tuple(internal.tolist()), gauss))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_numpy_state_of_plain(state))
    else:
        generator.bit_generator.state = _numpy_state_of_plain(state)


def _numpy_state_to_plain(state: Any) -> Any:
    """Return a nest with arrays as tensors; those of unsigned numbers have a name of their own in torch."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.copy())
    if isinstance(state, dict):
        return {key: _numpy_state_to_plain(value) for key, value in state.items()}
    return state.item() if isinstance(state, np.generic) else state


def _numpy_state_of_plain(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.numpy()
    return {key: _numpy_state_of_plain(value) for key, value in state.items()} if isinstance(state, dict) else state
