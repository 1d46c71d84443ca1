"""Bring model, optimizer state and batches to one device."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from learner import Callback, Learner, LearnerError
from learner.data.moving import mapped, tensors_of, to_device
from learner.data.read_ahead import ReadAhead
from learner.data.rounds import RoundsLoader
from learner.optim.several import parts_of, replace_parameters


class DeviceCallback(Callback):
    """Move the model and each batch to a device, cuda, mps or cpu if none is named.

    What is there already stays the same object. In a batch, tensors are found in any nest of tuples, lists,
    mappings, named tuples and dataclasses; other objects with a `.to` are moved by that. A loss function with
    weights moves too, and so does what an optimizer remembers of earlier fits.

    Copies to cuda are asynchronous: a tensor of pageable memory is pinned first, one that the loader pinned is
    read while the host goes on, so a loader must not write into a pinned batch again.

    With `prefetch=1` the next batch is fetched and copied to cuda, by a stream of its own, while this one is worked on.
    Order, errors and what a checkpoint goes on with are as without, also for a loader with a state of its own and for
    the rounds of `EpochLengthCallback`. It pays where copies take time and the loader pins its batches
    (`pin_memory=True`). On other devices copies are not asynchronous: nothing is fetched ahead there, at no cost.

    Args:
        device: anything `torch.device` takes.
        prefetch: how many batches to copy ahead, each of which takes memory there; None for none.
        channels_last: have the weights of convolutions over pictures, and all tensors of four axes in a batch, in the
            memory format in which such layers are fastest on cuda, mostly in half precision. The model stays so after
            the fit; values are the same, results of a step to rounding.

    Reads: model, loss_f, opt, batch, dl.
    Writes: batch; dl, where batches are copied ahead.

    Raises:
        TypeError, ValueError: if this machine has no such device, or an argument is of the wrong kind or out of range.
        LearnerError: at the start of a fit, if `channels_last` is asked for a model without a weight of four axes.

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

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        *,
        prefetch: int | None = None,
        channels_last: bool = False,
    ) -> None:
        self.device = _checked_device(_best_device() if device is None else device)
        self.prefetch = None if prefetch is None else _checked_prefetch(prefetch)
        if not isinstance(channels_last, bool):
            raise TypeError(f"`channels_last` must be True or False, got {channels_last!r}.")
        self.channels_last = channels_last
        # One for all passes, for memory that a stream has freed is only used again by itself.
        self._copies = None if prefetch is None else copies_to(self.device, self._moved)

    def before_fit(self, learn: Learner) -> None:
        """Move the model, and what the optimizer remembers."""
        if self.channels_last and all(p.ndim != 4 for p in learn.model.parameters()):
            raise LearnerError(
                "`channels_last` must be asked for a model of pictures, got one without a weight of four axes, which "
                "nn.Conv2d has; leave it out."
            )
        self._move_modules(learn)
        if learn.opt is not None:
            self._move_state(learn.opt)

    def before_epoch(self, learn: Learner) -> None:
        """Make sure of the model, for passes outside a fit have no `before_fit`; read ahead."""
        self._move_modules(learn)
        if self._copies is not None:
            if isinstance(learn.dl, RoundsLoader) and learn.dl.goes_on:
                learn.dl.read = self._read_ahead  # within: a batch that was fetched is the first one of the next round
            else:
                learn.dl = self._read_ahead(learn.dl)

    def before_batch(self, learn: Learner) -> None:
        """Move the batch."""
        batch = learn.batch
        if type(batch) is tuple and len(batch) == 2 and not self.channels_last:  # nearly every batch there is
            x, y = batch
            if type(x) is Tensor and type(y) is Tensor and x.device == self.device and y.device == self.device:
                return
        learn.batch = self._moved(batch)

    def _moved(self, batch: Any) -> Any:
        batch = to_device(batch, self.device)
        return _in_channels_last(batch) if self.channels_last else batch

    def _read_ahead(self, loader: Any) -> ReadAhead:
        copies: Any = self._copies  # there where this is called
        return ReadAhead(loader, copies.begin, copies.finish, self.prefetch or 1)

    def _move_modules(self, learn: Learner) -> None:
        for module in (learn.model, learn.loss_f):
            if not isinstance(module, nn.Module):
                continue
            if self.channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # strides alone change
            if all(tensor.device == self.device for tensor in chain(module.parameters(), module.buffers())):
                continue
            old = [p for _, p in module.named_parameters(remove_duplicate=False)]
            module.to(self.device)
            new = [p for _, p in module.named_parameters(remove_duplicate=False)]
            for opt in _optimizers(learn):
                # For some devices and settings of torch, `Module.to` makes new parameters.
                replace_parameters(opt, dict(zip(old, new, strict=True)))
                self._move_state(opt)

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


class CudaCopies:
    """Copies of batches to cuda by a stream of their own, beside the computation.

    Args:
        device: where to.
        move: returns a batch as it is to be there.
    """

    def __init__(self, device: torch.device, move: Callable[[Any], Any]) -> None:
        self._device, self._move = device, move
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, batch: Any) -> tuple[Any, Any]:
        """Begin to copy a batch; return what `finish` takes."""
        # What was computed so far may still read memory that this stream has had before, and now takes again.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            moved = self._move(batch)
            return moved, self._stream.record_event()

    def finish(self, begun: tuple[Any, Any]) -> Any:
        """Return a batch; what is computed from now on waits for its copy, and the host does not."""
        moved, has_come = begun
        current = torch.cuda.current_stream(self._device)
        current.wait_event(has_come)
        for tensor in tensors_of(moved):
            if tensor.is_cuda:
                tensor.record_stream(current)
        return moved


def copies_to(device: torch.device, move: Callable[[Any], Any]) -> Any:
    """Return what copies batches to a device beside the computation; None where that cannot be."""
    return CudaCopies(device, move) if device.type == "cuda" else None


def _in_channels_last(value: Any) -> Any:
    """Return a nest of containers with its tensors of four axes in another memory format."""
    if isinstance(value, Tensor):
        return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
    return mapped(value, _in_channels_last)


def _checked_prefetch(prefetch: Any) -> int:
    problem = f"`prefetch` must be a whole number of batches, at least 1, got {prefetch!r}; leave it out for none."
    try:
        n = operator.index(prefetch)
    except TypeError:
        raise TypeError(problem) from None
    if n < 1 or isinstance(prefetch, bool):
        raise ValueError(problem)
    return n


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
