"""Collectors make of a batch and what a model gave for it the columns of a table, a row for each sample.

Start at `MetricsCollector`. Those of classes, numbers and layers are in files of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from learner import LearnerError, PredictorOutput
from learner.data.batch import describe, fields_of
from learner.data.fields import TARGET_NAMES
from learner.records.schema import CategoricalLabel, checked_schemas

Columns = Mapping[str, Any]
Preprocess = Callable[[Any, PredictorOutput], tuple[Any, PredictorOutput]]


class MetricsCollector(ABC):
    """Base of collectors: override `compute_metrics`.

    Args:
        preprocess_fn: `(batch, predictor_output) -> (batch, predictor_output)`, called first. Labels in the batch
            that it makes go before the target that a Learner took.
        compute_aggregates: whether columns are averaged as well.

    Attributes:
        layers: layers whose outputs it needs, as for `Predictor`; they are in `predictor_output.hidden_layers`.

    Example:
        >>> import torch
        >>> class Brightness(MetricsCollector):
        ...     def compute_metrics(self, batch, predictor_output):
        ...         return {"brightness": batch.mean(1)}
        >>> Brightness().collect(torch.ones(2, 3), PredictorOutput(None, {}))
        {'brightness': tensor([1., 1.])}
    """

    layers: tuple[int | str, ...] = ()

    def __init__(self, preprocess_fn: Preprocess | None = None, compute_aggregates: bool = True) -> None:
        if preprocess_fn is not None and not callable(preprocess_fn):
            raise TypeError(f"`preprocess_fn` must be a function of (batch, predictor_output), got {preprocess_fn!r}.")
        self.preprocess_fn, self.compute_aggregates = preprocess_fn, compute_aggregates

    @abstractmethod
    def compute_metrics(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Return columns by name: tensors, arrays or lists with a value (N,) or a row of values (N, D) per sample."""

    @property
    def column_schemas(self) -> dict[str, CategoricalLabel]:
        """Class names of columns that hold class ids."""
        return {}

    @property
    def averaged(self) -> Callable[[str], bool]:
        """Which columns are averaged, of those with a number per sample: all but class ids."""
        return lambda column: column not in self.column_schemas

    def collect(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Preprocess, then compute."""
        return self.compute_metrics(*self._preprocessed(batch, predictor_output))

    def _preprocessed(self, batch: Any, predictor_output: PredictorOutput) -> tuple[Any, PredictorOutput]:
        if self.preprocess_fn is None:
            return batch, predictor_output
        made = self.preprocess_fn(batch, predictor_output)
        if not (isinstance(made, tuple) and len(made) == 2):
            raise LearnerError(f"`preprocess_fn` must return (batch, predictor_output), got {describe(made)}.")
        given, output = made
        known = output.metadata if isinstance(output, PredictorOutput) else None
        if given is batch or not isinstance(known, Mapping) or known is not predictor_output.metadata:
            return given, output
        if _labels_in(given) is None:
            return given, output
        # The labels that a person made go before the target that the Learner took.
        return given, PredictorOutput(output.forward, output.hidden_layers, {**known, "target": None})

    def keep(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Return what is kept of a batch until it is finished, with many others at once: the columns themselves."""
        return self.collect(batch, predictor_output)

    def finish(self, kept: Columns) -> Columns:
        """Make the columns of what was kept of some batches."""
        return kept

    def check(self, columns: Mapping[str, np.ndarray]) -> None:
        """Refuse values, when many batches are read at once: who looks at them earlier waits for the device each time.

        Args:
            columns: some rows of the columns that it gave.
        """
        return

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return type(self).__name__


class FunctionalMetricsCollector(MetricsCollector):
    """A collector that is a function `(batch, predictor_output) -> dict of columns`.

    Args:
        collection_fn: the function.
        column_schemas: class names of columns that hold class ids.
        preprocess_fn: as for `MetricsCollector`.
        compute_aggregates: as for `MetricsCollector`.

    Example:
        >>> import torch
        >>> collector = FunctionalMetricsCollector(lambda batch, output: {"size": output.forward.norm(dim=1)})
        >>> collector.collect(None, PredictorOutput(torch.ones(2, 4), {}))
        {'size': tensor([2., 2.])}
    """

    def __init__(
        self,
        collection_fn: Callable[[Any, PredictorOutput], Columns],
        column_schemas: Mapping[str, CategoricalLabel] | None = None,
        preprocess_fn: Preprocess | None = None,
        compute_aggregates: bool = True,
    ) -> None:
        super().__init__(preprocess_fn, compute_aggregates)
        if not callable(collection_fn):
            raise TypeError(f"`collection_fn` must be a function of (batch, predictor_output), got {collection_fn!r}.")
        self.collection_fn, self._schemas = collection_fn, checked_schemas(column_schemas)

    @property
    def column_schemas(self) -> dict[str, CategoricalLabel]:
        """As given."""
        return self._schemas

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.collection_fn, "__name__", type(self.collection_fn).__name__)

    def compute_metrics(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Call the function."""
        return self.collection_fn(batch, predictor_output)


def target_of(batch: Any, predictor_output: PredictorOutput, name: str) -> Any:
    """Return the labels of a batch: what a Learner took for the target; else a field that is called so, or the last.

    Raises:
        LearnerError: if there is none; `name` is that of the collector, for the error.
    """
    known = predictor_output.metadata
    if isinstance(known, Mapping) and known.get("target") is not None:
        return known["target"]
    labels = _labels_in(batch)
    if labels is not None:
        return labels
    raise LearnerError(
        f"{name} must find labels in a batch, as the last element or as one of {' '.join(TARGET_NAMES)}, got "
        f"{describe(batch)}; make (inputs, labels) of it by `preprocess_fn`."
    )


def _labels_in(batch: Any) -> Any:
    """Return the field of a batch that is called like labels, or its last element; None if there is neither."""
    fields = fields_of(batch) or {}
    named = next((fields[key] for key in TARGET_NAMES if key in fields), None)
    if named is None and isinstance(batch, tuple | list) and len(batch) > 1:
        return batch[-1]
    return named


def misfit(name: str, output: str, target: str, got: Any, got_target: Any) -> LearnerError:
    """Return the error of a collector that was given what it can't compare.

    Args:
        name: of the collector.
        output: what the model's output must be, in words.
        target: what the targets must be, in words.
        got: the model's output.
        got_target: the targets.
    """
    return LearnerError(
        f"{name} must be given {output} and {target}, got {describe(got)} and {describe(got_target)}; change them by "
        f"`preprocess_fn`."
    )
