"""This process's copy of the model, inside the module of torch that exchanges gradients while they are computed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from learner import Learner

_BUFFERS = "forward_sync_buffers"  # the name of an option from torch 2.13 on
_HAS_BUFFERS = _BUFFERS in inspect.signature(DistributedDataParallel).parameters


class Replica:
    """A model in `DistributedDataParallel`, made when a forward first needs it, and anew when other parameters train.

    Args:
        broadcast_buffers: whether each forward has the buffers of the first process.
        find_unused_parameters, bucket_cap_mb: as for `DistributedDataParallel`.

    Attributes:
        finds_unused: whether parameters may be without a gradient.
    """

    def __init__(self, *, broadcast_buffers: bool, find_unused_parameters: bool, bucket_cap_mb: int) -> None:
        self._options: dict[str, Any] = {
            "find_unused_parameters": find_unused_parameters,
            "bucket_cap_mb": bucket_cap_mb,
        }
        if not broadcast_buffers:
            self._options[_BUFFERS if _HAS_BUFFERS else "broadcast_buffers"] = False
        self.finds_unused = find_unused_parameters
        self._broadcasts_buffers = broadcast_buffers
        self._ddp: DistributedDataParallel | None = None
        self._n_synced = 0  # forwards of it that prepare an exchange
        self._trained: list[int] = []

    def look_at(self, model: nn.Module) -> None:
        """See, when a pass begins, whether other parameters are trained than before."""
        trained = [id(p) for p in model.parameters() if p.requires_grad]
        if trained != self._trained:
            self.drop()
            self._trained = trained

    def exchanges_in_forward(self, model: nn.Module) -> bool:
        """Tell whether all processes have to call the next forward of training, and not the backward alone.

        The wrapper is made before the first one, and orders its exchange anew when it has seen a backward; with buffers
        each forward begins with those of the first process.
        """
        is_new = self._ddp is None or self._ddp.module is not model
        has_buffers = self._broadcasts_buffers and any(True for _ in model.buffers())
        return is_new or has_buffers or self._n_synced < 2

    def of(self, model: nn.Module, is_synced: bool = True) -> DistributedDataParallel:
        """Return a model in its wrapper; all processes call this together.

        Args:
            model: the model.
            is_synced: whether the forward that comes prepares an exchange of gradients.
        """
        if self._ddp is None or self._ddp.module is not model:
            self.drop()  # its hooks go before others come
            self._n_synced = 0
            device = next(model.parameters()).device
            ids = [device] if device.type == "cuda" else None
            self._ddp = DistributedDataParallel(model, device_ids=ids, **self._options)
        self._n_synced += is_synced
        return self._ddp

    def drop(self) -> None:
        """Leave the model alone."""
        self._ddp = None


def is_own_forward(learn: Learner) -> bool:
    """Tell whether the forward is the learner's own. Of another one nobody knows how often it calls the model."""
    owner, _ = learn._dispatch.actions.get("predict", (None, ()))
    return owner is None and type(learn).predict is Learner.predict and "predict" not in learn._by_hand


@contextmanager
def explained(model: nn.Module, who: str) -> Iterator[None]:
    """Say which parameters torch means, where it finds that some have got no gradient."""
    try:
        yield
    except RuntimeError as error:
        if "Expected to have finished reduction" in str(error):
            names = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            error.add_note(
                f"learner: no gradient has come to {', '.join(names[:5]) or 'some parameters'}; freeze what is not "
                f"used, or do `{who}(find_unused_parameters=True)`"
            )
        raise
