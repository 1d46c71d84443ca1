"""The layers of a model, what they give and how many parameters they hold: `Learner.summary`."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from learner.data.loaders import Loaders
from learner.interrogate.hooks import Hook, Hooks, can_be_hooked, uncompiled
from learner.interrogate.layers import named_layers
from learner.loop.types import Learner


class LayerRow(NamedTuple):
    """One layer: dotted name, class, shape of its output, its own parameters and how many of them train."""

    name: str
    kind: str
    output: str
    n_parameters: int
    n_trainable: int


class Summary:
    """A table of layers; prints as text, shows as HTML in a notebook.

    Attributes:
        rows: a `LayerRow` for each layer that has parameters or no children.
    """

    def __init__(self, rows: list[LayerRow], n_parameters: int, n_trainable: int) -> None:
        self.rows, self.n_parameters, self.n_trainable = rows, n_parameters, n_trainable

    def _cells(self) -> list[tuple[str, ...]]:
        return [(row.name, row.kind, row.output, f"{row.n_parameters:,}", f"{row.n_trainable:,}") for row in self.rows]

    def _total(self) -> str:
        return f"{self.n_parameters:,} parameters, {self.n_trainable:,} of them trained"

    def __repr__(self) -> str:
        lines = [("layer", "class", "output", "parameters", "trained"), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*table, self._total()])

    def _repr_html_(self) -> str:
        from fastcore.xml import Div, P, Table, Tbody, Td, Th, Thead, Tr, to_xml

        head = Thead(Tr(*[Th(name) for name in ("layer", "class", "output", "parameters", "trained")]))
        body = Tbody(*[Tr(*[Td(cell) for cell in cells]) for cells in self._cells()])
        html: str = to_xml(Div(Table(head, body), P(self._total())))
        return html


def summary(learn: Learner) -> Summary:
    """Run one batch in a sandbox; return a table of layers, output shapes and parameters."""
    layers = {
        name: module
        for name, module in named_layers(learn.model).items()
        if not any(True for _ in module.children()) or any(True for _ in module.parameters(recurse=False))
    }
    shapes: dict[int, str] = {}

    def take_shape(hook: Hook, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        shapes[id(module)] = _shape(output)

    with learn.sandbox(), Hooks(filter(can_be_hooked, layers.values()), take_shape), uncompiled():
        # Processes that train together look at one batch, each at its share.
        learn.get_preds(learn.job.from_first(partial(_first_batch, learn), at="a batch to look at"))
    rows = []
    for name, module in layers.items():
        own = list(module.parameters(recurse=False))
        sizes = (sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad))
        output = shapes.get(id(module), "not run" if can_be_hooked(module) else "scripted")
        rows.append(LayerRow(name or "(model)", type(module).__name__, output, *sizes))
    parameters = list(learn.model.parameters())  # each once, also where layers share one
    trainable = [p for p in parameters if p.requires_grad]
    return Summary(rows, sum(map(torch.numel, parameters)), sum(map(torch.numel, trainable)))


def _first_batch(learn: Learner) -> list[Any]:
    return [next(iter(next(iter(Loaders.of(learn.dls).values()))))]


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shape, value))}]"
    return type(value).__name__
