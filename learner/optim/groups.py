"""Parameter groups by the names of parameters: for an optimizer that is made, and for one that is there already."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from learner.data.numbers import real_number
from learner.optim.blocks import blocks_of
from learner.optim.names import NORMS, all_names, first_names, meant_by
from learner.optim.table import showing

_NO_FACTORS: Mapping[str, float] = MappingProxyType({})


def param_groups(
    opt_class: type[Optimizer],
    *,
    no_decay: str | Iterable[str] = (),
    lr: Mapping[str, float] = _NO_FACTORS,
    layer_decay: float | None = None,
    **options: Any,
) -> _ParamGroups:
    """Return an `opt_func` that makes an optimizer with groups by the names of parameters.

    A glob means the parameters whose dotted name it fits, and all those inside of a layer whose name it fits; `*`
    stands for anything but a dot, `**` for anything. Parameters of a loss that is a module are called `loss_f.name`. A
    parameter that is tied, and so has several names, is there once. Frozen parameters are in the groups as well: they
    do not move while they are frozen, and train on when they are unfrozen.

    The optimizer is of `opt_class`. It shows its groups as a table, as text and in a notebook; the names are in
    `group["param_names"]`.

    Args:
        opt_class: a class of optimizers, such as `torch.optim.AdamW`.
        no_decay: globs of what gets no weight decay; "auto" for all parameters of one dimension (biases) and those of
            norms.
        lr: factors of the learner's rate, by globs. What none of them means gets the learner's rate as it is.
        layer_decay: factor of the rate from one block of the model to the block before it (0-1]; the last block, the
            head, gets the learner's rate. `learner.optim.blocks.blocks_of` says what a block is. Multiplies with `lr`.
        options: of the optimizer, for all groups.

    Raises:
        TypeError, ValueError: if an argument is of the wrong kind or out of range.
        ValueError: when the optimizer is made, if a glob fits no parameter, or two globs of `lr` fit the same one.

    Source:
        The decay by layers: Clark et al., ELECTRA (2020), appendix A; Bao et al., BEiT (2021).

    Example:
        >>> import torch
        >>> from learner import Learner
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> adamw = param_groups(torch.optim.AdamW, no_decay="auto", lr={"0": 0.1}, weight_decay=0.05)
        >>> data = [(torch.ones(2, 4), torch.tensor([0, 1]))]
        >>> learn = Learner(model, {"train": data}, nn.functional.cross_entropy, lr=0.01, opt_func=adamw)
        >>> learn.fit(1)
        >>> learn.opt
        AdamW
          names                     parameters  lr     weight_decay
          0.weight                  32          0.001  0.05
          0.bias                    8           0.001  0
          1.weight, 1.bias, 2.bias  18          0.01   0
          2.weight                  16          0.01   0.05
    """
    return _ParamGroups(opt_class, no_decay, lr, layer_decay, options)


class _ParamGroups:
    """What `param_groups` returns: makes an optimizer of a model and, where that is a module too, its loss."""

    takes_model = True

    def __init__(
        self,
        opt_class: type[Optimizer],
        no_decay: str | Iterable[str],
        lr: Mapping[str, float],
        layer_decay: float | None,
        options: dict[str, Any],
    ) -> None:
        _check_class(opt_class, options)
        self.opt_class: Any = opt_class
        self.options = options
        self.no_decay = (no_decay,) if isinstance(no_decay, str) else tuple(no_decay)
        self.lr, self.layer_decay = _checked_factors(lr), _checked_decay(layer_decay)
        self.__name__ = opt_class.__name__  # what a learner without an optimizer calls it

    def __call__(self, model: nn.Module, lr: float, loss_f: nn.Module | None = None) -> Optimizer:
        modules = {"": model} if loss_f is None else {"": model, "loss_f": loss_f}
        names = {name: p for prefix, module in modules.items() for name, p in all_names(module, prefix).items()}
        factors, undecayed = self._factors(model, names), self._undecayed(modules, names)
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for p, name in first_names(names).items():
            kind = (factors[p], p in undecayed)
            groups.setdefault(kind, {"params": [], "lr": lr * kind[0], **({"weight_decay": 0.0} if kind[1] else {})})
            groups[kind]["params"].append((name, p))
        _check_rates(lr, {factor for factor, _ in groups})
        opt: Optimizer = showing(self.opt_class)(list(groups.values()), lr=lr, **self.options)
        if self.no_decay and "weight_decay" not in opt.defaults:
            raise ValueError(f"`no_decay` must be left out for {self.__name__}, which has no `weight_decay`.")
        return opt

    def _factors(self, model: nn.Module, names: Mapping[str, nn.Parameter]) -> dict[nn.Parameter, float]:
        """Return what the learner's rate is multiplied with for each parameter."""
        factors = dict.fromkeys(names.values(), 1.0)
        if self.layer_decay is not None:
            for n_behind, block in enumerate(reversed(blocks_of(model))):
                factors.update(dict.fromkeys(block, self.layer_decay**n_behind))
        globs: dict[nn.Parameter, str] = {}
        for glob, factor in self.lr.items():
            for p, name in first_names({name: names[name] for name in meant_by(glob, names, "lr")}).items():
                if p in globs:
                    raise ValueError(
                        f"`lr` must mean each parameter by one glob, got {globs[p]!r} and {glob!r} for {name}; make "
                        f"them narrower."
                    )
                globs[p] = glob
                factors[p] *= factor
        return factors

    def _undecayed(self, modules: Mapping[str, nn.Module], names: Mapping[str, nn.Parameter]) -> set[nn.Parameter]:
        """Return the parameters that get no weight decay."""
        undecayed: set[nn.Parameter] = set()
        for glob in self.no_decay:
            if glob != "auto":
                undecayed.update(names[name] for name in meant_by(glob, names, "no_decay"))
                continue
            if lazy := next((name for name, p in names.items() if is_lazy(p)), None):
                raise ValueError(
                    f"`no_decay='auto'` must see the shapes of all parameters, but {lazy} is lazy; call the model on a "
                    f"batch first."
                )
            norms = [m for module in modules.values() for m in module.modules() if isinstance(m, NORMS)]
            undecayed.update(p for norm in norms for p in norm.parameters(recurse=False))
            undecayed.update(p for p in names.values() if p.ndim <= 1)
        return undecayed


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
    if isinstance(what, nn.Module):
        named: Mapping[str, Any] = all_names(what)
    else:
        named = {f"added.{i}": p for i, p in enumerate([what] if isinstance(what, Tensor) else what)}
    held = {p for group in opt.param_groups for p in group["params"]}
    new = [(name, p) for p, name in first_names(named).items() if p.requires_grad and p not in held]
    if not new:
        raise ValueError("`what` must hold a parameter that can be trained and that `opt` does not hold, got none.")
    has_names = any("param_names" in group for group in opt.param_groups)  # torch wants them in all groups or in none
    opt.add_param_group({"params": new if has_names else [p for _, p in new], **options})


