"""What recorded samples say of a model: where it is wrong, how often, how sure of that. Start at `interpret`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from learner.history import format_value
from learner.records.calibration import Calibration, calibration
from learner.records.choosing import checked_k
from learner.records.listing import Listing
from learner.records.samples import Samples
from learner.records.schema import CategoricalLabel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_N_SHOWN = 5  # of top losses and confused pairs, in text


class Interpretation:
    """What is common to samples of classes and of numbers; `interpret` makes one of the classes below.

    Attributes:
        samples: what was measured, of one pass.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def top_losses(self, k: int = 9) -> Samples:
        """Return the k samples with the largest losses, the largest first."""
        return self.samples.top("loss", k)

    def plot_top_losses(self, k: int = 9, image: Any = None) -> Figure:
        """Draw the samples with the largest losses; return the figure.

        Args:
            k: how many.
            image: a function of a sample that gives what to draw, as `lambda sample: sample[0].reshape(8, 8)`.

        Raises:
            LearnerError: if the samples are neither images nor text, or their table is not known.
        """
        return self.samples.plot_worst(k, image=image)

    def summary(self) -> dict[str, float]:
        """Return the numbers of the first line, by name."""
        raise NotImplementedError

    def _tables(self) -> dict[str, Listing]:
        """Return what is shown below the first line, by title."""
        top = self.top_losses(_N_SHOWN)
        names = [name for name in ("example_id", "label", "target", "predicted", "loss") if name in top.scalars]
        return {"largest losses": Listing({name: top.words(name) for name in names})}

    def _first_line(self) -> str:
        split = f"{self.samples.splits[0]}: " if len(self.samples.splits) == 1 else ""
        numbers = ", ".join(f"{name} {format_value(value)}" for name, value in self.summary().items())
        return f"{split}{len(self.samples):,} samples, {numbers}"

    def __repr__(self) -> str:
        tables = [f"{title}\n{table!r}" for title, table in self._tables().items() if len(table)]
        return "\n\n".join([self._first_line(), *tables])

    def _repr_html_(self) -> str:
        from fastcore.xml import H4, Div, NotStr, P, to_xml

        parts = []
        for title, table in self._tables().items():
            parts += [Div(H4(title), NotStr(table._repr_html_()))] if len(table) else []
        return str(to_xml(Div(P(self._first_line()), *parts)))


