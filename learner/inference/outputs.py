"""What the outputs of a model mean, by the loss that it is trained with, and the probabilities in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as everybody calls it

Meaning = Literal["logits", "log_probs", "binary_logits", "probs", "values"]

MEANINGS: dict[Meaning, str] = {
    "logits": "a logit for each class, of which one is true: softmax",
    "log_probs": "a log probability for each class, of which one is true: exp",
    "binary_logits": "a logit for each class, each true or not: sigmoid",
    "probs": "probabilities as they are",
    "values": "numbers, as of a regression: no probabilities",
}

_BY_LOSS: dict[Any, Meaning] = {
    F.cross_entropy: "logits",
    nn.CrossEntropyLoss: "logits",
    F.multi_margin_loss: "logits",
    nn.MultiMarginLoss: "logits",
    F.nll_loss: "log_probs",
    nn.NLLLoss: "log_probs",
    F.binary_cross_entropy_with_logits: "binary_logits",
    nn.BCEWithLogitsLoss: "binary_logits",
    F.multilabel_soft_margin_loss: "binary_logits",
    nn.MultiLabelSoftMarginLoss: "binary_logits",
    F.binary_cross_entropy: "probs",
    nn.BCELoss: "probs",
    F.mse_loss: "values",
    nn.MSELoss: "values",
    F.l1_loss: "values",
    nn.L1Loss: "values",
    F.smooth_l1_loss: "values",
    nn.SmoothL1Loss: "values",
    F.huber_loss: "values",
    nn.HuberLoss: "values",
}

# What transformers calls the kind of a model that makes its loss itself.
_BY_PROBLEM: dict[str, Meaning] = {
    "single_label_classification": "logits",
    "multi_label_classification": "binary_logits",
    "regression": "values",
}


def meaning_of(loss_f: Callable[..., Any] | None, model: nn.Module) -> Meaning | None:
    """Return what the outputs of a model mean; None where neither the loss nor the model says.

    Args:
        loss_f: the loss of a learner: a function or module of torch, or a `partial` of one.
        model: asked where there is no loss; models of transformers know their `problem_type`.

    Example:
        >>> meaning_of(partial(F.cross_entropy, label_smoothing=0.1), nn.Linear(2, 2))
        'logits'
        >>> meaning_of(lambda preds, target: preds.mean(), nn.Linear(2, 2)) is None
        True
    """
    if loss_f is None:
        return _BY_PROBLEM.get(getattr(getattr(model, "config", None), "problem_type", None) or "")
    while isinstance(loss_f, partial):
        loss_f = loss_f.func
    if isinstance(loss_f, nn.Module):
        return next((_BY_LOSS[kind] for kind in type(loss_f).__mro__ if kind in _BY_LOSS), None)
    return _BY_LOSS.get(loss_f)


def checked_meaning(meaning: Any) -> Meaning | None:
    """Return what a person says that outputs mean, or an error that lists what can be said.

    Raises:
        ValueError: if it is none of `MEANINGS`.
    """
    if meaning is None or meaning in MEANINGS:
        return meaning  # type: ignore[no-any-return]
    listed = "; ".join(f"{name!r} ({what})" for name, what in MEANINGS.items())
    raise ValueError(f"`outputs` must be one of {listed}; got {meaning!r}.")


def probs_of(preds: Tensor, meaning: Meaning, dim: int) -> Tensor:
    """Return the probabilities in outputs.

    Args:
        preds: the outputs, in any precision.
        meaning: what they mean; not "values".
        dim: the axis of the classes.
    """
    preds = preds.to(torch.promote_types(preds.dtype, torch.float32))
    if meaning == "logits":
        return preds.softmax(dim)
    if meaning == "log_probs":
        return preds.exp()
    return preds.sigmoid() if meaning == "binary_logits" else preds
