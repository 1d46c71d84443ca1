"""Put saved tensors into a model without a second copy of it: the two exchange their values, one tensor at a time.

To be able to undo a loading, one would copy the model first, and hold two copies beside it: that and what was read. So
what was read takes what the model had, until it is clear that all went well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from learner.interrogate.layers import inside

Pair = tuple[Tensor, Tensor]  # of a model, and as it was saved


def pairs_of(model: nn.Module, saved: Mapping[str, Any]) -> list[Pair]:
    """Return the tensors of a model that can exchange values with saved ones, each with the saved one.

    Args:
        model: the model.
        saved: of `model_state`; its tensors must be no other model's own.
    """
    inner = inside(model)
    values = {**saved["other_buffers"], **saved["state"]}
    pairs, taken = [], set()
    for name, tensor in (*inner.named_parameters(), *inner.named_buffers()):
        value = values.get(name)
        if isinstance(value, Tensor) and id(value) not in taken and _is_alike(tensor, value):
            taken.add(id(value))
            pairs.append((tensor, value))
    return pairs


def _is_alike(tensor: Tensor, value: Tensor) -> bool:
    """Tell whether each can hold exactly what the other one does; of a class of its own, nobody knows."""
    if type(tensor) not in (Tensor, nn.Parameter) or is_lazy(tensor):
        return False
    is_expanded = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return tensor.dtype == value.dtype and tensor.shape == value.shape and not is_expanded


def with_own_tensors(saved: Mapping[str, Any], pairs: Iterable[Pair]) -> dict[str, Any]:
    """Return what `model_state` gave, with the model's own tensor in the place of each that it exchanges with."""
    own = {id(value): tensor for tensor, value in pairs}
    parts = {
        part: {name: own.get(id(value), value) for name, value in saved[part].items()}
        for part in ("state", "other_buffers")
    }
    return {**saved, **parts}


@contextmanager
def exchanged(pairs: Sequence[Pair]) -> Iterator[None]:
    """Exchange values within. An error exchanges them back; else the saved tensors are then what they were as well."""
    done: list[Pair] = []
    try:
        for pair in pairs:
            _exchange(*pair)
            done.append(pair)
        yield
    except BaseException:
        for pair in reversed(done):
            _exchange(*pair)
        raise
    with torch.no_grad():
        for tensor, value in pairs:
            value.copy_(tensor)


def _exchange(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        former = tensor.detach().to(value.device, copy=True)
        tensor.copy_(value)
        value.copy_(former)
