"""The options of an optimizer when a fit begins, kept so that what a schedule changes can be put back."""

from __future__ import annotations

from torch.optim import Optimizer

from learner.checkpoint.resume import options_of

_REPLACED = ("step", "_opt_called")  # by torch's schedules in the optimizer; a wrapped `step` cannot be pickled


class OptimizerOptions:
    """Keep the options of an optimizer's parameter groups, and put them back; learning rates stay as they are.

    Args:
        opt: the optimizer, before a schedule is made for it.

    Attributes:
        opt: as given.
        groups: the options of each group, without parameters and learning rate.

    Example:
        >>> import torch
        >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
        >>> options = OptimizerOptions(opt)
        >>> opt.param_groups[0].update(lr=0.2, momentum=0.5, initial_lr=0.1)
        >>> options.put_back()
        >>> group = opt.param_groups[0]
        >>> group["lr"], group["momentum"], "initial_lr" in group
        (0.2, 0.9, False)
    """

    def __init__(self, opt: Optimizer) -> None:
        self.opt = opt
        self.groups = options_of(opt)
        self._attributes = {name: vars(opt)[name] for name in _REPLACED if name in vars(opt)}

    def put_back(self) -> None:
        """Put the options back, and what a schedule replaces in the optimizer itself."""
        opt = self.opt
        for name in _REPLACED:
            vars(opt).pop(name, None)
        vars(opt).update(self._attributes)
        for group, options in zip(opt.param_groups, self.groups, strict=False):
            # An `initial_lr` that stays would be the base of the next schedule.
            for key in group.keys() - options.keys() - {"params", "lr"}:
                del group[key]
            group.update(options)
        for group in opt.param_groups[len(self.groups) :]:  # added since
            group.pop("initial_lr", None)
