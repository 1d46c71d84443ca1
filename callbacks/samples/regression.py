"""How far a regression is off for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.samples.collectors import Columns, MetricsCollector, misfit, target_of
from learner import PredictorOutput
from learner.data.feed import preds_of


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
            raise misfit(self.name, "predictions (N,) or (N, D)", "targets of that shape", preds, target)
        preds, target = (x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x for x in (preds, target))
        if preds.shape != target.shape:
            raise misfit(self.name, "predictions (N,) or (N, D)", "targets of that shape", preds, target)
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
