"""What stands between a batch and the model: what goes in, what is the target, how many samples there are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from learner.errors import LearnerError

_PAIRS = (tuple, list)


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
        >>> xb, yb, batch_size = predictor.split((x, y))
        >>> xb is x, yb is y, batch_size
        (True, True, 2)
    """

    def __init__(self, model: nn.Module, *, n_inp: int | None = None) -> None:
        self.model = checked_model(model)
        if n_inp is not None and (not isinstance(n_inp, int) or n_inp < 1):
            raise ValueError(f"`n_inp` must be a whole number of at least 1, got {n_inp!r}.")
        self.n_inp = n_inp
        self._fitting: set[tuple[type, int]] = set()  # class of model and number of inputs that were compared

    def split(self, batch: Any, has_target: bool = True) -> tuple[Any, Any, int | None]:
        """Take a batch apart: what the model gets, the target or None, the number of samples or None if unknown.

        Args:
            batch: what the loader gave.
            has_target: whether the last element of a tuple is the target, or goes into the model as well.

        Raises:
            LearnerError: if the batch has fewer elements than `n_inp`.
        """
        if has_target and self.n_inp is None and type(batch) in _PAIRS and len(batch) == 2:
            x, y = batch  # nearly every batch there is, so nothing else is looked at
            if isinstance(x, Tensor) and x.dim():
                return x, y, x.size(0)
        if not isinstance(batch, tuple | list):
            return batch, None, batch_size_of(batch)
        n_inp = self.n_inp or max(len(batch) - 1 if has_target else len(batch), 1)
        if len(batch) < n_inp:
            raise LearnerError(
                f"a batch must hold at least {n_inp} elements to go into the model, got {describe(batch)}; change "
                f"the dataset, or `n_inp` of the Predictor."
            )
        xb = batch[0] if n_inp == 1 else tuple(batch[:n_inp])
        targets = tuple(batch[n_inp:])
        return xb, targets[0] if len(targets) == 1 else targets or None, batch_size_of(batch)

    def feed(self, model: nn.Module, xb: Any) -> Any:
        """Call a model on what `split` took out for it: tuples by position, mappings by name.

        Raises:
            LearnerError: if `forward` cannot take it; says what both look like and what to change.
        """
        if isinstance(xb, Tensor):
            if (type(model), 1) not in self._fitting:
                self._check(model, (xb,))
            return model(xb)
        if isinstance(xb, Mapping):
            return model(**xb)
        if not isinstance(xb, tuple):
            return model(xb)
        if (type(model), len(xb)) not in self._fitting:
            self._check(model, xb)
        return model(*xb)

    def _check(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Compare what goes in with what `forward` takes, once for each number of inputs."""
        signature = inspect.signature(model.forward)
        try:
            signature.bind(*args)
        except TypeError as error:
            raise LearnerError(
                f"the model must take what the batch holds, but there is {error}: {describe(args)} would go in, "
                f"forward takes {signature}. Change one of the two, or say with "
                f"`predictor=Predictor(model, n_inp=...)` how many elements of a batch go in."
            ) from None
        self._fitting.add((type(model), len(args)))


def checked_model(model: Any) -> nn.Module:
    """Return a model that is one, or say what was given instead."""
    if isinstance(model, nn.Module):
        return model
    hint = f"; pass an instance, {model.__name__}(...)" if isinstance(model, type) else ""
    raise TypeError(f"`model` must be an nn.Module, got {model!r}{hint}.")


def batch_size_of(batch: Any) -> int | None:
    """Return the number of samples: the length of the first tensor, array or list in a batch; None if none has one."""
    for leaf in _leaves(batch):
        if isinstance(leaf, list):
            return len(leaf)
        if len(getattr(leaf, "shape", None) or ()):
            return int(leaf.shape[0])
    return None


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
