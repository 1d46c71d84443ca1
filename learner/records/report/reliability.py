"""Pictures of how far predictions can be relied on: reliability curves, and residuals of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from learner.records.calibration import Calibration

_BODY, _GAP = "#3f90da", "#d2391a"  # of medium lightness: to be seen on light and dark ground


def draw_reliability(part: FigureBase, found: Calibration) -> None:
    """Draw a reliability curve above the number of predictions in each bin, into a figure or a part of one."""
    above, below = part.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    known = found.counts > 0
    above.plot([0, 1], [0, 1], color="#9a9fa6", lw=1, ls="--", label="as often right as sure")
    above.plot(found.confidence[known], found.accuracy[known], color=_BODY, marker="o", ms=4, label="measured")
    ends = np.stack([found.accuracy[known], found.confidence[known]])
    above.vlines(found.confidence[known], ends.min(0), ends.max(0), color=_GAP, lw=1, alpha=0.6)
    above.set(ylabel="share that is right", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    above.set_title(f"calibration, ECE {found.ece:.4f}", fontsize="medium")
    above.legend(frameon=False, fontsize="small")
    below.bar(
        (found.edges[1:] + found.edges[:-1]) / 2, found.counts, width=np.diff(found.edges), color=_BODY, ec="none"
    )
    below.set(xlabel="confidence", ylabel="samples", yscale="symlog")
    below.set_yticks([0, 10 ** int(np.log10(max(int(found.counts.max(initial=1)), 1)))])
    _without_frame(above, below)


def draw_residuals(part: FigureBase, target: np.ndarray, predicted: np.ndarray) -> None:
    """Draw predictions against targets, and how the residuals are spread, into a figure or a part of one.

    Shapes: both (N,); what is not finite is left out.
    """
    known = np.isfinite(target) & np.isfinite(predicted)
    target, predicted = target[known], predicted[known]
    left, right = part.subplots(1, 2)
    style: dict[str, Any] = {"s": float(np.clip(20_000 / max(len(target), 1), 3, 36)), "alpha": 0.5, "linewidths": 0}
    left.scatter(target, predicted, color=_BODY, rasterized=True, **style)
    if len(target):
        ends = [min(target.min(), predicted.min()), max(target.max(), predicted.max())]
        left.plot(ends, ends, color="#9a9fa6", lw=1, ls="--")
    left.set(xlabel="target", ylabel="predicted")
    left.set_title(f"{len(target):,} samples", fontsize="medium")
    residual = predicted - target
    right.hist(residual, bins=min(60, 10 + int(len(residual) ** 0.5)), color=_BODY)
    right.axvline(0, color="#9a9fa6", lw=1, ls="--")
    right.set(xlabel="residual, predicted less target", ylabel="samples")
    right.set_title(f"mean {residual.mean() if len(residual) else 0:.4g}", fontsize="medium")
    _without_frame(left, right)


def _without_frame(*axes: Any) -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
