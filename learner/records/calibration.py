"""Whether a classifier is as often right as it is sure: the reliability curve, and how far it is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.data.numbers import whole_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """How often predictions are right, by how sure they are: arrays of one entry per bin of confidence.

    Attributes:
        edges: of the bins, one more than there are bins [0-1].
        counts: how many predictions are in each.
        confidence: their mean confidence [0-1]; NaN in an empty bin.
        accuracy: the share of them that is right [0-1]; NaN in an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: how far accuracy and confidence are apart in a bin, on average [0-1].

        Source:
            Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
        """
        gaps = np.abs(self.accuracy - self.confidence)[self.counts > 0]
        return float(gaps @ self.counts[self.counts > 0] / max(self.counts.sum(), 1))

    def plot(self) -> Figure:
        """Draw the reliability curve above how many predictions are how sure; return the figure."""
        from learner.drawing import new_figure
        from learner.records.report.reliability import draw_reliability

        figure = new_figure(figsize=(5, 5), layout="constrained")
        draw_reliability(figure, self)
        return figure

    def __repr__(self) -> str:
        return f"Calibration: ECE {self.ece:.4f} of {self.counts.sum():,} predictions in {len(self.counts)} bins"


def calibration(confidence: Any, is_right: Any, n_bins: int = 15) -> Calibration:
    """Return how often predictions are right, by how sure they are.

    Args:
        confidence: probability of the class that was predicted, of each sample [0-1]; NaN is left out.
        is_right: whether it was right.
        n_bins: bins of equal width; each holds its upper edge.

    Raises:
        ValueError: if there is no bin, the lengths differ, or a confidence is none.

    Example:
        >>> found = calibration([0.9, 0.9, 0.6], [True, False, True], n_bins=10)
        >>> round(found.ece, 4), found.counts.tolist()
        (0.4, [0, 0, 0, 0, 0, 1, 0, 0, 2, 0])
    """
    n = whole_number(n_bins, "n_bins")
    if n < 1:
        raise ValueError(f"`n_bins` must be at least 1, got {n}.")
    sure, right = np.asarray(confidence, np.float64), np.asarray(is_right, np.float64)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"`is_right` must be one flag per confidence, got shapes {right.shape} and {sure.shape}.")
    sure, right = sure[~np.isnan(sure)], right[~np.isnan(sure)]
    if ((sure < 0) | (sure > 1 + 1e-6)).any():
        raise ValueError("`confidence` must be probabilities from 0 to 1; make some of logits by softmax.")
    edges = np.linspace(0, 1, n + 1)
    bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, n - 1)
    counts = np.bincount(bins, minlength=n)
    with np.errstate(invalid="ignore"):  # an empty bin
        means = [np.bincount(bins, values, minlength=n) / counts for values in (sure, right)]
    return Calibration(edges, counts, *means)
