"""The options of an optimizer when a fit begins, kept so that what a schedule changes can be put back."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from torch.optim import Optimizer

from learner.checkpoint.resume import options_of
from learner.optim.several import parts_of

_REPLACED = ("step", "_opt_called")  # by torch's schedules in the optimizer; a wrapped `step` cannot be pickled


class OptimizerOptions(NamedTuple):
    """The options of an optimizer before a schedule is made for it; learning rates are not among them.

    Attributes:
        opt: the optimizer.
        groups: the options of each parameter group.
        attributes: what the optimizer itself has that a schedule replaces; of several as one, what each of them has.

    Example:
        >>> import torch
        >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
        >>> options = OptimizerOptions.of(opt)
        >>> opt.param_groups[0].update(lr=0.2, momentum=0.5, initial_lr=0.1)
        >>> options.put_back()
        >>> group = opt.param_groups[0]
        >>> group["lr"], group["momentum"], "initial_lr" in group
        (0.2, 0.9, False)
    """

    opt: Optimizer
    groups: list[dict[str, Any]]
    attributes: list[dict[str, Any]]

    @classmethod
    def of(cls, opt: Optimizer) -> Self:
        """Return the options that an optimizer has now."""
        holders = optimizers_in(opt)
        return cls(opt, options_of(opt), [{n: vars(one)[n] for n in _REPLACED if n in vars(one)} for one in holders])

    def put_back(self) -> None:
        """Set all of it again; delete what a schedule has added."""
        opt = self.opt
        for one, attributes in zip(optimizers_in(opt), self.attributes, strict=True):
            for name in _REPLACED:
                vars(one).pop(name, None)
            vars(one).update(attributes)
        for group, options in zip(opt.param_groups, self.groups, strict=False):
            # An `initial_lr` that stays would be the base of the next schedule.
            for key in group.keys() - options.keys() - {"params", "lr"}:
                del group[key]
            group.update(options)
        for group in opt.param_groups[len(self.groups) :]:  # added since
            group.pop("initial_lr", None)


def optimizers_in(opt: Optimizer) -> list[Optimizer]:
    """Return an optimizer and, where it is several as one, those that it is made of."""
    return [opt, *(part for part in parts_of(opt) if part is not opt)]
