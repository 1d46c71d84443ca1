"""Store the state before a batch, cheaply enough to do it for each batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner import Learner


class Rewind:
    """The state before a batch, of all that a forward pass changes: random generators, buffers and the model's input.

    Weights are left out: they change only in the optimizer step, and the fit ends before a step with a bad loss.

    Attributes:
        rng: the states of the random generators.
        xb: the model's input.
        loss: returns the value of the batch's loss, which is being copied from the device; None if nothing is.
        is_second_run: whether the batch runs again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._generators = model, _generators(model)
        self.rng: list[Tensor] = []
        self.xb: Any = None
        self.loss: Callable[[], float] | None = None
        self.is_second_run = False
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        """Copy all buffers, and note which module holds each under which name."""
        tables = [module._buffers for module in self._model.modules()]
        found = [(table, name, buffer) for table in tables for name, buffer in table.items() if buffer is not None]
        self._places = [place for place in found if not is_lazy(place[2])]
        self._has_lazy = len(self._places) < len(found)
        self._buffers = [buffer.detach() for _, _, buffer in self._places]
        self._copies = [buffer.clone() for buffer in self._buffers]

    def keep(self, learn: Learner) -> None:
        """Store the state before a batch."""
        self.xb, self.loss = learn.xb, None
        self.rng = [generator.get_state() for generator in self._generators.values()]
        if not self._places and not self._has_lazy:
            return
        # A forward pass may assign another tensor to a buffer.
        if self._has_lazy or any(table.get(name) is not buffer for table, name, buffer in self._places):
            self._copy_buffers()
        else:
            torch._foreach_copy_(self._copies, self._buffers)

    def restore(self, learn: Learner) -> None:
        """Restore the model's input and the random generators."""
        learn.xb = self.xb
        for generator, state in zip(self._generators.values(), self.rng, strict=True):
            generator.set_state(state)

    def restore_buffers(self) -> None:
        """Restore the buffers: the same tensors, with their former values."""
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
