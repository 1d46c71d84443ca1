"""Make one row per sample of what a layer gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from learner.data.batch import batch_size_of, describe
from learner.data.signature import nearest
from learner.errors import LearnerError
from learner.interrogate.layers import Layer

Pool = str | Callable[[Any], Any]

_MASKS = ("attention_mask", "src_key_padding_mask", "key_padding_mask", "padding_mask", "mask", "lengths")
_OF_SEQUENCES = ("cls", "last", "masked_mean")


class Inputs:
    """What a model was called with: how many samples, and which positions of a sequence are padding."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.model, self._args, self._kwargs = model, args, kwargs

    @property
    def n_samples(self) -> int | None:
        """The number of samples, or None if nothing tells."""
        return batch_size_of((*self._args, *self._kwargs.values()))

    def mask(self, like: Tensor) -> Tensor:
        """Return which positions of `like` (N, T, D) are real: bool (N, T).

        Raises:
            LearnerError: if the model was given nothing that says so.
        """
        given = inspect.signature(self.model.forward).bind_partial(*self._args, **self._kwargs).arguments
        given = {**given, **given.pop("kwargs", {})}
        for name in _MASKS:
            value = given.get(name)
            if not isinstance(value, Tensor):
                continue
            if name == "lengths" and value.ndim == 1:
                value = torch.arange(like.shape[1], device=like.device) < value.to(like.device)[:, None]
            elif name.endswith("padding_mask"):
                value = value == 0 if value.dtype == torch.bool else value > -1  # True, or -inf, is padding
            if value.shape == like.shape[:2]:
                return value.to(like.device) != 0
        raise LearnerError(
            f"`pool='masked_mean'` must find a mask (N, T) among what the model is called with, as `attention_mask` (1 "
            f"is real), `src_key_padding_mask` (True is padding) or `lengths`, got {sorted(given)} for "
            f"{describe(like)}; give a function as `pool`."
        )


def checked_pool(pool: Pool | None) -> Pool | None:
    """Return a way to pool, or say that it is none."""
    if pool is None or callable(pool) or pool in tuple(_POOLS):
        return pool
    hint = nearest(pool, _POOLS) if isinstance(pool, str) else ""
    raise ValueError(f"`pool` must be one of {', '.join(_POOLS)} or a function, got {pool!r}{hint}.")


def pooled(value: Any, layer: Layer, pool: Pool, inputs: Inputs | None) -> Any:
    """Make one row per sample of what a layer gives.

    Args:
        value: what the layer gives.
        layer: the layer, for its name in errors.
        pool: a function of the value, or one of
            `mean`, `max`: over all axes but the first and the features; features are axis 1 of images and volumes
            (4 or 5 axes) and the last one of sequences (N, T, D);
            `flatten`: all but the first axis in one;
            `cls`, `last`: the first and the last position of a sequence;
            `masked_mean`: over the positions of a sequence that are no padding, as the model was told.
        inputs: what the model was called with, if it was.

    Raises:
        LearnerError: if it does not fit the shape.
    """
    if callable(pool):
        return pool(value)
    name = layer.name or "(the model)"
    if value.ndim < 2 or (pool in _OF_SEQUENCES and value.ndim != 3):
        wanted = "(N, T, D)" if pool in _OF_SEQUENCES else "(N, D, ...)"
        raise LearnerError(
            f"`pool={pool!r}` must be given {wanted}, got {describe(value)} of {name!r}; "
            f"choose another pool, or a function."
        )
    n_samples = inputs.n_samples if inputs else None
    if n_samples not in (None, len(value)) or _is_sequence_first(layer.module, inputs.model if inputs else None):
        raise LearnerError(
            f"`pool={pool!r}` must be given samples along the first axis, got {describe(value)} of {name!r} for "
            f"{n_samples} samples; if the first axis is time, give a function, as `lambda x: x.mean(0)`."
        )
    if pool == "masked_mean":
        if inputs is None:
            raise LearnerError("`pool='masked_mean'` must see the model called for its mask; call the model itself.")
        mask = inputs.mask(value)[..., None].to(value.dtype)
        return (value * mask).sum(1) / mask.sum(1).clamp_min(1)
    return _POOLS[pool](value)


def _is_sequence_first(module: nn.Module, model: nn.Module | None) -> bool:
    """Tell whether a layer is one of torch's own that has time before samples, or a part of one."""
    for whole in (model or module).modules():
        kind = type(whole).__module__
        if kind.startswith("torch.nn.") and not kind.endswith(".container"):
            parts = set(whole.modules())
            if module in parts and any(getattr(part, "batch_first", True) is False for part in parts):
                return True
    return False


def _inner_axes(value: Tensor) -> tuple[int, ...]:
    return tuple(range(2, value.ndim)) if value.ndim > 3 else tuple(range(1, value.ndim - 1))


def _mean(value: Tensor) -> Tensor:
    return value.mean(axes) if (axes := _inner_axes(value)) else value


def _max(value: Tensor) -> Tensor:
    return value.amax(axes) if (axes := _inner_axes(value)) else value


_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "flatten": lambda value: value.flatten(1),
    "cls": lambda value: value[:, 0],
    "last": lambda value: value[:, -1],
    "masked_mean": _mean,  # with a mask, see above
}
