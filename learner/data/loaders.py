"""Named loaders: which there are, in which order they run, and what each is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from learner.data.batch import describe
from learner.data.wrapper import length_of
from learner.data.zipped import ZippedLoader

ROLES = ("train", "valid", "infer", "test")

_ROLE_OF_START = {"train": "train", "val": "valid", "eval": "valid", "infer": "infer", "test": "test"}
_STARTS = tuple(_ROLE_OF_START)


def role_of(name: str) -> str:
    """Return what a loader is for, by the start of its name: `train`, `valid`, `infer` or `test`.

    `val...` and `eval...` mean `valid`. A loader for a test is left out of fits; it is there for
    `learn.validate("test")` and `learn.get_preds("test")`.

    Raises:
        ValueError: if the name starts with none of them.

    Example:
        >>> role_of("train_2"), role_of("val"), role_of("eval_hard"), role_of("test")
        ('train', 'valid', 'valid', 'test')
    """
    for start, role in _ROLE_OF_START.items():
        if isinstance(name, str) and name.startswith(start):
            return role
    raise ValueError(
        f"a loader's name must start with 'train' (forward and backward), 'valid', 'val' or 'eval' (forward and loss), "
        f"'infer' (forward alone) or 'test' (left out of fits), got {name!r}; rename it."
    )


class Loaders(Mapping[str, Iterable[Any]]):
    """Loaders by name, in the order in which they run.

    Args:
        loaders: names and loaders; a loader is any iterable of batches. A name starts with `train`, `valid` (or
            `val`, `eval`), `infer`, or `test`, which no fit runs.

    Raises:
        TypeError: if something is no iterable of batches, or is a tensor or array, which is one batch.
        ValueError: if a name has none of these roles, or there is no loader at all.

    Example:
        >>> dls = Loaders({"train": [1, 2], "valid": [3]})
        >>> list(dls), dls.train
        (['train', 'valid'], [1, 2])
    """

    def __init__(self, loaders: Mapping[str, Iterable[Any]]) -> None:
        self._loaders = dict(loaders)
        if not self._loaders:
            raise ValueError("`dls` must hold at least one loader, got none; pass {'train': loader}.")
        for name, loader in self._loaders.items():
            role_of(name)
            if isinstance(loader, Tensor | np.ndarray):
                raise TypeError(
                    f"`dls[{name!r}]` must be an iterable of batches, got {describe(loader)}, each row of which would "
                    f"be a batch; pass `[x]` for one batch, `x.split(64)` for several, or use `Loaders.from_arrays`."
                )
            if isinstance(loader, str | type) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
                raise TypeError(
                    f"`dls[{name!r}]` must be an iterable of batches, got {loader!r}; "
                    f"leave the loader out if there is none."
                )

    @classmethod
    def of(cls, dls: Any) -> Loaders:
        """Return loaders from what a person passes: `Loaders`, a mapping, a pair, or an object with `.train`.

        Raises:
            TypeError: if `dls` is none of these.
        """
        if isinstance(dls, cls):
            return dls
        if isinstance(dls, Mapping):
            return cls(dls)
        if hasattr(dls, "train"):
            return cls({name: getattr(dls, name) for name in ("train", "valid") if hasattr(dls, name)})
        if isinstance(dls, tuple | list) and len(dls) == 2:
            return cls(dict(zip(("train", "valid"), dls, strict=True)))
        raise TypeError(
            f"`dls` must be a mapping of names to loaders, a pair (train, valid), or an object with `.train` and "
            f"`.valid`, got {type(dls).__name__}; a single loader goes in as {{'train': loader}}."
        )

    @classmethod
    def from_datasets(cls, *, batch_size: int = 64, **datasets: Any) -> Loaders:
        """Make a `DataLoader` for each named dataset; those that train are shuffled.

        Args:
            batch_size: samples a batch [samples].
            datasets: by loader name. Any other keyword of `DataLoader` (`num_workers=2`, `collate_fn=...`) may
                stand among them and holds for all.

        Example:
            >>> dls = Loaders.from_datasets(train=range(10), valid=range(4), batch_size=4, num_workers=0)
            >>> {name: len(dl) for name, dl in dls.items()}
            {'train': 3, 'valid': 1}
        """
        names = [name for name in datasets if name.startswith(_STARTS)]
        if not names:
            raise ValueError(f"`datasets` must be given by loader name, got {sorted(datasets)}; do `train=dataset`.")
        options = {name: value for name, value in datasets.items() if name not in names}
        return cls(
            {
                name: DataLoader(
                    datasets[name],
                    batch_size=batch_size,
                    **{"shuffle": _is_shuffled(name, datasets[name]), **options},
                )
                for name in names
            }
        )

    @classmethod
    def from_arrays(cls, *, batch_size: int = 64, **arrays: Any) -> Loaders:
        """Make loaders from arrays in memory: `train=(x, y)`, `valid={"image": x, "label": y}`, `infer=x`.

        Arrays are tensors, NumPy arrays or lists with the samples along the first axis. float64 becomes
        float32, what models take. A batch is cut out of the arrays at once, so this is fast.

        Raises:
            ValueError: if the arrays of one loader differ in length or are empty.

        Example:
            >>> dls = Loaders.from_arrays(train=([[0.0], [1.0], [2.0]], [0, 1, 0]), batch_size=2)
            >>> [tuple(x.shape) for x, y in dls.train]
            [(2, 1), (1, 1)]
        """
        datasets = {
            name: ArrayDataset(value, name) if name.startswith(_STARTS) else value for name, value in arrays.items()
        }
        return cls.from_datasets(batch_size=batch_size, **{"collate_fn": as_it_is, **datasets})

    @staticmethod
    def zipped(**loaders: Any) -> ZippedLoader:
        """Put loaders side by side: a loader whose batches are mappings with a batch of each.

        As for training on labelled and unlabelled data at once:
        `{"train": Loaders.zipped(labelled=a, unlabelled=b), "valid": c}`. A pass is as long as the longest of them;
        the others begin again when they have ended.

        Raises:
            ValueError: if there are less than two, or more than one has no length.

        Example:
            >>> [batch for batch in Loaders.zipped(labelled=[1, 2, 3], unlabelled=["a", "b"])]
            [{'labelled': 1, 'unlabelled': 'a'}, {'labelled': 2, 'unlabelled': 'b'}, {'labelled': 3, 'unlabelled': 'a'}]
        """
        return ZippedLoader(loaders)

    def __getitem__(self, name: str) -> Iterable[Any]:
        try:
            return self._loaders[name]
        except KeyError:
            raise KeyError(f"there is no loader {name!r}, only {', '.join(map(repr, self._loaders))}.") from None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_loaders"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute or loader {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Put a loader in another's place, `dls.train = loader`; the next pass runs it."""
        if name == "_loaders":
            super().__setattr__(name, value)
        else:
            self._loaders = type(self)({**self._loaders, name: value})._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __repr__(self) -> str:
        return f"Loaders({', '.join(f'{name}: {length_of(dl)} batches' for name, dl in self.items())})"