class ClassInterpretation(Interpretation):
    """Where a classifier is wrong: confusion, precision and recall, calibration, the largest losses.

    Printed it is a text; in a notebook tables; `plot()` draws it.

    Attributes:
        samples: what was measured, with the columns `label`, `predicted`, `loss`, `confidence`.
        classes: names by class id.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        label = samples.schema("label") or samples.schema("predicted")
        self._label, self._predicted = samples.numpy("label"), samples.numpy("predicted")
        if label is None:
            known = np.unique([self._label, self._predicted])
            self._label, self._predicted = (np.searchsorted(known, ids) for ids in (self._label, self._predicted))
            label = CategoricalLabel("label", [str(name) for name in known.tolist()])
        self.classes = label.classes

    @property
    def confusion(self) -> np.ndarray:
        """How often which class was taken for which: (C, C), a row for each true class."""
        n = len(self.classes)
        known = (self._label >= 0) & (self._predicted >= 0)
        cells = self._label[known].astype(np.int64) * n + self._predicted[known]
        return np.bincount(cells, minlength=n * n).reshape(n, n)

    @cached_property
    def calibration(self) -> Calibration:
        """How often predictions are right, by how sure they are."""
        return calibration(self.samples.numpy("confidence"), self._label == self._predicted)

    def per_class(self) -> Listing:
        """Return samples, precision, recall and F1 of each class that there is, in the order of ids.

        Precision is the share of what was said to be of the class that is, recall the share of its samples that was
        said to be, F1 their harmonic mean; 0 where that is a share of nothing, as in scikit-learn.
        """
        counts = self.confusion
        hits, n_true, n_said = np.diag(counts), counts.sum(1), counts.sum(0)
        there = (n_true > 0) | (n_said > 0)
        return Listing(
            {
                "class": np.array(self.classes)[there],
                "count": n_true[there],
                "precision": (hits / np.maximum(n_said, 1))[there],
                "recall": (hits / np.maximum(n_true, 1))[there],
                "f1": (2 * hits / np.maximum(n_true + n_said, 1))[there],
            }
        )

    def most_confused(self, k: int = 10) -> Listing:
        """Return which classes were most often taken for which: true and predicted class, count, share of the true."""
        counts = self.confusion
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        wrong = counts - np.diag(np.diag(counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[: checked_k(k)]
        rows, columns = np.unravel_index(order, wrong.shape)
        kept = wrong[rows, columns] > 0
        rows, columns = rows[kept], columns[kept]
        names = np.array(self.classes)
        values = {"count": wrong[rows, columns], "share": shares[rows, columns]}
        return Listing({"label": names[rows], "predicted": names[columns], **values})

    def summary(self) -> dict[str, float]:
        """Return accuracy, mean loss and expected calibration error, by name."""
        right, loss = self._label == self._predicted, self.samples.numpy("loss")
        return {"accuracy": float(right.mean()), "loss": float(loss.mean()), "ECE": self.calibration.ece}

    def plot(self) -> Figure:
        """Draw the confusion matrix beside the reliability curve; return the figure."""
        from learner.drawing import new_figure
        from learner.records.report.pictures import counted, draw_matrix
        from learner.records.report.reliability import draw_reliability

        matrix = counted(self._label, self._predicted, self.classes)
        size = matrix.size
        figure = new_figure(figsize=(size + 6.0, max(size, 4.2)), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(size + 1.6, 4.4))
        draw_matrix(halves[0], matrix)
        draw_reliability(halves[1], self.calibration)
        return figure

    def plot_confusion(self, cell: tuple[Any, Any] | None = None, image: Any = None) -> Figure:
        """Draw the confusion matrix, with samples of a cell beside it if one is given; see `Samples.plot_confusion`."""
        return self.samples.plot_confusion(cell=cell, image=image)

    def _tables(self) -> dict[str, Listing]:
        return {"classes": self.per_class(), "most confused": self.most_confused(_N_SHOWN), **super()._tables()}


class RegressionInterpretation(Interpretation):
    """Where a regression is off: residuals, errors, the largest losses.

    Printed it is a text; in a notebook tables; `plot()` draws it.

    Attributes:
        samples: what was measured, with the columns `target`, `predicted`, `residual`, `loss`.
    """

    @property
    def residuals(self) -> np.ndarray:
        """Predicted less target, (N,) or (N, D)."""
        return self.samples.numpy("residual")

    def summary(self) -> dict[str, float]:
        """Return mean absolute and root mean square error, mean residual, and R² as in scikit-learn, by name."""
        residuals = self.residuals.astype(np.float64).reshape(len(self.samples), -1)
        target = self.samples.numpy("target").astype(np.float64).reshape(residuals.shape)
        spread = np.square(target - target.mean(0)).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):  # one target for all
            r2 = 1 - np.square(residuals).sum(0) / spread
        return {
            "MAE": float(np.abs(residuals).mean()),
            "RMSE": float(np.sqrt(np.square(residuals).mean())),
            "mean residual": float(residuals.mean()),
            "R²": float(r2.mean()),
        }

    def plot(self) -> Figure:
        """Draw predictions against targets, and how the residuals are spread; return the figure."""
        from learner.drawing import new_figure
        from learner.records.report.reliability import draw_residuals

        figure = new_figure(figsize=(9, 4), layout="constrained")
        draw_residuals(
            figure, *(self.samples.numpy(name).astype(np.float64).ravel() for name in ("target", "predicted"))
        )
        return figure


def interpret(samples: Samples) -> ClassInterpretation | RegressionInterpretation:
    """Return what recorded samples say of a model: where it is wrong, how often, and how sure of that.

    Args:
        samples: of one pass, as the collectors of classes and numbers record them: with the columns `label`,
            `predicted`, `loss` and `confidence`, or `target`, `predicted`, `residual` and `loss`. Of several epochs
            the last one counts.

    Raises:
        TypeError: if they are no `Samples`.
        ValueError: if a column is missing, there is no row, or they are of several splits.

    Example:
        >>> from learner.records.arrow import to_arrow
        >>> columns = {"label": [0, 1, 1], "predicted": [0, 1, 0]}
        >>> columns |= {"loss": [0.1, 0.2, 2.0], "confidence": [0.9, 0.8, 0.7]}
        >>> found = interpret(Samples([to_arrow({name: np.array(values) for name, values in columns.items()})]))
        >>> found.confusion.tolist(), found.most_confused()["count"].tolist()
        ([[1, 0], [1, 1]], [1])
        >>> found
        3 samples, accuracy 0.6667, loss 0.7667, ECE 0.3333
        ...
    """
    if not isinstance(samples, Samples):
        raise TypeError(f"`samples` must be Samples, got {type(samples).__name__}; of a run they are `run.samples`.")
    kinds: dict[type[ClassInterpretation | RegressionInterpretation], set[str]] = {
        ClassInterpretation: {"label", "predicted", "loss", "confidence"},
        RegressionInterpretation: {"target", "predicted", "residual", "loss"},
    }
    kind = next((kind for kind, needed in kinds.items() if needed <= set(samples.columns)), None)
    if kind is None:
        needed = " or ".join(", ".join(sorted(names)) for names in kinds.values())
        raise ValueError(f"`samples` must have the columns {needed}, got {', '.join(samples.columns) or 'none'}.")
    if len(splits := samples.splits) > 1:
        raise ValueError(f"`samples` must be of one split, got {', '.join(splits)}; do `where(split={splits[0]!r})`.")
    if not len(last := samples.last()):
        raise ValueError("`samples` must hold rows, got none; see what was chosen by `where`.")
    return kind(last)
