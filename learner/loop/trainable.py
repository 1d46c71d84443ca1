"""Everything trainable is accounted for: parameters of the model and of a loss that is a module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from learner.errors import LearnerError
from learner.interrogate.layers import inside
from learner.loop.checks import nothing_to_train
from learner.loop.closure import needs_closure
from learner.loop.rates import BaseRates
from learner.loop.types import Learner

_N_LISTED = 6  # names in an error


def named_parameters(learn: Learner) -> dict[str, nn.Parameter]:
    """Return the parameters of the model by name, and those of the loss, if it is a module, as `loss_f.name`."""
    named = dict(inside(learn.model).named_parameters())
    if isinstance(learn.loss_f, nn.Module):
        of_model = set(named.values())
        named |= {f"loss_f.{name}": p for name, p in learn.loss_f.named_parameters() if p not in of_model}
    return named


def other_parameters(learn: Learner, opt: torch.optim.Optimizer | None) -> list[nn.Parameter]:
    """Return what an optimizer trains and neither the model nor the loss holds, in its order."""
    if opt is None:
        return []
    named = set(named_parameters(learn).values())
    return [p for group in opt.param_groups for p in group["params"] if p not in named]


def make_optimizer(learn: Learner) -> torch.optim.Optimizer:
    """Call `opt_func` with all parameters and the learner's rate, whatever a fit asks for: so proportions can be seen.

    An `opt_func` that brings the parameters of `loss_f` along itself gets those of the model alone, since an optimizer
    must hold each once. One with `takes_model = True` gets the model in place of the parameters and, where that is a
    module that has some as well, the loss as `loss_f`.

    Raises:
        TypeError: if it returns no optimizer.
    """
    if getattr(learn.opt_func, "takes_model", False):
        has_own = isinstance(learn.loss_f, nn.Module) and any(True for _ in learn.loss_f.parameters())
        return _checked(learn.opt_func(learn.model, **({"loss_f": learn.loss_f} if has_own else {}), lr=learn.lr))
    of_model = list(learn.model.parameters())
    of_loss = list(named_parameters(learn).values())[len(of_model) :]
    if not of_loss:
        return _checked(learn.opt_func(of_model, lr=learn.lr))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "optimizer contains a parameter group with duplicate parameters")
            return _checked(learn.opt_func([*of_model, *of_loss], lr=learn.lr))
    except (ValueError, UserWarning):
        return _checked(learn.opt_func(of_model, lr=learn.lr))


def adopt(learn: Learner, opt: torch.optim.Optimizer, *, is_own: bool) -> None:
    """Take an optimizer as the learner's, with the rates it has now; say by name what it leaves out.

    Raises:
        LearnerError: if it holds nothing that can be trained, or nothing of the model.
    """
    trainable = _trainable(learn)
    outside = _outside(trainable, opt)
    if trainable and len(outside) == len(trainable):
        held = {p for group in opt.param_groups for p in group["params"]}
        if frozen := [name for name, p in named_parameters(learn).items() if p in held]:
            raise LearnerError(
                f"`opt` must hold a parameter that can be trained, got frozen ones alone, {_listed(frozen)}; unfreeze "
                f"them with `requires_grad_(True)`, or give the optimizer those that are not, such as "
                f"{_listed(trainable)}."
            )
        raise LearnerError(
            "`opt` must hold parameters of the model, got none of them; if the model was replaced, set "
            "`learn.opt = None` to have a new optimizer made."
        )
    learn.opt = opt
    learn.rates = BaseRates(opt, learn.lr, is_own=is_own, left_out=outside.values())
    if outside:
        warnings.warn(
            f"{'`learn.opt`' if is_own else '`opt_func`'} leaves out {_listed(outside)}, so nothing trains them; if "
            f"that is meant, freeze them with `requires_grad_(False)`, else add them to the optimizer.",
            RuntimeWarning,
            stacklevel=2,
        )


def take_stock(learn: Learner) -> None:
    """See to it that the optimizer holds all that can be trained, but for what it left out when it was made.

    Gradients of what it left out are cleared all the same: `learn._outside` is what `zero_grad` clears besides.

    Raises:
        LearnerError: if there is nothing to train, or a parameter came after the optimizer was made.
    """
    trainable = _trainable(learn)
    if not trainable:
        raise nothing_to_train(learn.model)
    if learn.opt is None:
        adopt(learn, make_optimizer(learn), is_own=False)
    elif learn.rates is None or learn.rates.opt is not learn.opt:
        adopt(learn, learn.opt, is_own=True)
    opt, rates = learn.opt, learn.rates
    outside = _outside(trainable, opt)  # type: ignore[arg-type]  # it has just been made
    if new := [name for name, p in outside.items() if p not in rates.left_out]:  # type: ignore[union-attr]
        raise LearnerError(
            f"`opt` must hold every parameter that can be trained, but {_listed(new)} came after it was made: a new "
            f"layer, an unfrozen one, another model. Set `learn.opt = None` to have the optimizer made anew, or keep "
            f"its moments with `learner.optim.add_to(learn.opt, learn.model)`."
        )
    learn._outside = tuple(outside.values())
    learn._needs_closure = needs_closure(learn.opt)


def _trainable(learn: Learner) -> dict[str, nn.Parameter]:
    return {name: p for name, p in named_parameters(learn).items() if p.requires_grad}


def _outside(trainable: dict[str, nn.Parameter], opt: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Return those that an optimizer does not hold."""
    held = {p for group in opt.param_groups for p in group["params"]}
    return {name: p for name, p in trainable.items() if p not in held}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else ""
    return ", ".join(names[:_N_LISTED]) + more


def _checked(opt: object) -> torch.optim.Optimizer:
    if not isinstance(opt, torch.optim.Optimizer):
        raise TypeError(f"`opt_func` must return an optimizer, got {type(opt).__name__}.")
    return opt
