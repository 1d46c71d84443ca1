"""The parameter groups of an optimizer as a table: names, parameters, rate, decay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

_N_NAMES = 3  # in a cell


def groups_text(opt: Optimizer, labels: Sequence[str] | None = None) -> str:
    """Return the class of an optimizer and the table of its groups, each with a label, if there are some."""
    table = _table(opt, labels)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n  ".join([type(opt).__name__, *lines])


def groups_html(opt: Optimizer, labels: Sequence[str] | None = None) -> str:
    """Return the same for a notebook."""
    from fastcore.xml import Div, P, Table, Tbody, Td, Th, Thead, Tr, to_xml

    head, *rows = _table(opt, labels)
    body = Tbody(*[Tr(*map(Td, row)) for row in rows])
    html: str = to_xml(Div(P(type(opt).__name__), Table(Thead(Tr(*map(Th, head))), body)))
    return html


class ShowsGroups:
    """Mixed into a class of optimizers, which then shows its groups."""

    def __repr__(self: Any) -> str:
        return groups_text(self)

    def _repr_html_(self: Any) -> str:
        return groups_html(self)

    def __reduce__(self: Any) -> tuple[Any, ...]:  # the class was made while the program runs: pickle cannot import it
        return _new, (type(self).__mro__[2],), self.__getstate__()


@cache
def showing(opt_class: Any) -> Any:
    """Return a class of optimizers that shows its groups, and in all else, name included, is the one that was given.

    Example:
        >>> import torch
        >>> showing(torch.optim.SGD)([("weight", nn.Parameter(torch.zeros(2, 3)))], lr=0.1)
        SGD
          names   parameters  lr   weight_decay
          weight  6           0.1  0
    """
    names = ("__module__", "__qualname__", "__doc__")
    same = {name: getattr(opt_class, name) for name in names}
    return type(opt_class.__name__, (ShowsGroups, opt_class), same)


def _new(opt_class: Any) -> Any:
    made = showing(opt_class)
    return made.__new__(made)


def _table(opt: Optimizer, labels: Sequence[str] | None) -> list[list[str]]:
    head = ["names", "parameters", "lr", "weight_decay"]
    rows = [_row(group) for group in opt.param_groups]
    if labels is None:
        return [head, *rows]
    return [["optimizer", *head], *([label, *row] for label, row in zip(labels, rows, strict=True))]


def _row(group: dict[str, Any]) -> list[str]:
    names = group.get("param_names") or [f"{len(group['params'])} without names"]
    more = f" and {len(names) - _N_NAMES} more" if len(names) > _N_NAMES else ""
    decay = group.get("weight_decay")
    return [
        ", ".join(names[:_N_NAMES]) + more,
        _count(group["params"]),
        f"{float(group['lr']):.4g}",
        "" if decay is None else f"{float(decay):.4g}",
    ]


def _count(parameters: Sequence[nn.Parameter]) -> str:
    if any(map(is_lazy, parameters)):
        return "not made yet"
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    return f"{sum(p.numel() for p in parameters):,}" + (f", {frozen:,} frozen" if frozen else "")
