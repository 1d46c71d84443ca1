"""What a classifier said of each sample, and how sure it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.samples.collectors import Columns, MetricsCollector, Preprocess, misfit, target_of
from learner import LearnerError, PredictorOutput
from learner.data.batch import describe
from learner.data.feed import preds_of
from learner.records.schema import CategoricalLabel


class ClassificationMetricsCollector(MetricsCollector):
    """What a classifier said of each sample.

    Columns: `label`, `predicted` (class ids); `loss` (cross entropy); `accuracy` (1 if right, else 0, also where logits
    are NaN); `confidence` (probability of the class that was predicted); `true_probability` (of the label); `margin`
    (logit of the label less the largest other logit: below 0 is wrong); `entropy` of the probabilities [nats].

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
            # Of NaN the largest is the first: a model that says nothing is not right.
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


def _as_classes(logits: Any, label: Any) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) in at least float32, and class ids (N,)."""
    wanted = "logits (N, C) or (N,)", "labels (N,)"
    if not isinstance(logits, Tensor) or not isinstance(label, Tensor):
        raise misfit("ClassificationMetricsCollector", *wanted, logits, label)
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        one = logits.reshape(-1)
        logits = torch.stack([torch.zeros_like(one), one], 1)  # whose softmax is the sigmoid of the one
        label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    elif label.is_floating_point():
        raise misfit("ClassificationMetricsCollector", *wanted, logits, label)
    if logits.ndim != 2 or label.shape != logits.shape[:1] or logits.is_complex():
        raise misfit("ClassificationMetricsCollector", *wanted, logits, label)
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