def _check_class(opt_class: Any, options: Mapping[str, Any]) -> None:
    if not isinstance(opt_class, type) or not issubclass(opt_class, Optimizer):
        raise TypeError(
            f"`opt_class` must be a class of optimizers, as `torch.optim.AdamW`, got {opt_class!r}; its options are "
            f"given beside it, as `param_groups(torch.optim.AdamW, weight_decay=0.1)`."
        )
    try:
        inspect.signature(opt_class).bind([], lr=1.0, **options)
    except TypeError as error:
        raise TypeError(
            f"`options` must be what {opt_class.__name__} takes beside parameters and lr: {error}."
        ) from None


def _checked_factors(lr: Any) -> dict[str, float]:
    if not isinstance(lr, Mapping):
        raise TypeError(
            f"`lr` must map globs of parameters to factors of the learner's rate, as {{'body': 0.1}}, got {lr!r}; the "
            f"rate itself goes to `Learner(..., lr=...)`."
        )
    for glob, factor in lr.items():
        real_number(factor, f"lr[{glob!r}]")
        if not math.isfinite(factor) or factor < 0:
            raise ValueError(f"`lr[{glob!r}]` must be a finite factor of at least 0, got {float(factor)}.")
    return {glob: float(factor) for glob, factor in lr.items()}


def _checked_decay(layer_decay: Any) -> float | None:
    if layer_decay is None:
        return None
    real_number(layer_decay, "layer_decay")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay` must be above 0 and at most 1, got {float(layer_decay)}.")
    return float(layer_decay)


def _check_rates(lr: float, factors: set[float]) -> None:
    """Refuse rates that would lose their proportions, or to which the learner's would be no measure."""
    if len(factors) > 1 and lr == 0:
        raise ValueError("`lr` of the learner must be above 0 for groups in proportion to it, got 0; do `fit(lr=0)`.")
    if len(factors) == 1 and factors != {1.0}:
        raise ValueError(
            f"`lr` must leave parameters at the learner's rate, or differ, got the factor {factors.pop()} for all; "
            f"change the `lr` of the learner instead."
        )
