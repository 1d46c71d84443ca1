"""Bring model, optimizer state and batches to one device."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from learner import Callback, Learner

# CUDA takes smaller copies into a buffer of its own and returns at once, so pinning them gains nothing.
_WORTH_PINNING = 2**16  # [bytes]


class DeviceCallback(Callback):
    """Move the model and each batch to a device, cuda, mps or cpu if none is named.

    What is there already stays the same object. In a batch, tensors are found in any nest of tuples, lists,
    mappings, named tuples and dataclasses; other objects with a `.to` are moved by that. A loss function with
    weights moves too, and so does what an optimizer remembers of earlier fits.

    Copies to cuda are asynchronous: a tensor of pageable memory is pinned first, one that the loader pinned is
    read while the host goes on, so a loader must not write into a pinned batch again.

    Args:
        device: anything `torch.device` takes.

    Reads: model, loss_f, opt, batch.
    Writes: batch.

    Raises:
        ValueError: if this machine has no such device.

    Example:
        >>> from learner import Loaders
        >>> x = torch.ones(8, 3)
        >>> dls = Loaders.from_arrays(train=(x, x), batch_size=4)
        >>> learn = Learner(nn.Linear(3, 3), dls, nn.functional.mse_loss, cbs=DeviceCallback("cpu"))
        >>> learn.fit(1)
        >>> learn.model.weight.device
        device(type='cpu')
    """

    order = -100

    def __init__(self, device: torch.device | str | int | None = None) -> None:
        self.device = _checked_device(_best_device() if device is None else device)
        # On mps a copy that nobody waits for reads memory that may be gone (pytorch issues 139550, 189690),
        # and towards the cpu the host would read what has not arrived.
        self._is_async = self.device.type == "cuda"

    def before_fit(self, learn: Learner) -> None:
        """Move the model, and what the optimizer remembers."""
        self._move_modules(learn)
        if learn.opt is not None:
            self._move_state(learn.opt)

    def before_epoch(self, learn: Learner) -> None:
        """Make sure of the model: passes outside a fit have no `before_fit`."""
        self._move_modules(learn)

    def before_batch(self, learn: Learner) -> None:
        """Move the batch."""
        learn.batch = self._moved(learn.batch)

    def _move_modules(self, learn: Learner) -> None:
        for module in (learn.model, learn.loss_f):
            if not isinstance(module, nn.Module):
                continue
            if all(tensor.device == self.device for tensor in chain(module.parameters(), module.buffers())):
                continue
            old = [p for _, p in module.named_parameters(remove_duplicate=False)]
            module.to(self.device)
            new = [p for _, p in module.named_parameters(remove_duplicate=False)]
            if learn.opt is not None:
                self._replace_parameters(learn.opt, dict(zip(old, new, strict=True)))
                self._move_state(learn.opt)

    def _replace_parameters(self, opt: torch.optim.Optimizer, new: dict[Tensor, Tensor]) -> None:
        """Let an optimizer hold what `Module.to` made: for some devices and settings of torch, new parameters."""
        for group in opt.param_groups:
            group["params"] = [new.get(p, p) for p in group["params"]]
        state = {new.get(p, p): values for p, values in opt.state.items()}
        opt.state.clear()
        opt.state.update(state)

    def _move_state(self, opt: torch.optim.Optimizer) -> None:
        """Move momenta and the like to their parameters, as `Optimizer.load_state_dict` would, but cast nothing."""
        for group in opt.param_groups:
            counts_on_device = group.get("capturable") or group.get("fused")
            for p in group["params"]:
                if p.device == self.device and p in opt.state:
                    for key, value in opt.state[p].items():
                        if key != "step" or counts_on_device:
                            opt.state[p][key] = self._moved(value)

    def _moved(self, value: Any) -> Any:
        """Return a nest of containers with its tensors on the device; the same object if they were."""
        if isinstance(value, Tensor):
            return value if value.device == self.device else self._copied(value)
        if hasattr(value, "to"):
            return value.to(self.device)
        if isinstance(value, tuple | list):
            items = [self._moved(item) for item in value]
            if all(map(is_, items, value)):
                return value
            return value._make(items) if hasattr(value, "_make") else type(value)(items)
        if isinstance(value, Mapping):
            entries = {key: self._moved(item) for key, item in value.items()}
            if all(map(is_, entries.values(), value.values())):
                return value
            moved: Any = copy.copy(value)  # keeps what a subclass knows, like the factory of a defaultdict
            for key, item in entries.items():
                moved[key] = item
            return moved
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._moved_fields(value)
        return value

    def _moved_fields(self, value: Any) -> Any:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        moved = {name: self._moved(item) for name, item in fields.items()}
        if all(map(is_, moved.values(), fields.values())):
            return value
        new = copy.copy(value)  # `dataclasses.replace` would run `__init__` again, and cannot set all fields
        for name, item in moved.items():
            object.__setattr__(new, name, item)  # frozen or not
        return new

    def _copied(self, tensor: Tensor) -> Tensor:
        if not self._is_async:
            return tensor.to(self.device)
        if tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.nbytes > _WORTH_PINNING:
            tensor = tensor.pin_memory()  # the same tensor if it is pinned
        return tensor.to(self.device, non_blocking=True)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _checked_device(device: Any) -> torch.device:
    """Return a device with its index, as tensors on it have it, or say why there is none."""
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`device` must be a device of this machine, got {device!r}: {reason}; leave it out for the best there is."
        ) from None
