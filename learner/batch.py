"""What a batch holds: how many samples, in words, and whether its parts fit together."""

from __future__ import annotations

import dataclasses
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
    """Return the number of samples: that of the inputs' tensor, else the target's, else of the first that tells.

    A list of tensors may be a batch of samples or several inputs; the target decides, where it can.

    Example:
        >>> import torch
        >>> images = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]
        >>> batch_size_of(images, torch.tensor([0, 1])), batch_size_of(images, [{}, {}]), batch_size_of("what")
        (2, 2, None)
    """
    for part in (xb, yb):
        if isinstance(part, Tensor) and part.ndim:
            return part.shape[0]
    if isinstance(xb, list) and isinstance(yb, list) and len(xb) == len(yb):
        return len(xb)
    for leaf in _leaves((xb, yb)):
        if isinstance(leaf, list):
            return len(leaf)
        if len(getattr(leaf, "shape", None) or ()):
            return int(leaf.shape[0])
    return None


def _leaves(value: Any) -> Iterator[Any]:
    """Walk a nest of containers: tensors, arrays and lists of plain values come out."""
    fields = fields_of(value)
    if fields is not None:
        value = list(fields.values())
        if value and all(isinstance(item, str | int | float) for item in value):
            return
    if isinstance(value, list) and value and isinstance(value[0], str | int | float):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


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
    if isinstance(value, Mapping):
        return tuple(value.values())
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
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}"
    fields = fields_of(value)
    if fields is not None:
        inside = ", ".join(f"{key!r}: {describe(item)}" for key, item in fields.items())
        return ("" if type(value) is dict else type(value).__name__) + "{" + inside + "}"
    if isinstance(value, tuple | list):
        inner = ", ".join(describe(item) for item in value[:8]) + (", ..." if len(value) > 8 else "")
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    return repr(value) if value is None or isinstance(value, int | float | str) else type(value).__name__
