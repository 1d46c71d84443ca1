"""A fingerprint of data: the same in every process while the content is the same, so that records find their table.

It reads what a dataset holds in memory and never a sample: samples may be augmented, and reading them would move
random generators, cost a pass over the files, or both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from learner.data.batch import fields_of
from learner.data.wrapper import length_of

WHOLE = 2**30  # [bytes] of one array that are read; of a larger one, blocks spread evenly over it
BLOCK = 2**24  # [bytes]
SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size [bytes]


def fingerprint_of(dataset: Any) -> str:
    """Return 32 hexadecimal digits that change when the data does.

    Data in memory (lists, arrays, tensors, mappings of them) is read whole, up to `WHOLE` bytes an array. Of any other
    dataset these are read: its own `fingerprint` if it has one; else the name of its class, its length, and of its
    attributes the arrays, tensors and data frames, the lists with one entry per sample (labels, file names), and the
    datasets inside it (as in `Subset`). Attributes with "cache" in their name are passed over.

    What it cannot see: the content of files, and values that are made when a sample is asked for. A dataset that
    holds nothing else in memory is known by its class and its length alone.

    Example:
        >>> fingerprint_of([1, 2, 3]) == fingerprint_of(np.array([1, 2, 3])) != fingerprint_of([1, 3, 2])
        True
    """
    known = _own_fingerprint(dataset)
    if known:
        return known
    digest = _Digest()
    digest.add_dataset(dataset)
    return digest.hex()


def _own_fingerprint(dataset: Any) -> str | None:
    """Return what the dataset says of itself: a `Table`'s, or the one that the `datasets` library keeps."""
    for name in ("fingerprint", "_fingerprint"):
        known = getattr(dataset, name, None)
        if isinstance(known, str) and known:
            return known
    return None


class _Digest:
    """A hash of values by content; each is preceded by its kind and length, so that none runs into the next."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._seen: set[int] = set()

    def hex(self) -> str:
        return self._hash.hexdigest()[:32]

    def add_text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self._hash.update(len(data).to_bytes(8, "little") + data)

    def add(self, value: Any) -> None:
        array = _as_array(value)
        if array is not None:
            self.add_array(*array)
        elif isinstance(value, np.ndarray | np.generic):  # of strings or objects
            self.add(value.tolist())
        elif isinstance(value, list | tuple):
            self.add_list(value)
        elif (fields := fields_of(value)) is not None:
            self.add_text(f"mapping {len(fields)}")
            for key in sorted(fields, key=repr):
                self.add_text(repr(key))
                self.add(fields[key])
        elif value is None or isinstance(value, bool | int | float | complex | str | bytes | PurePath):
            self.add_text(f"{type(value).__name__} {value!r}")
        else:
            self.add_text(f"{type(value).__qualname__} {getattr(value, 'mode', '')} {getattr(value, 'size', '')}")
            if callable(getattr(value, "tobytes", None)):  # an image
                self._hash.update(value.tobytes())

    def add_list(self, values: Sequence[Any]) -> None:
        kinds = {type(value) for value in values}
        self.add_text(f"list {len(values)}")
        if kinds == {str}:  # all at once, for there may be a million of them
            self.add(np.array([len(text) for text in values]))
            self.add_text("".join(values))
        elif kinds == {tuple} and len({len(row) for row in values}) == 1:  # of pairs (file, class)
            for column in zip(*values, strict=True):
                self.add(column)
        else:
            for value in values:
                self.add(value)

    def add_array(self, dtype: str, array: np.ndarray) -> None:
        self.add_text(f"{dtype} {array.shape}")
        rows = array if array.ndim else array.reshape(1)
        n_rows = max(1, BLOCK // max(1, rows.nbytes // max(1, len(rows))))  # a block
        every = -(-array.nbytes // WHOLE)
        for start in range(0, len(rows), n_rows * max(1, every)):
            block = rows[start : start + n_rows]
            self._hash.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())

    def add_dataset(self, dataset: Any) -> None:
        if isinstance(dataset, list | tuple | range | Mapping | np.ndarray | Tensor):
            self.add(dataset)
        elif known := _own_fingerprint(dataset):
            self.add_text(known)
        elif id(dataset) not in self._seen:
            self._seen.add(id(dataset))
            self.add_text(f"{type(dataset).__qualname__} {length_of(dataset)}")
            for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
                if "cache" not in name.lower():
                    self.add_attribute(name, value, length_of(dataset))

    def add_attribute(self, name: str, value: Any, n_samples: int | None) -> None:
        if hasattr(value, "iloc") and hasattr(value, "columns"):  # a data frame
            value = {str(column): value[column].to_numpy() for column in value.columns}
        elif hasattr(value, "to_numpy"):
            value = value.to_numpy()
        is_sequence = isinstance(value, list | tuple | range)
        if isinstance(value, np.ndarray | Tensor) or (is_sequence and len(value) == n_samples):
            self.add_text(name)
            self.add(value)
        elif isinstance(value, Dataset) or _own_fingerprint(value):
            self.add_text(name)
            self.add_dataset(value)
        elif isinstance(value, Mapping):  # by number it may be a store that fills up
            for key in sorted(key for key in value if isinstance(key, str)):
                self.add_attribute(f"{name}.{key}", value[key], n_samples)
        elif is_sequence and all(isinstance(part, np.ndarray | Tensor | Dataset) for part in value):
            for i, part in enumerate(value):
                self.add_attribute(f"{name}.{i}", part, n_samples)


def _as_array(value: Any) -> tuple[str, np.ndarray] | None:
    """Return numbers as an array with the name of their type; None if they are none."""
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, range) or (
        isinstance(value, list | tuple) and value and {type(entry) for entry in value} <= {bool, int, float}
    ):
        value = np.array(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcmM":
        return value.dtype.name, np.asarray(value)
    return None


def _of_tensor(tensor: Tensor) -> tuple[str, np.ndarray] | None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return None
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        return name, tensor.numpy()
    except TypeError:  # NumPy has no such type: bfloat16, float8
        return name, tensor.view(SAME_SIZE[tensor.element_size()]).numpy()
