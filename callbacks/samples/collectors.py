"""Collectors: make of a batch and what a model gave for it the columns of a table, a row for each sample."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from learner import LearnerError, PredictorOutput
from learner.data.batch import describe, fields_of
from learner.data.feed import preds_of
from learner.data.fields import TARGET_NAMES
from learner.data.signature import nearest
from learner.interrogate.layers import fits
from learner.records.schema import CategoricalLabel, checked_schemas

Columns = Mapping[str, Any]
Preprocess = Callable[[Any, PredictorOutput], tuple[Any, PredictorOutput]]

_KNOWN = {torch.bool, torch.float16, torch.float32, torch.float64} | {  # to NumPy; it has no bfloat16
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
}
KEYS = ("example_id", "epoch", "step", "split")  # columns that say which sample it is, and when


class MetricsCollector(ABC):
    """Base of collectors: override `compute_metrics`.

    Args:
        preprocess_fn: `(batch, predictor_output) -> (batch, predictor_output)`, called first.
        compute_aggregates: whether columns are averaged as well.

    Attributes:
        layers: layers whose outputs it needs, as for `Predictor`; they are in `predictor_output.hidden_layers`.

    Example:
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
        return made

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


class ClassificationMetricsCollector(MetricsCollector):
    """What a classifier said of each sample.

    Columns: `label`, `predicted` (class ids); `loss` (cross entropy); `accuracy` (1 if right, else 0); `confidence`
    (probability of the class that was predicted); `true_probability` (of the label); `margin` (logit of the label less
    the largest other logit: below 0 is wrong); `entropy` of the probabilities [nats].

    Args:
        classes: names of the classes in the order of their ids, or `{id: name}`.
        loss_fn: `(logits, labels) -> loss per sample (N,)` in the place of cross entropy; it gets both as they come.
        preprocess_fn: as for `MetricsCollector`; has to make `(inputs, labels)` of batches that are no such pair, nor a
            mapping with a field of `targets target labels label y`.
        compute_aggregates: as for `MetricsCollector`.

    Shapes:
        Logits (N, C) and labels (N,); or (N,) or (N, 1) for two classes, with labels (N,) or (N, 1) of 0 and 1.

    Source:
        The margin is that of Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking"
        (2020).

    Example:
        >>> collector = ClassificationMetricsCollector(classes=["cat", "dog"])
        >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 0])
        >>> columns = collector.collect((None, labels), PredictorOutput(logits, {}))
        >>> columns["predicted"], columns["margin"]
        (tensor([0, 1]), tensor([ 2., -2.]))
    """

    def __init__(
        self,
        classes: Sequence[str] | Mapping[int, str] | None = None,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        preprocess_fn: Preprocess | None = None,
        compute_aggregates: bool = True,
    ) -> None:
        super().__init__(preprocess_fn, compute_aggregates)
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"`loss_fn` must be a function of (logits, labels), got {loss_fn!r}.")
        self.loss_fn = loss_fn
        self._n_classes = 0  # of the last batch
        names = ("label", "predicted")
        self._schemas = {} if classes is None else {name: CategoricalLabel(name, classes) for name in names}

    @property
    def column_schemas(self) -> dict[str, CategoricalLabel]:
        """The classes, of `label` and `predicted`."""
        return self._schemas

    @property
    def averaged(self) -> Callable[[str], bool]:
        """All but class ids, with names or not."""
        return lambda column: column not in ("label", "predicted")

    def compute_metrics(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Compare logits and labels.

        Raises:
            LearnerError: if there are none, their shapes do not belong together, or a label is no class.
        """
        return self._compared(self._compared_later(batch, predictor_output))

    def keep(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Return logits and labels: to compare those of many batches at once takes a fraction of the time."""
        if type(self).compute_metrics is not ClassificationMetricsCollector.compute_metrics:
            return self.collect(batch, predictor_output)
        return self._compared_later(*self._preprocessed(batch, predictor_output))

    def finish(self, kept: Columns) -> Columns:
        """Compare them."""
        if type(self).compute_metrics is not ClassificationMetricsCollector.compute_metrics:
            return kept
        return self._compared({name: torch.as_tensor(values) for name, values in kept.items()})

    def _compared_later(self, batch: Any, predictor_output: PredictorOutput) -> dict[str, Tensor]:
        given, target = preds_of(predictor_output.forward), target_of(batch, predictor_output, self.name)
        logits, label = _as_classes(given, target)
        self._n_classes = logits.shape[1]
        if self._schemas and len(self._schemas["label"].classes) != self._n_classes:
            raise LearnerError(
                f"`classes` must be a name for each of the {self._n_classes} logits, got "
                f"{len(self._schemas['label'].classes)}."
            )
        if label.is_cpu and len(label):
            self._check_ids(*(limit.item() for limit in label.aminmax()))  # half the time that NumPy takes in between
        kept = {"logits": logits, "label": label}
        if self.loss_fn is not None:
            kept["loss"] = _per_sample(self.loss_fn(given, target), len(label))
        return kept

    def _compared(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits, label = kept["logits"], kept["label"]
        at_label = label[:, None]
        if not label.is_cpu:
            # An index outside would end the process there, and looking at it would wait: `check` finds it later.
            at_label = at_label.clamp(0, logits.shape[1] - 1)
            logits = logits.masked_fill(at_label != label[:, None], torch.nan)
        log_probabilities = logits.log_softmax(1)
        probabilities = log_probabilities.exp()
        confidence, predicted = probabilities.max(1)
        loss = -log_probabilities.gather(1, at_label)[:, 0]
        others = logits.scatter(1, at_label, -torch.inf).amax(1)
        return {
            "label": label,
            "predicted": predicted,
            "loss": kept.get("loss", loss),
            "accuracy": ((predicted == label) & ~confidence.isnan()).float(),
            "confidence": confidence,
            "true_probability": probabilities.gather(1, at_label)[:, 0],
            "margin": logits.gather(1, at_label)[:, 0] - others,
            "entropy": torch.special.entr(probabilities).sum(1),
        }

    def check(self, columns: Mapping[str, np.ndarray]) -> None:
        """Refuse labels that are no class."""
        if self._n_classes and "label" in columns:  # not of a subclass with columns of its own
            self._check_ids(columns["label"].min(), columns["label"].max())

    def _check_ids(self, lowest: Any, highest: Any) -> None:
        if lowest < 0 or highest >= self._n_classes:
            raise LearnerError(
                f"labels must be class ids from 0 to {self._n_classes - 1}, got {lowest if lowest < 0 else highest}; "
                f"leave samples without a class out of the data, or give them one by `preprocess_fn`."
            )


class RegressionMetricsCollector(MetricsCollector):
    """How far a regression is off for each sample.

    Columns: `target`, `predicted`, `residual` (predicted less target), each (N,) or (N, D); `loss` (mean of the squared
    residuals over D) and `absolute_error` (the same of absolute ones), (N,).

    Args:
        preprocess_fn: as for `ClassificationMetricsCollector`.
        compute_aggregates: as for `MetricsCollector`.

    Shapes: predictions and targets (N,), (N, 1) or (N, D), the same for both but for a 1.

    Example:
        >>> output = PredictorOutput(torch.tensor([[1.0], [4.0]]), {})
        >>> RegressionMetricsCollector().collect((None, torch.tensor([1.0, 2.0])), output)["residual"]
        tensor([0., 2.])
    """

    def compute_metrics(self, batch: Any, predictor_output: PredictorOutput) -> Columns:
        """Compare predictions and targets.

        Raises:
            LearnerError: if there are none, or their shapes differ.
        """
        preds, target = preds_of(predictor_output.forward), target_of(batch, predictor_output, self.name)
        if not isinstance(preds, Tensor) or not isinstance(target, Tensor) or not 0 < preds.ndim < 3:
            raise _misfit(self.name, "predictions (N,) or (N, D)", "targets of that shape", preds, target)
        preds, target = (x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x for x in (preds, target))
        if preds.shape != target.shape:
            raise _misfit(self.name, "predictions (N,) or (N, D)", "targets of that shape", preds, target)
        kind = torch.promote_types(torch.promote_types(preds.dtype, target.dtype), torch.float32)
        residual = preds.to(kind) - target.to(kind)
        per_sample = residual.reshape(len(residual), -1)
        return {
            "target": target,
            "predicted": preds,
            "residual": residual,
            "loss": per_sample.square().mean(1),
            "absolute_error": per_sample.abs().mean(1),
        }


def target_of(batch: Any, predictor_output: PredictorOutput, name: str) -> Any:
    """Return the labels of a batch: what a Learner took for the target; else a field that is called so, or the last.

    Raises:
        LearnerError: if there is none; `name` is that of the collector, for the error.
    """
    known = predictor_output.metadata
    if isinstance(known, Mapping) and known.get("target") is not None:
        return known["target"]
    fields = fields_of(batch)
    if fields is not None:
        for key in TARGET_NAMES:
            if key in fields:
                return fields[key]
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return batch[-1]
    raise LearnerError(
        f"{name} must find labels in a batch, as the last element or as one of {' '.join(TARGET_NAMES)}, got "
        f"{describe(batch)}; make (inputs, labels) of it by `preprocess_fn`."
    )


def _as_classes(logits: Any, label: Any) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) in at least float32, and class ids (N,)."""
    wanted = "logits (N, C) or (N,)", "labels (N,)"
    if not isinstance(logits, Tensor) or not isinstance(label, Tensor):
        raise _misfit("ClassificationMetricsCollector", *wanted, logits, label)
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        one = logits.reshape(-1)
        logits = torch.stack([torch.zeros_like(one), one], 1)  # whose softmax is the sigmoid of the one
        label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    elif label.is_floating_point():
        raise _misfit("ClassificationMetricsCollector", *wanted, logits, label)
    if logits.ndim != 2 or label.shape != logits.shape[:1] or logits.is_complex():
        raise _misfit("ClassificationMetricsCollector", *wanted, logits, label)
    ids = label.long()
    if label.is_floating_point():
        ids = torch.where(ids == label, ids, -1)  # a soft label is no class
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), ids


def _per_sample(losses: Any, n_samples: int) -> Tensor:
    """Return what a loss function gave as (N,)."""
    if not isinstance(losses, Tensor) or losses.shape not in ((n_samples,), (n_samples, 1)):
        raise LearnerError(
            f"`loss_fn` must return a loss for each of the {n_samples} samples, got {describe(losses)}; give it "
            f"`reduction='none'`."
        )
    return losses.reshape(-1)


def _misfit(name: str, output: str, target: str, got: Any, got_target: Any) -> LearnerError:
    return LearnerError(
        f"{name} must be given {output} and {target}, got {describe(got)} and {describe(got_target)}; change them by "
        f"`preprocess_fn`."
    )


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


def columns_of(name: str, columns: Any, n_rows: int) -> dict[str, Tensor | np.ndarray]:
    """Return what a collector gave with a row for each sample, or say what is wrong with it.

    Arrays, which share the memory of tensors; but tensors that are not on the CPU stay where they are.

    Args:
        name: of the collector.
        columns: what it gave.
        n_rows: samples in the batch.

    Raises:
        LearnerError: if it is no mapping, or a column is none: of another length, a scalar, ragged, in the graph.
    """
    if not isinstance(columns, Mapping):
        raise LearnerError(f"{name} must return a dict of columns, got {describe(columns)}.")
    made: dict[str, Tensor | np.ndarray] = {}
    for column, values in columns.items():
        if not isinstance(column, str) or not column:
            raise LearnerError(f"columns of {name} must be named by strings, got {column!r}.")
        where = partial("column {!r} of {}".format, column, name)
        if column in KEYS:
            raise LearnerError(f"{where()} must have another name, which says already what a row is of; rename it.")
        made[column] = found = _column(where, values)
        shape = found.shape
        if not 0 < len(shape) < 3 or 0 in shape[1:]:
            raise LearnerError(
                f"{where()} must have a value (N,) or a row (N, D) for each sample, got shape {tuple(shape)}."
            )
        if shape[0] != n_rows:
            raise LearnerError(f"{where()} must have a row for each of the {n_rows} samples, got {shape[0]}.")
    return made


def _column(where: Callable[[], str], values: Any) -> Tensor | np.ndarray:
    if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
        is_even = len({(value.shape, value.device) for value in values}) == 1
        values = torch.stack(list(values)) if is_even else values
    if isinstance(values, Tensor) and values.requires_grad:
        raise LearnerError(f"{where()} must be free of the graph, which it would keep alive; `.detach()` it.")
    made = _of_tensor(values) if isinstance(values, Tensor) else _of_others(values)
    if made is None:
        raise LearnerError(
            f"{where()} must hold numbers, bools or strings, as many for each sample, got {describe(values)}; pad it, "
            f"or make one number of it."
        )
    return made


def _of_tensor(values: Tensor) -> Tensor | np.ndarray | None:
    if values.dtype not in _KNOWN or values.layout is not torch.strided:
        return _of_tensor(values.float()) if values.is_floating_point() and values.dtype not in _KNOWN else None
    return values.numpy() if values.is_cpu else values


def _of_others(values: Any) -> np.ndarray | None:
    is_listed = isinstance(values, list | tuple)
    try:
        array = np.asarray([_plain(value) for value in values] if is_listed else values)
    except ValueError:
        return None
    if array.dtype.kind in "biuf":
        return array
    if array.ndim != 1:
        return None
    # A list of numbers and strings has become one of strings.
    is_text = (array.dtype.kind == "U" and not is_listed) or all(isinstance(value, str) for value in values)
    return array if is_text else None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
