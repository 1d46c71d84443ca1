"""Look at what a trained model gets wrong: one pass over a loader, and what is to be read off its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from callbacks.samples.classification import ClassificationMetricsCollector
from callbacks.samples.collect import CollectCallback
from callbacks.samples.collection import Collection
from callbacks.samples.collectors import MetricsCollector
from callbacks.samples.in_order import in_order
from callbacks.samples.regression import RegressionMetricsCollector
from learner import Callback, Learner, LearnerError, Loaders, PredictorOutput
from learner.data.feed import preds_of
from learner.data.moving import detached, in_float32
from learner.inference.class_names import checked_names, class_names
from learner.inference.outputs import checked_meaning, meaning_of
from learner.loop.gather import look_over
from learner.records import CategoricalLabel, Samples, Table
from learner.records.arrow import pyarrow, to_arrow
from learner.records.ids import SampleIds
from learner.records.interpretation import ClassInterpretation, RegressionInterpretation
from learner.records.interpretation import interpret as interpret_samples


def interpret(
    learn: Learner,
    name: str = "valid",
    *,
    outputs: str | None = None,
    classes: Sequence[str] | None = None,
    collector: MetricsCollector | None = None,
) -> ClassInterpretation | RegressionInterpretation:
    """Show where a model is wrong on the samples of a loader, as `Learner.interpret` says."""
    pyarrow()  # before a pass that may take long
    loader = _once_each(name, Loaders.of(learn.dls)[name])
    collector = _checked(collector) or _collector(learn, outputs)
    rows = _Rows()
    is_numbered = _has_numbers(loader)
    collection = Collection([collector], rows, job=learn.job)
    listener = _Collecting(collection, name, is_numbered)
    look_over(learn, name, loader, listener)
    collection.finish()
    n_classes = max(learn.job.gather(listener.n_classes, at="the number of classes"))
    columns = {column: np.concatenate(parts) for column, parts in rows.columns.items()}
    if not is_numbered:  # as they came, which of several processes none has seen alone
        columns["example_id"] = np.arange(len(columns["example_id"]))
    dataset: Any = getattr(loader, "dataset", None)
    table = dataset if isinstance(dataset, Table) else Table(dataset) if is_numbered else None
    labels = _labels(learn, name, collector, n_classes, classes)
    return interpret_samples(Samples([to_arrow(columns, labels)], table=table))


class _Rows:
    """Hold in memory what a collection gives.

    Attributes:
        columns: by name what was given, part by part.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[np.ndarray]] = {}

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Keep a copy of some rows."""
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(np.array(values))


class _Collecting(Callback):
    """Hand each batch of a pass to a collection."""

    order = math.inf

    def __init__(self, collection: Collection, name: str, is_numbered: bool) -> None:
        self._collection, self._name, self._is_numbered = collection, name, is_numbered
        self._ids: SampleIds | None = None
        self._stack = ExitStack()
        self.n_classes = 0

    def before_epoch(self, learn: Learner) -> None:
        """Listen to what is read here: of several processes each reads its share."""
        if self._is_numbered:
            self._ids = self._stack.enter_context(SampleIds(learn.dl))

    def cleanup_epoch(self, learn: Learner) -> None:
        """Listen no longer."""
        self._stack.close()

    def after_batch(self, learn: Learner) -> None:
        """Collect a batch."""
        if learn.output is None or not learn.batch_size:
            return  # it was cut short
        n = learn.batch_size
        ids = np.zeros(n, np.int64) if self._ids is None else self._ids.of_batch(learn.i, n)
        preds = preds_of(learn.output)
        if isinstance(preds, torch.Tensor) and preds.ndim:
            self.n_classes = max(preds.shape[1] if preds.ndim > 1 else 1, 2)
        output = PredictorOutput(in_float32(detached(learn.output)), {}, {"target": learn.yb})
        self._collection.add(learn.batch, output, ids, learn.i, split=self._name)


def _once_each(name: str, loader: Any) -> Any:
    """Return a loader of each sample once, in order, where there is a dataset of numbered samples; else itself."""
    return in_order(name, loader) if _has_numbers(loader) else loader


def _has_numbers(loader: Any) -> bool:
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return False
    return not isinstance(loader.dataset, IterableDataset) and hasattr(loader.dataset, "__getitem__")


def _collector(learn: Learner, outputs: str | None) -> MetricsCollector:
    """Return what measures each sample: a collector that the learner has, or one for what its loss is of."""
    kinds = ClassificationMetricsCollector, RegressionMetricsCollector
    if outputs is None:
        for cb in learn.cbs:
            for collector in cb.collectors if isinstance(cb, CollectCallback) else ():
                if isinstance(collector, kinds):
                    return collector
    meaning = checked_meaning(outputs) or meaning_of(learn.loss_f, learn.model)
    if meaning is None:
        raise LearnerError(
            "the loss must be one of torch's for it to be known what the model says; say so by "
            "`interpret(outputs='logits')` or 'values', or pass a `collector`."
        )
    if meaning == "values":
        return RegressionMetricsCollector()
    return ClassificationMetricsCollector(preprocess_fn=_as_logits if meaning == "probs" else None)


def _as_logits(batch: Any, output: PredictorOutput) -> tuple[Any, PredictorOutput]:
    """Make logits of probabilities."""
    return batch, output._replace(forward=preds_of(output.forward).float().logit())


def _checked(collector: Any) -> MetricsCollector | None:
    if not isinstance(collector, MetricsCollector | None):
        raise TypeError(
            f"`collector` must be a MetricsCollector, got {collector!r}; leave it out for that of the loss."
        )
    return collector


def _labels(
    learn: Learner, name: str, collector: MetricsCollector, n_classes: int, classes: Sequence[str] | None
) -> dict[str, CategoricalLabel]:
    """Return the class names of columns, as far as they are known."""
    if isinstance(collector, RegressionMetricsCollector):
        if classes is not None:
            raise LearnerError(f"`classes` must be left out for a regression, got {classes!r}.")
        return {}
    if classes is None and collector.column_schemas:
        return collector.column_schemas
    names = class_names(learn, name, n_classes) if classes is None else checked_names(classes, n_classes)
    return {} if names is None else {column: CategoricalLabel(column, names) for column in ("label", "predicted")}
