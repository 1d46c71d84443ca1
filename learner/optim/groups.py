"""Parameter groups of an optimizer that is there already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def add_to(opt: Optimizer, what: nn.Module | Tensor | Iterable[Tensor], **options: Any) -> None:
    """Give an optimizer parameters that came after it was made, as a group of their own; its moments are kept.

    Args:
        opt: the optimizer, as `learn.opt`.
        what: a module, a parameter, or several. Frozen ones and those that the optimizer holds are left as they are.
        options: of the group, as `lr=1e-3`; for those left out, the values that the optimizer was made with hold.

    Raises:
        TypeError: if `opt` is not an optimizer.
        ValueError: if `what` holds no parameter that can be trained and is new to the optimizer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> model[1] = nn.Linear(2, 3)
        >>> add_to(opt, model, lr=0.01)
        >>> [(len(group["params"]), group["lr"], group["momentum"]) for group in opt.param_groups]
        [(4, 0.1, 0.9), (2, 0.01, 0.9)]
    """
    if not isinstance(opt, Optimizer):
        raise TypeError(f"`opt` must be an optimizer, got {type(opt).__name__}; fit first, or leave it to `opt_func`.")
    given = what.parameters() if isinstance(what, nn.Module) else [what] if isinstance(what, Tensor) else what
    held = {p for group in opt.param_groups for p in group["params"]}
    new = [p for p in dict.fromkeys(given) if p.requires_grad and p not in held]
    if not new:
        raise ValueError("`what` must hold a parameter that can be trained and that `opt` does not hold, got none.")
    opt.add_param_group({"params": new, **options})
