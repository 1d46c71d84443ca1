"""The learning rates an optimizer was made with, so that each fit can start from the rate asked for."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class BaseRates:
    """Set the rate of every parameter group; a group with a rate of its own keeps its proportion to the others.

    Args:
        opt: the optimizer.
        lr: the rate it was made with.

    Example:
        >>> import torch
        >>> p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> opt = torch.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.01}], lr=0.1)
        >>> BaseRates(opt, 0.1).start_from(0.5)
        >>> [group["lr"] for group in opt.param_groups]
        [0.5, 0.05]
    """

    def __init__(self, opt: Optimizer, lr: float) -> None:
        self.opt = opt
        self._lr = lr
        self._of_groups: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {"lr": self._lr, "of_groups": list(self._of_groups)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._lr, self._of_groups = state["lr"], list(state["of_groups"])

    def start_from(self, lr: float) -> None:
        """Set the rates; a group that has come since is taken as it is now."""
        groups = self.opt.param_groups
        self._of_groups += [float(group["lr"]) for group in groups[len(self._of_groups) :]]
        for group, rate in zip(groups, self._of_groups, strict=False):
            now = lr if rate == self._lr or not self._lr else rate * (lr / self._lr)
            group["lr"] = group["lr"].fill_(now) if isinstance(group["lr"], Tensor) else now
