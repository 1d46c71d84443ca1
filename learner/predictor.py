"""What stands between a batch and the model: what goes in, what is the target, how many samples there are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from learner.errors import LearnerError


class Split(NamedTuple):
    """A batch taken apart: what the model gets, the target (None if there is none), the number of samples."""

    xb: Any
    yb: Any
    size: int


class Predictor:
    """Feed batches of any kind to a model.

    A tensor goes in as it is. Of a tuple or list all but the last element go in and the last is the target;
    `n_inp` says otherwise.

    Args:
        model: the module that is called.
        n_inp: how many elements of a tuple go into the model; the others are the target.

    Raises:
        TypeError: if `model` is no `nn.Module`.
        ValueError: if `n_inp` is no whole number of at least 1.

    Example:
        >>> import torch
        >>> predictor = Predictor(nn.Linear(3, 1))
        >>> x, y = torch.ones(2, 3), torch.zeros(2, 1)
        >>> split = predictor.split((x, y))
        >>> split.xb is x, split.yb is y, split.size
        (True, True, 2)
    """

    def __init__(self, model: nn.Module, *, n_inp: int | None = None) -> None:
        if not isinstance(model, nn.Module):
            hint = f"; pass an instance, {model.__name__}(...)" if isinstance(model, type) else ""
            raise TypeError(f"`model` must be an nn.Module, got {model!r}{hint}.")
        if n_inp is not None and (not isinstance(n_inp, int) or n_inp < 1):
            raise ValueError(f"`n_inp` must be a whole number of at least 1, got {n_inp!r}.")
        self.model = model
        self.n_inp = n_inp
        self._fitting: set[tuple[type, int, bool]] = set()  # shapes of batch that were checked against forward

    def split(self, batch: Any, has_target: bool = True) -> Split:
        """Take a batch apart.

        Args:
            batch: what the loader gave.
            has_target: whether the last element of a tuple is the target, or goes into the model as well.

        Raises:
            LearnerError: if the model cannot take the batch; says what both look like and what to change.
        """
        if not isinstance(batch, tuple | list):
            return Split(batch, None, batch_size_of(batch))
        n_inp = self.n_inp or (len(batch) - 1 if has_target and len(batch) > 1 else len(batch))
        if (type(batch), n_inp, len(batch) > n_inp) not in self._fitting:
            self._check(batch, n_inp)
        xb = batch[0] if n_inp == 1 else tuple(batch[:n_inp])
        n_targets = len(batch) - n_inp
        yb = None if not n_targets else batch[-1] if n_targets == 1 else tuple(batch[n_inp:])
        return Split(xb, yb, len(xb) if isinstance(xb, Tensor) and xb.ndim else batch_size_of(batch))

    def feed(self, model: nn.Module, xb: Any) -> Any:
        """Call a model on what `split` took out for it: tuples by position, mappings by name."""
        if isinstance(xb, tuple):
            return model(*xb)
        if isinstance(xb, Mapping):
            return model(**xb)
        return model(xb)

    def _check(self, batch: Any, n_inp: int) -> None:
        """Compare a new shape of batch with what `forward` takes, once."""
        if not 1 <= n_inp <= len(batch):
            raise LearnerError(
                f"a batch must hold at least {max(n_inp, 1)} elements, got {describe(batch)}; "
                f"change the dataset or `Predictor(n_inp=...)`."
            )
        signature = inspect.signature(self.model.forward)
        try:
            signature.bind(*batch[:n_inp])
        except TypeError as error:
            raise LearnerError(
                f"the model must take what the batch holds, but {error}. The batch is {describe(batch)}: the first "
                f"{n_inp} would go into the model, the rest is the target. forward takes {signature}. Change one of "
                f"the two, or say with `predictor=Predictor(model, n_inp=...)` how many elements go in."
            ) from None
        self._fitting.add((type(batch), n_inp, len(batch) > n_inp))


def batch_size_of(batch: Any) -> int:
    """Return the number of samples: the length of the first tensor, array or list in a batch.

    Raises:
        LearnerError: if there is none.
    """
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor) or hasattr(leaf, "shape"):
            if len(leaf.shape):
                return int(leaf.shape[0])
        elif isinstance(leaf, list):
            return len(leaf)
    raise LearnerError(
        f"the number of samples in a batch must be known, got {describe(batch)}, which holds no tensor with a first "
        f"axis; put one in, or set `learn.batch_size` in a subclass."
    )


def _leaves(value: Any) -> Any:
    """Walk a nest of containers: tensors, arrays and lists of plain values come out."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        if isinstance(value, list) and value and isinstance(value[0], str | int | float):
            yield value
        else:
            for item in value:
                yield from _leaves(item)
    else:
        yield value


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
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        inner = ", ".join(describe(item) for item in value[:8]) + (", ..." if len(value) > 8 else "")
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    return repr(value) if value is None or isinstance(value, int | float | str) else type(value).__name__
