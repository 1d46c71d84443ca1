"""The state before a batch, put by so cheaply that it can be done for each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner import Learner


class Rewind:
    """The state before a batch, of all that a forward pass changes: random generators, buffers and what goes in.

    The weights are not among it: they change in the optimizer's step, which a bad loss never comes to.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._generators = model, _generators(model)
        self.rng: list[Tensor] = []
        self.xb: Any = None
        self.loss: Callable[[], float] | None = None  # sent for
        self.is_again = False  # whether the batch runs a second time
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        """Make copies of all buffers, and remember where they were."""
        tables = [module._buffers for module in self._model.modules()]
        found = [(table, name, buffer) for table in tables for name, buffer in table.items() if buffer is not None]
        self._places = [place for place in found if not is_lazy(place[2])]
        self._has_lazy = len(self._places) < len(found)
        self._buffers = [buffer.detach() for _, _, buffer in self._places]
        self._copies = [buffer.clone() for buffer in self._buffers]

    def keep(self, learn: Learner) -> None:
        """Put the state by."""
        self.xb, self.loss = learn.xb, None
        self.rng = [generator.get_state() for generator in self._generators.values()]
        if not self._places and not self._has_lazy:
            return
        # A forward pass may put another buffer in the place of one.
        if self._has_lazy or any(table.get(name) is not buffer for table, name, buffer in self._places):
            self._copy_buffers()
        else:
            torch._foreach_copy_(self._copies, self._buffers)

    def restore(self, learn: Learner) -> None:
        """Put what goes in and the random generators back."""
        learn.xb = self.xb
        for generator, state in zip(self._generators.values(), self.rng, strict=True):
            generator.set_state(state)

    def restore_buffers(self) -> None:
        """Put the buffers back, the same tensors in the same places."""
        for (table, name, buffer), values, old in zip(self._places, self._buffers, self._copies, strict=True):
            table[name] = buffer
            values.copy_(old)

    def rng_by_device(self) -> dict[str, Tensor]:
        """Return the states of the random generators by name."""
        return dict(zip(self._generators, self.rng, strict=True))


def _generators(model: nn.Module) -> dict[str, torch.Generator]:
    """Return torch's random generators that a forward pass may draw from, by device."""
    found = {"cpu": torch.default_generator}
    for device in {tensor.device for tensor in chain(model.parameters(), model.buffers())}:
        if device.type == "cuda":
            found[str(device)] = torch.cuda.default_generators[device.index]
        elif device.type == "mps":
            found["mps"] = torch.mps._get_default_mps_generator()
    return found
