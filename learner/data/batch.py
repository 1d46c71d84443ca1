"""What a batch holds: how many samples, in words, and whether its parts fit together."""

from __future__ import annotations

import dataclasses
import itertools
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from learner.errors import LearnerError


def fields_of(batch: Any) -> Mapping[str, Any] | None:
    """Return a mapping, a dataclass or a named tuple as a mapping from name to value; None for anything else."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, tuple) and (names := getattr(batch, "_fields", None)):
        return dict(zip(names, batch, strict=True))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def batch_size_of(xb: Any, yb: Any = None) -> int | None:
    """Return the number of samples: of the first tensor among inputs and targets, else of lists; None if none tells.

    A list of tensors may be a batch of samples or several inputs; another list of that length decides, or their shapes.

    Example:
        >>> import torch
        >>> images = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]
        >>> batch_size_of(images, torch.tensor([0, 1])), batch_size_of(images, [{}, {}]), batch_size_of("what")
        (2, 2, None)
    """
    parts = (*_parts(xb), *_parts(yb))
    for part in parts:
        if len(getattr(part, "shape", None) or ()):
            return int(part.shape[0])
    lists = [part for part in parts if isinstance(part, list) and part]
    if lists and len({len(part) for part in lists}) == 1 and (len(lists) > 1 or _is_of_samples(lists[0])):
        return len(lists[0])
    nested = [part for part in parts if not isinstance(part, Tensor) and fields_of(part) is not None]
    return next((size for part in nested if (size := batch_size_of(part)) is not None), None)


def _is_of_samples(values: list[Any]) -> bool:
    """Tell whether a list holds a sample in each place: tensors of one shape may be several inputs instead."""
    shapes = [getattr(value, "shape", None) for value in values]
    return None in shapes or len(set(shapes)) > 1


def common_length(xb: Any, yb: Any) -> int | None:
    """Return the number of samples where all inputs and the target are tensors of one length, at least 1; else None."""
    try:
        size: int = yb.size(0)
        for part in xb.values() if isinstance(xb, dict) else xb if isinstance(xb, tuple) else (xb,):
            if part.size(0) != size:
                return None
    except (AttributeError, IndexError, TypeError):
        return None
    return size or None


def check_lengths(xb: Any, yb: Any, batch: Any) -> None:
    """Refuse tensors of a batch, among its inputs and targets, that differ in their number of samples.

    Raises:
        LearnerError: if they do, or if there is no sample.
    """
    lengths = {part.shape[0] for part in (*_parts(xb), *_parts(yb)) if isinstance(part, Tensor) and part.ndim}
    if len(lengths) > 1:
        raise LearnerError(
            f"the elements of a batch must have one length, got {describe(batch)}; if they are right as they are, say "
            f"what goes where: `Predictor(n_inp=...)` for a tuple, `target_key=` or `target_fn=` for a mapping."
        )
    if 0 in lengths:
        raise LearnerError(f"a batch must hold at least one sample, got {describe(batch)}.")


def _parts(value: Any) -> tuple[Any, ...]:
    """Return what stands side by side in a batch: the values of a mapping or tuple, or the one value."""
    fields = fields_of(value)
    if fields is not None:
        return tuple(fields.values())
    return value if isinstance(value, tuple) else (value,)


def describe(value: Any) -> str:
    """Say in a few words what a batch holds: shapes and dtypes, keys, types.

    Example:
        >>> import torch
        >>> describe((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)))
        '(Tensor(2, 3) float32, Tensor(2,) int64)'
    """
    if isinstance(value, Tensor):
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"Tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{device}"
    if isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype"):
        return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}"
    fields = fields_of(value)
    if fields is not None:
        inside = _listed((f"{key!r}: {describe(item)}" for key, item in fields.items()), at_most=24)
        return ("" if type(value) is dict else type(value).__name__) + "{" + inside + "}"
    if isinstance(value, tuple | list):
        inner = _listed((describe(item) for item in value), at_most=8)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    is_plain = value is None or isinstance(value, int | float | str)
    return reprlib.repr(value) if is_plain else type(value).__name__


def _listed(parts: Iterator[str], at_most: int) -> str:
    """Join the first few of what may be many."""
    first = list(itertools.islice(parts, at_most + 1))
    return ", ".join([*first[:at_most], "..."] if len(first) > at_most else first)
