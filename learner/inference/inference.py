"""What a model says of samples, as `Learner.infer` returns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.data.batch import describe
from learner.errors import LearnerError
from learner.history import format_value
from learner.inference.outputs import MEANINGS, Meaning, probs_of

_MOST_ROWS, _MOST_CLASSES = 10, 5


class Inference:
    """Predictions of a model for one sample or several; printed, a table.

    Attributes:
        preds: output of the model, detached, on the CPU; without the axis of samples if one sample was passed.
        classes: names by class id; None if they are not known.
        is_one: whether one sample was passed, not several.

    Args:
        preds: as `Learner.get_preds` returns them, of several samples.
        meaning: of the outputs, one of `learner.inference.outputs.MEANINGS`; None if it is not known.
        classes: names by class id.
        is_one: whether one sample was passed.

    Example:
        >>> said = Inference(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "logits", ("cat", "dog"))
        >>> said.labels, said.predicted
        (['cat', 'dog'], tensor([0, 1]))
        >>> said
        predicted  probability     cat     dog
              cat       0.8808  0.8808  0.1192
              dog       0.7311  0.2689  0.7311
    """

    def __init__(
        self, preds: Any, meaning: Meaning | None = None, classes: tuple[str, ...] | None = None, is_one: bool = False
    ) -> None:
        self._all, self._meaning = preds, meaning
        self.classes, self.is_one = classes, is_one
        self.preds = first_of(preds) if is_one else preds

    @property
    def probs(self) -> Tensor:
        """Probabilities: of each class where there are several, (N, C, ...); of the second of two for one output (N,).

        Raises:
            LearnerError: if the model gives none, or nobody knows what its outputs mean; says how to say it.
        """
        probs = self._probs()
        return probs[0] if self.is_one else probs

    @property
    def predicted(self) -> Tensor:
        """Class ids, (N, ...): the most probable class; where each class is true or not by itself, flags (N, C).

        Raises:
            LearnerError: as `probs`.
        """
        predicted = self._predicted()
        return predicted[0] if self.is_one else predicted

    @property
    def labels(self) -> Any:
        """Names of the predicted classes, a list of them, or one name; of each sample a list where several may be true.

        Raises:
            LearnerError: as `probs`, or if nobody knows the names.
        """
        if self.classes is None:
            raise LearnerError(
                "`classes` must be known for `labels`, and nobody knows them; do `infer(x, classes=[...])`."
            )
        names = self._names(self._predicted(), self.classes)
        return names[0] if self.is_one else names

    def _probs(self) -> Tensor:
        if self._meaning is None:
            listed = "; ".join(f"`outputs={name!r}`: {what}" for name, what in MEANINGS.items())
            raise LearnerError(
                f"the loss must be one of torch's for probabilities to be known, or say what the outputs mean by "
                f"`infer(x, outputs=...)`: {listed}."
            )
        if self._meaning == "values" or not isinstance(self._all, Tensor):
            what = "numbers, no probabilities" if self._meaning == "values" else describe(self._all)
            raise LearnerError(f"the model must give one tensor with a value for each class, it gives {what}.")
        probs = probs_of(self._all, self._meaning, dim=min(1, self._all.ndim - 1))
        return probs[:, 0] if self._is_binary and probs.ndim == 2 and probs.shape[1] == 1 else probs

    @property
    def _is_binary(self) -> bool:
        """Whether each output is true or not by itself."""
        return self._meaning in ("binary_logits", "probs")

    def _predicted(self) -> Tensor:
        probs = self._probs()
        if self._is_binary:
            return (probs > 0.5).long() if probs.ndim == 1 else probs > 0.5
        return probs.argmax(1)

    def _names(self, predicted: Tensor, classes: Sequence[str]) -> list[Any]:
        if predicted.dtype is torch.bool:
            return [[name for name, is_true in zip(classes, row, strict=True) if is_true] for row in predicted.tolist()]
        names: list[Any] = np.array(classes, object)[predicted.numpy()].tolist()
        return names

    def __len__(self) -> int:
        if self.is_one:
            raise TypeError("`len` must be asked of several samples, and this is one; do `infer([x])`.")
        return _n_samples(self._all)

    # -- in words --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        columns = self._columns()
        if columns is None:
            return f"Inference: {describe(self.preds)}"
        if self.is_one:
            return "Inference: " + ", ".join(f"{name} {cells[0]}" for name, cells in columns.items())
        table = [[name, *cells] for name, cells in columns.items()]
        widths = [max(map(len, cells)) for cells in table]
        rows = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in zip(*table, strict=True)
        ]
        return "\n".join([*rows, *self._rest()])

    def _repr_html_(self) -> str:
        from fastcore.xml import Code, Div, Table, Tbody, Td, Th, Thead, Tr, to_xml

        columns = self._columns()
        if columns is None:
            return str(to_xml(Code(repr(self))))
        rows = [Tr(*map(Td, row)) for row in zip(*columns.values(), strict=True)]
        return str(to_xml(Div(Table(Thead(Tr(*map(Th, columns))), Tbody(*rows)), *self._rest())))

    def _rest(self) -> list[str]:
        n = 1 if self.is_one else len(self)
        return [f"... {n - _MOST_ROWS:,} more samples"] if n > _MOST_ROWS else []

    def _columns(self) -> dict[str, list[str]] | None:
        """Return cells by column, of the first samples; None where it is not of a class for each sample."""
        if self._meaning in (None, "values") or not isinstance(self._all, Tensor) or self._all.ndim > 2:
            return None
        few = Inference(self._all[:_MOST_ROWS], self._meaning, self.classes)
        probs, predicted = few._probs(), few._predicted()
        names = few._names(predicted, self.classes or [str(i) for i in range(self._n_classes)])
        cells = {"predicted": [", ".join(name) if isinstance(name, list) else str(name) for name in names]}
        if probs.ndim == 1:
            return cells | {"probability": _cells(torch.where(predicted == 1, probs, 1 - probs))}
        if not self._is_binary:
            cells["probability"] = _cells(probs.max(1).values)
        if probs.shape[1] <= _MOST_CLASSES:
            each = self.classes or [f"class {i}" for i in range(probs.shape[1])]
            cells |= {name: _cells(column) for name, column in zip(each, probs.T, strict=True) if name not in cells}
        return cells

    @property
    def _n_classes(self) -> int:
        return n_classes_of(self._all, self._meaning) or 0


def n_classes_of(preds: Any, meaning: Meaning | None) -> int | None:
    """Return how many classes outputs tell apart; None where they do not.

    Example:
        >>> n_classes_of(torch.zeros(4, 3), "logits"), n_classes_of(torch.zeros(4), "binary_logits")
        (3, 2)
    """
    if meaning in (None, "values") or not isinstance(preds, Tensor) or not preds.ndim:
        return None
    n = preds.shape[1] if preds.ndim > 1 else 1
    return 2 if n == 1 and meaning in ("binary_logits", "probs") else n


def first_of(preds: Any) -> Any:
    """Return what was predicted for the first sample."""
    if isinstance(preds, Tensor | list):
        return preds[0]
    if isinstance(preds, dict):
        return {name: first_of(part) for name, part in preds.items()}
    return tuple(map(first_of, preds)) if isinstance(preds, tuple) else preds


def _n_samples(preds: Any) -> int:
    if isinstance(preds, dict):
        preds = tuple(preds.values())
    return _n_samples(preds[0]) if isinstance(preds, tuple) else len(preds)


def _cells(values: Tensor) -> list[str]:
    return [format_value(value) for value in values.tolist()]
