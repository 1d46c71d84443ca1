"""Bring model, optimizer state and batches to one device."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from learner import Callback, Learner
from learner.data.moving import to_device
from learner.optim.several import parts_of


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

    def before_fit(self, learn: Learner) -> None:
        """Move the model, and what the optimizer remembers."""
        self._move_modules(learn)
        for opt in _optimizers(learn):
            self._move_state(opt)

    def before_epoch(self, learn: Learner) -> None:
        """Make sure of the model: passes outside a fit have no `before_fit`."""
        self._move_modules(learn)

    def before_batch(self, learn: Learner) -> None:
        """Move the batch."""
        batch = learn.batch
        if type(batch) is tuple and len(batch) == 2:  # nearly every batch there is, often where it should be
            x, y = batch
            if type(x) is Tensor and type(y) is Tensor and x.device == self.device and y.device == self.device:
                return
        learn.batch = to_device(batch, self.device)

    def _move_modules(self, learn: Learner) -> None:
        for module in (learn.model, learn.loss_f):
            if not isinstance(module, nn.Module):
                continue
            if all(tensor.device == self.device for tensor in chain(module.parameters(), module.buffers())):
                continue
            old = [p for _, p in module.named_parameters(remove_duplicate=False)]
            module.to(self.device)
            new = [p for _, p in module.named_parameters(remove_duplicate=False)]
            for opt in _optimizers(learn):
                self._replace_parameters(opt, dict(zip(old, new, strict=True)))
                self._move_state(opt)

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
                            opt.state[p][key] = to_device(value, self.device)


def _optimizers(learn: Learner) -> list[torch.optim.Optimizer]:
    return [] if learn.opt is None else parts_of(learn.opt)


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