def _is_shuffled(name: str, dataset: Any) -> bool:
    return role_of(name) == "train" and not isinstance(dataset, torch.utils.data.IterableDataset)


def as_it_is(batch: Any) -> Any:
    """Pass on a batch that is one already; a function of the module, so that workers can be sent it."""
    return batch


class ArrayDataset(Dataset[Any]):
    """Aligned arrays, one, a tuple or a mapping of them, as a dataset that cuts a whole batch out at once."""

    def __init__(self, arrays: Any, name: str = "arrays") -> None:
        self._is_single = not isinstance(arrays, tuple | Mapping)
        self._keys = list(arrays) if isinstance(arrays, Mapping) else None
        columns = arrays.values() if isinstance(arrays, Mapping) else (arrays,) if self._is_single else arrays
        self.tensors = [_as_tensor(array) for array in columns]
        lengths = [len(tensor) for tensor in self.tensors]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(f"`{name}` must be arrays of one length, at least 1, got lengths {lengths}.")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, i: Any) -> Any:
        cut = tuple(tensor[i] for tensor in self.tensors)
        if self._keys is not None:
            return dict(zip(self._keys, cut, strict=True))
        return cut[0] if self._is_single else cut

    def __getitems__(self, indices: list[int]) -> Any:
        """Return a whole batch; `DataLoader` calls this instead of one item at a time."""
        return self[torch.tensor(indices)]


def _as_tensor(array: Any) -> Tensor:
    tensor = torch.as_tensor(array)
    return tensor.float() if tensor.dtype == torch.float64 else tensor
