"""What a batch holds: how many samples, in words, and whether its parts fit together."""

from __future__ import annotations

import dataclasses
import itertools
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from learner.errors import LearnerError


def fields_of(batch: Any) -> Mapping[str, Any] | None:
    """Return a mapping, a dataclass or a named tuple as a mapping from name to value; None for anything else.

    A `PackedSequence` is a named tuple in form, but one value in meaning. A `TensorDict` is a mapping, but iterates
    over its rows and cannot be asked `name in batch`.
    """
    if isinstance(batch, Mapping):
        return dict(batch.items()) if _is_array(batch) else batch
    if isinstance(batch, PackedSequence):
        return None
    if isinstance(batch, tuple) and (names := getattr(batch, "_fields", None)):
        return dict(zip(names, batch, strict=True))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def batch_size_of(xb: Any, yb: Any = None) -> int | None:
    """Return the number of samples; None where it cannot be told.

    The first axis of the target decides; a target without axes belongs to one sample. A list or tuple may hold one
    sample in each place, or several inputs or targets side by side: then the inputs must agree with one of the two.
    Tensors among them are looked at first, then lists, then what is nested.

    Args:
        xb: what goes into the model; a tuple stands for several arguments, a dict for named ones.
        yb: the target, or None.

    Example:
        >>> import torch
        >>> images = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]
        >>> batch_size_of(images, torch.tensor([0, 1])), batch_size_of((images,), ({}, {})), batch_size_of("what")
        (2, 2, None)
        >>> nodes, class_of_each_graph = torch.zeros(30, 4), torch.tensor([0, 1])
        >>> batch_size_of(({"nodes": nodes},), class_of_each_graph)
        2
    """
    if _is_array(yb):
        return int(yb.shape[0]) if len(yb.shape) else 1
    parts = _parts(xb)
    tensors = [part for part in parts if _is_array(part)]
    lists = [part for part in parts if _is_list(part)]
    others = [part for part in parts if not (_is_array(part) or _is_list(part))]
    sizes = _possible_sizes(yb)
    for group in (tensors, lists, others):
        for possible in filter(None, map(_possible_sizes, group)):
            sizes = sizes & possible if sizes else possible
            if not sizes:
                return None
        if group and len(sizes) == 1:
            break
    if len(sizes) > 1:
        of_samples = [part for part in (yb, *lists) if _is_list(part) and _is_of_samples(part)]
        return len(of_samples[0]) if of_samples else None
    return next(iter(sizes), None)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or isinstance(getattr(value, "shape", None), tuple)


def has_places(value: Any) -> bool:
    """Tell whether a value is a tuple or list, whose elements are told apart by their places."""
    return isinstance(value, tuple | list) and not isinstance(value, PackedSequence)


def _is_list(value: Any) -> bool:
    return has_places(value) and fields_of(value) is None


def _possible_sizes(value: Any) -> set[int]:
    """Return the numbers of samples that a value may hold: none if it does not tell, two if it may be either."""
    if _is_array(value):
        return {int(value.shape[0])} if len(value.shape) else set()
    if isinstance(value, PackedSequence):
        return {int(value.batch_sizes[0])}
    if _is_list(value):
        return {len(value)} | _common_sizes(value) if value else set()
    fields = fields_of(value)
    size = batch_size_of(tuple(fields.values())) if fields else None
    return set() if size is None else {size}


def _common_sizes(values: list[Any] | tuple[Any, ...]) -> set[int]:
    """Return the numbers of samples that all of these may hold, as inputs or targets side by side do."""
    common = _possible_sizes(values[0])
    for value in values[1:]:
        if not common:  # so a long list of numbers or texts costs nothing
            break
        common &= _possible_sizes(value)
    return common


def _is_of_samples(values: list[Any] | tuple[Any, ...]) -> bool:
    """Tell whether a list holds a sample in each place: no tensors, or pictures that differ in height and width."""
    shapes = [getattr(value, "shape", None) for value in values]
    return None in shapes or (len(set(shapes)) > 1 and {len(shape) for shape in shapes if shape is not None} == {3})


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
        hint = (
            "the first axis must be the samples, which are the second one of the input: is it (sequence, batch)? Use "
            "`batch_first=True` in the layers and in `pad_sequence`, or `x.transpose(0, 1)`"
            if _has_batch_second(xb, yb)
            else "if they are right as they are, say what goes where: `Predictor(n_inp=...)` for a tuple, "
            "`target_key=` or `target_fn=` for a mapping"
        )
        raise LearnerError(f"the elements of a batch must have one length, got {describe(batch)}; {hint}.")
    if 0 in lengths:
        raise LearnerError(f"a batch must hold at least one sample, got {describe(batch)}.")


def _has_batch_second(xb: Any, yb: Any) -> bool:
    """Tell whether an input has as many samples as the target along its second axis, and not along its first."""
    lengths = {part.shape[0] for part in _parts(yb) if isinstance(part, Tensor) and part.ndim}
    inputs = [part.shape for part in _parts(xb) if isinstance(part, Tensor) and part.ndim > 1]
    return len(lengths) == 1 and any(shape[0] not in lengths and shape[1] in lengths for shape in inputs)


def _parts(value: Any) -> tuple[Any, ...]:
    """Return what stands side by side in a batch: the values of a mapping or tuple, or the one value."""
    fields = fields_of(value)
    if fields is not None:
        return tuple(fields.values())
    return value if isinstance(value, tuple) and not isinstance(value, PackedSequence) else (value,)


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
    if not isinstance(value, Mapping) and _is_array(value) and hasattr(value, "dtype"):
        return f"{type(value).__name__}{tuple(value.shape)} {value.dtype}"
    fields = value._asdict() if isinstance(value, PackedSequence) else fields_of(value)
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
