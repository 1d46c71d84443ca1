"""What layers gave for each sample, as vectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from callbacks.samples.collectors import Columns, MetricsCollector, Preprocess
from learner import LearnerError, PredictorOutput
from learner.data.batch import describe
from learner.data.signature import nearest
from learner.interrogate.layers import fits


class EmbeddingsMetricsCollector(MetricsCollector):
    """What layers gave for each sample, as a vector: a column `embeddings_{layer}` for each of them.

    Args:
        layers: layers, as for `Predictor`: positions, names, globs.
        reshape_strategy: how a layer's output becomes a vector per sample, for all layers or a mapping by layer:
            "mean" over all axes but features, "flatten", "avg_pool_k" (averages in a grid of k x k, or k positions of a
            sequence, flattened, with a number for the k), or a function of the output.
        dtype: of the columns; float16 takes half the room.
        preprocess_fn: as for `MetricsCollector`.

    Shapes: an output (N, D), sequences (N, T, D), images (N, C, H, W), volumes (N, C, T, H, W).

    Example:
        >>> output = PredictorOutput(None, {2: torch.ones(5, 8, 4, 4)})
        >>> EmbeddingsMetricsCollector([2], "avg_pool_2").collect(None, output)["embeddings_2"].shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        layers: Sequence[int | str],
        reshape_strategy: str | Callable[[Any], Any] | Mapping[Any, Any] = "mean",
        dtype: torch.dtype = torch.float32,
        preprocess_fn: Preprocess | None = None,
    ) -> None:
        super().__init__(preprocess_fn, compute_aggregates=False)
        self.layers = () if isinstance(layers, str) or not isinstance(layers, Iterable) else tuple(layers)
        if not self.layers or not all(isinstance(layer, str | int) for layer in self.layers):
            raise TypeError(f"`layers` must be a sequence of names, globs or positions, got {layers!r}; as ('head',).")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"`dtype` must be a torch dtype of floats, got {dtype!r}.")
        self.dtype = dtype
        if isinstance(reshape_strategy, Mapping):
            if unknown := [layer for layer in reshape_strategy if layer not in self.layers]:
                raise ValueError(f"`reshape_strategy` must be by layers of {self.layers}, got {unknown[0]!r}.")
            by_layer = {layer: reshape_strategy.get(layer, "mean") for layer in self.layers}
        else:
            by_layer = dict.fromkeys(self.layers, reshape_strategy)
        self._strategies = {layer: _strategy(strategy) for layer, strategy in by_layer.items()}

    def compute_metrics(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Make a vector per sample of what each layer gave.

        Raises:
            LearnerError: if the predictor was not told of a layer, or a strategy does not fit its output.
        """
        hidden = predictor_output.hidden_layers
        if missing := [wanted for wanted in self.layers if not any(_fits(wanted, layer) for layer in hidden)]:
            raise LearnerError(
                f"`hidden_layers` must hold {missing[0]!r}, got {list(hidden)}; make the Predictor with "
                f"`layers={self.layers}`."
            )
        columns: dict[str, Tensor] = {}
        for layer, output in hidden.items():
            wanted = [wanted for wanted in self.layers if _fits(wanted, layer)]
            if not wanted:
                continue  # it is another collector's
            column = f"embeddings_{layer}"
            if column in columns:
                raise LearnerError(f"column {column!r} must be of one layer, got two; name both in the same way.")
            vectors = self._strategies[layer if layer in wanted else wanted[0]](output)
            if not isinstance(vectors, Tensor) or vectors.ndim != 2:
                raise LearnerError(
                    f"`reshape_strategy` must make (N, D) of what layer {layer!r} gives, got {describe(vectors)} for "
                    f"{describe(output)}; choose another, or a function."
                )
            columns[column] = vectors.to(self.dtype)
        return columns


def _fits(wanted: int | str, layer: Any) -> bool:
    """Tell whether a layer is meant; a glob means no parts of layers, as `lstm:0`, but where it names one itself."""
    if wanted == layer:
        return True
    if not isinstance(wanted, str) or not isinstance(layer, str):
        return False
    (glob, _, wanted_part), (name, _, part) = wanted.partition(":"), layer.partition(":")
    return wanted_part == part and fits(glob, name)


def _strategy(strategy: Any) -> Callable[[Any], Any]:
    """Return the function that a strategy means, or say that it is none."""
    names = ("mean", "flatten", "avg_pool_1", "avg_pool_2", "avg_pool_3")
    if callable(strategy):
        return strategy  # type: ignore[no-any-return]
    if strategy == "mean":
        return _mean
    if strategy == "flatten":
        return _flatten
    if isinstance(strategy, str) and (match := re.fullmatch("avg_pool_([1-9][0-9]*)", strategy)):
        return partial(_average_pool, k=int(match[1]))
    hint = nearest(strategy, names) if isinstance(strategy, str) else ""
    raise ValueError(f"`reshape_strategy` must be one of {', '.join(names)} or a function, got {strategy!r}{hint}.")


def _flatten(output: Any) -> Any:
    return output.reshape(len(output), -1) if isinstance(output, Tensor) and output.ndim else output


def _mean(output: Any) -> Any:
    if not isinstance(output, Tensor) or output.ndim < 3:
        return output
    return output.mean(tuple(range(2, output.ndim)) if output.ndim > 3 else 1)


def _average_pool(output: Any, k: int) -> Any:
    if not isinstance(output, Tensor) or output.ndim not in (3, 4, 5):
        return output
    if output.ndim == 3:
        return adaptive_avg_pool1d(output.mT, k).flatten(1)
    pool = adaptive_avg_pool2d if output.ndim == 4 else adaptive_avg_pool3d
    return pool(output, k).flatten(1)
