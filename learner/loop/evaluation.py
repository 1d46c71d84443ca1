"""Optimizers with weights of their own to evaluate with, as schedule-free ones: those with `train()` and `eval()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from learner.loop.types import Learner
from learner.optim.several import parts_of


class EvaluationWeights:
    """Switch an optimizer between the weights that it trains and those to evaluate with.

    `opt.eval()` and `opt.train()` compute one from the other, which is not exact, so the trained ones are put back by a
    copy: a validation does not change what is trained.

    Args:
        opt: an optimizer that has `train` and `eval`; it is made to train.
    """

    def __init__(self, opt: Any) -> None:
        self._parts: list[Any] = [part for part in parts_of(opt) if _has_modes(part)]
        self._trained: list[tuple[Tensor, Tensor]] | None = None  # parameters and copies, while it evaluates
        for part in self._parts:
            part.train()

    def enter(self) -> bool:
        """Have the weights to evaluate with in the model; return False where they are there already."""
        if self._trained is not None:
            return False
        parameters = [p for part in self._parts for group in part.param_groups for p in group["params"]]
        self._trained = [(p, p.detach().clone()) for p in parameters]
        for part in self._parts:
            part.eval()
        return True

    def leave(self) -> None:
        """Have the trained weights in the model, as they were."""
        for part in self._parts:
            part.train()
        with torch.no_grad():
            for p, trained in self._trained or ():
                p.copy_(trained)
        self._trained = None

    @contextmanager
    def left(self) -> Iterator[None]:
        """Have the trained weights in the model for a block of code, whatever is there."""
        was_inside = self._trained is not None
        if was_inside:
            self.leave()
        try:
            yield
        finally:
            if was_inside:
                self.enter()


def has_modes(opt: Any) -> bool:
    """Tell whether an optimizer, or one of several, has weights of its own to evaluate with."""
    return any(map(_has_modes, parts_of(opt)))


def _has_modes(opt: Any) -> bool:
    return callable(getattr(opt, "train", None)) and callable(getattr(opt, "eval", None))


@contextmanager
def trained_then_evaluated(learn: Learner) -> Iterator[None]:
    """Train for a block of code, and have the weights to evaluate with in the model from then on."""
    if not has_modes(learn.opt):
        yield
        return
    weights = learn._evaluation = EvaluationWeights(learn.opt)
    try:
        yield
    finally:
        weights.enter()


@contextmanager
def evaluated(learn: Learner) -> Iterator[None]:
    """Have the weights to evaluate with in the model for a pass that does not train."""
    weights = learn._evaluation
    is_entered = weights is not None and not learn.training and weights.enter()
    try:
        yield
    finally:
        if weights is not None and is_entered:
            weights.leave()
