"""Modules that `torch.export` made: they run in the mode of their export, and refuse to be given another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from learner.errors import LearnerError


@contextmanager
def exports_passed_over(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    """Let `train` of a model pass over exported modules in it, for a block of code.

    Raises:
        LearnerError: if it is to be evaluated, and one would drop units or normalise by the batch for good.
    """
    exports = [m for m in modules if getattr(vars(m).get("train"), "__module__", "") == "torch.export.exported_program"]
    if not training and any(_is_for_training(node) for module in exports for node in module.graph.nodes):  # type: ignore[union-attr]
        raise LearnerError(
            "an exported module must be exported in evaluation mode to be validated, got one that drops units or "
            "normalises by the batch for good; call `model.eval()` before `torch.export.export`, and train the model "
            "that it is exported from."
        )
    refusals = [vars(module)["train"] for module in exports]
    for module in exports:
        vars(module)["train"] = partial(_stay, module)
    try:
        yield
    finally:
        for module, refusal in zip(exports, refusals, strict=True):
            vars(module)["train"] = refusal


def _is_for_training(node: torch.fx.Node) -> bool:
    """Tell whether an operation has a mode, which is training, and is another one in it."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    given: dict[str, Any] = dict(zip((a.name for a in node.target._schema.arguments), node.args, strict=False))
    given |= node.kwargs
    has_chance = given.get("p", given.get("dropout", 1)) != 0
    return has_chance and True in (given.get("train"), given.get("training"))


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
