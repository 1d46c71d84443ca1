"""Describe tensors, and the cause of a loss that is not finite, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.data.batch import fields_of

_NOT_REPRODUCED = (
    "All values were finite when the batch ran again: look for random numbers of Python or NumPy, kernels that are not "
    "deterministic, or a callback that changes the predictions or the loss."
)


class TensorStats(NamedTuple):
    """Statistics of a tensor; minimum, maximum and mean are of its finite values, None if it has none.

    Example:
        >>> print(TensorStats.of("x", torch.tensor([1.0, 2.0, float("nan")])))
        x (3,) float32, 1 to 2, mean 1.5, 1 NaN
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    n_nan: int
    n_inf: int
    min: float | None
    max: float | None
    mean: float | None

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> TensorStats:
        """Compute the statistics of any tensor; complex numbers count as two numbers each."""
        values = _values(tensor)
        finite = values[values.isfinite()]
        found = [float(f(finite)) if len(finite) else None for f in (torch.min, torch.max, _mean)]
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(name, _shape(tensor), dtype, int(values.isnan().sum()), int(values.isinf().sum()), *found)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return not (self.n_nan or self.n_inf)

    @property
    def bad(self) -> str:
        """How many values are not finite, in words."""
        return " and ".join(f"{n} {what}" for n, what in ((self.n_nan, "NaN"), (self.n_inf, "inf")) if n)

    def __str__(self) -> str:
        text = f"{self.name} {self.shape} {self.dtype}"
        if self.min is not None:
            text += f", {self.min:.4g} to {self.max:.4g}, mean {self.mean:.4g}"
        return f"{text}, {self.bad}" if self.bad else text


class NaNReport(NamedTuple):
    """The cause of a loss that is not finite; prints as text.

    Attributes:
        epoch, dl_name, i, loss: where the batch was, and its loss.
        module, kind: dotted name ("" is the model itself, "loss_f" the loss function) and class of the first module
            whose output is not finite; None if all was finite when the batch ran again.
        inputs, outputs: statistics of that module's inputs and outputs.
        batch: statistics of the model's input, `xb`, and of the target, `yb`.
        weights: names of the parameters that held NaN or inf before the batch, and of the buffers that held NaN.
        path: the file that was written, or None.
    """

    epoch: int
    dl_name: str
    i: int
    loss: float
    module: str | None
    kind: str | None
    inputs: tuple[TensorStats, ...]
    outputs: tuple[TensorStats, ...]
    batch: tuple[TensorStats, ...]
    weights: tuple[str, ...]
    path: str | None

    @property
    def where(self) -> str:
        """The batch and its loss, in words."""
        return f"the loss was {self.loss} in epoch {self.epoch}, loader {self.dl_name!r}, batch {self.i}"

    @property
    def cause(self) -> str:
        """What is known of the cause, in words, in the order of the computation: batch, weights, module."""
        bad_batch = [part for part in self.batch if not part.is_finite]
        causes = [f"The batch itself holds {_bad(bad_batch)}."] if bad_batch else []
        if self.weights:
            causes += [f"Before the batch, NaN or inf was already in {listed(self.weights)}."]
        if self.module is None:
            return " ".join([*causes, _NOT_REPRODUCED])
        text = f"The first output that is not finite is that of {self._layer}"
        bad_inputs = [part for part in self.inputs if not part.is_finite]
        if not bad_inputs:
            text += ", whose inputs are finite" if self.inputs else ""
        elif not bad_batch:
            text += f"; {_bad(bad_inputs)} came from code between modules"
        return " ".join([*causes, f"{text}."])

    @property
    def _layer(self) -> str:
        if self.module == "":
            return f"the model itself ({self.kind})"
        return f"the loss function ({self.kind})" if self.module == "loss_f" else f"`{self.module}` ({self.kind})"

    def __str__(self) -> str:
        lines = [self.where, self.cause]
        for title, parts in (("inputs", self.inputs), ("outputs", self.outputs), ("batch", self.batch)):
            lines += [f"  {title}: {part}" for part in parts]
        return "\n".join(lines + ([f"repeat: NaNReportCallback.repeat({self.path!r}, learn)"] if self.path else []))


class FirstBad:
    """Find the first module whose output is not finite, from hooks around each module.

    Attributes:
        first: name, class, inputs and outputs of that module; None as long as all outputs are finite.
    """

    def __init__(self) -> None:
        self.first: tuple[str, str, tuple[TensorStats, ...], tuple[TensorStats, ...]] | None = None
        self._inputs: list[tuple[TensorStats, ...]] = []  # of the modules that run now, one inside the other

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Describe the inputs before the module runs, since it may change them in place."""
        if self.first is None:
            by_position = stats_of("input", args[0] if len(args) == 1 else args)
            self._inputs.append((*by_position, *stats_of("input", kwargs)))

    def leave(self, name: str, kind: str, output: Any) -> None:
        """Check the output, and keep it if it is the first that is not finite."""
        if self.first is None:
            inputs = self._inputs.pop()
            if not is_finite(output):
                self.first = (name, kind, inputs, stats_of("output", output))


def is_finite(value: Any) -> bool:
    """Return whether all tensors in nested containers are finite; waits for the device."""
    return all(bool(_values(tensor).isfinite().all()) for _, tensor in _tensors("", value))


def has_nan(tensor: Tensor) -> bool:
    """Return whether a tensor holds NaN; waits for the device."""
    return bool(_values(tensor).isnan().any())


def stats_of(name: str, value: Any) -> tuple[TensorStats, ...]:
    """Return the statistics of each tensor in nested containers, named by its path.

    Example:
        >>> [stats.name for stats in stats_of("xb", {"ids": torch.ones(2), "pair": (torch.ones(2), torch.ones(2))})]
        ['xb.ids', 'xb.pair[0]', 'xb.pair[1]']
    """
    return tuple(TensorStats.of(path, tensor) for path, tensor in _tensors(name, value))


def listed(names: Iterable[str]) -> str:
    """Return the first few names as text, separated by commas."""
    quoted = [f"`{name}`" for name in names]
    return ", ".join(quoted[:5] + (["..."] if len(quoted) > 5 else []))


def _bad(parts: list[TensorStats]) -> str:
    return ", ".join(f"{part.bad} in {part.name}" for part in parts)


def _mean(values: Tensor) -> Tensor:
    return values.mean(dtype=torch.float64)


def _values(tensor: Tensor) -> Tensor:
    """Return the values of any tensor as a dense real one, which can be checked for NaN."""
    tensor = tensor.detach()
    if tensor.is_nested:  # sequences of different lengths
        tensor = torch.cat([part.reshape(-1) for part in tensor.unbind()])
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    # `isfinite` does not support 8-bit floats.
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of any tensor; of a nested one, -1 where the sizes of its parts differ."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    sizes = zip(*(part.shape for part in tensor.unbind()), strict=True)
    return tensor.size(0), *(size[0] if len(set(size)) == 1 else -1 for size in sizes)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested containers, each with its path."""
    if isinstance(value, Tensor):
        yield name, value
    elif (fields := fields_of(value)) is not None:
        for key, item in fields.items():
            yield from _tensors(f"{name}.{key}", item)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _tensors(f"{name}[{i}]", item)
