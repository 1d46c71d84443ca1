"""Several optimizers as one: those of a GAN, of an actor and a critic, of sparse and dense parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learner.optim.table import groups_html, groups_text


class Optimizers(Optimizer):
    """Several optimizers as one `learn.opt`, so that whatever sees that one sees all of them.

    Schedules, clipping, `fit(lr=...)`, `lr_find`, `save`, `load`, `resume` and sandboxes treat their groups as those of
    one optimizer. `step` and `zero_grad` are those of each in turn; a callback that owns `step` may step one by its
    name: `learn.opt["D"].step()`. They show their groups as a table, as text and in a notebook.

    Args:
        opts: the optimizers, by name.

    Attributes:
        opts: the same.

    Raises:
        TypeError: if one is not an optimizer.
        ValueError: if there is none, or a parameter is in two of them.

    Example:
        >>> from functools import partial
        >>> from torch import nn
        >>> gan = nn.ModuleDict({"G": nn.Linear(2, 3), "D": nn.Linear(3, 1)})
        >>> opt = Optimizers(
        ...     D=torch.optim.Adam(gan["D"].parameters(), lr=2e-3), G=torch.optim.SGD(gan["G"].parameters(), lr=1e-3)
        ... )
        >>> opt
        Optimizers
          optimizer  names            parameters  lr     weight_decay
          D (Adam)   2 without names  4           0.002  0
          G (SGD)    2 without names  9           0.001  0
        >>> gan["D"](gan["G"](torch.ones(1, 2))).sum().backward()
        >>> opt["D"].step()
        >>> len(opt["D"].state), len(opt["G"].state)
        (2, 0)
    """

    opts: dict[str, Optimizer]
    _order: list[tuple[str, int]]  # which group of which optimizer each one is; those that came later are at the end
    _lengths: dict[str, int]  # how many groups each had then

    def __init__(self, /, **opts: Optimizer) -> None:
        _check(opts)
        self.__setstate__({"opts": opts, "_order": [], "_lengths": {}})
        self._places()

    def __getitem__(self, name: str) -> Optimizer:
        try:
            return self.opts[name]
        except KeyError:
            raise KeyError(f"`name` must be one of {', '.join(self.opts)}, got {name!r}.") from None

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # torch has an attribute
        """The groups of all, in a new list; they themselves are those of the optimizers."""
        return [self.opts[name].param_groups[i] for name, i in self._places()]

    @property
    def state(self) -> Mapping[Any, Any]:  # type: ignore[override]  # torch has an attribute
        """What all of them remember of each parameter, to be read."""
        return MappingProxyType({p: values for opt in self.opts.values() for p, values in opt.state.items()})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let each make its step, in the order in which they were given; a closure is called once, before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for opt in self.opts.values():
            opt.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all."""
        for opt in self.opts.values():
            opt.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group, since nobody knows whose it is.

        Raises:
            ValueError: always; says how to add it.
        """
        raise ValueError(
            f"`opt` must be one of several optimizers to get a group, got all of them; give it to the one that it is "
            f'for, as `learn.opt["{next(iter(self.opts))}"]`.'
        )

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Give each what it had when `state_dict` was called.

        Raises:
            ValueError: if there are other groups, or groups of other sizes.
        """
        places, groups = self._places(), state_dict["param_groups"]
        if (here := _sizes(self.param_groups)) != (saved := _sizes(groups)):
            raise ValueError(f"`state_dict` must have groups of {here} parameters, got {saved}.")
        parts: dict[str, dict[str, Any]] = {name: {"state": {}, "param_groups": []} for name in self.opts}
        for (name, _), group in zip(places, groups, strict=True):
            parts[name]["param_groups"].append(group)
            parts[name]["state"] |= {i: state_dict["state"][i] for i in group["params"] if i in state_dict["state"]}
        for name, opt in self.opts.items():
            opt.load_state_dict(parts[name])

    def register_step_pre_hook(self, hook: Any) -> Any:
        """Call a hook before each step that one of them makes, with that one."""
        return _Handles(opt.register_step_pre_hook(hook) for opt in self.opts.values())

    def register_step_post_hook(self, hook: Any) -> Any:
        """Call a hook after each step that one of them has made, with that one."""
        return _Handles(opt.register_step_post_hook(hook) for opt in self.opts.values())

    def __getstate__(self) -> dict[str, Any]:
        return {"opts": self.opts, "_order": self._order, "_lengths": self._lengths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"defaults": {}, **state})
        self.register_step_post_hook(self._note_step)

    def __repr__(self) -> str:
        return groups_text(self, self._labels())

    def _repr_html_(self) -> str:
        return groups_html(self, self._labels())

    def _places(self) -> list[tuple[str, int]]:
        """Return the order of the groups, brought up to date: each optimizer may have got groups, or lost the last."""
        lengths = {name: len(opt.param_groups) for name, opt in self.opts.items()}
        if lengths != self._lengths:
            kept = [(name, i) for name, i in self._order if i < lengths[name]]
            new = [(name, i) for name, n in lengths.items() for i in range(n) if (name, i) not in kept]
            self._order, self._lengths = kept + new, lengths
        return self._order

    def _labels(self) -> list[str]:
        return [f"{name} ({kind_of(self.opts[name])})" for name, _ in self._places()]

    def _note_step(self, *_: Any) -> None:
        vars(self)["_opt_called"] = True  # what torch's schedules look for, also where one is stepped by its name


class _Handles:
    """Handles of hooks, to be removed at once."""

    def __init__(self, handles: Iterator[Any]) -> None:
        self._handles = list(handles)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def parts_of(opt: Optimizer) -> list[Optimizer]:
    """Return the optimizers that an optimizer is made of: itself, or those that it has by name.

    Example:
        >>> a, b = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]) for _ in range(2))
        >>> parts_of(a) == [a], parts_of(Optimizers(a=a, b=b)) == [a, b]
        (True, True)
    """
    return [part for each in opt.opts.values() for part in parts_of(each)] if isinstance(opt, Optimizers) else [opt]


def replace_parameters(opt: Optimizer, new: Mapping[Tensor, Tensor]) -> None:
    """Let an optimizer hold other tensors in the place of its parameters, and remember the same of them.

    Args:
        opt: the optimizer, one of `parts_of`.
        new: by what it replaces; parameters that are not here stay.

    Example:
        >>> old, new = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> opt = torch.optim.SGD([old])
        >>> replace_parameters(opt, {old: new})
        >>> opt.param_groups[0]["params"][0] is new
        True
    """
    for group in opt.param_groups:
        group["params"] = [new.get(p, p) for p in group["params"]]
    state = {new.get(p, p): values for p, values in opt.state.items()}
    opt.state.clear()
    opt.state.update(state)


def kind_of(opt: Optimizer) -> str:
    """Return the name of the class of an optimizer; of several, those of each.

    Example:
        >>> kind_of(Optimizers(D=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])))
        'Optimizers(D=SGD)'
    """
    if not isinstance(opt, Optimizers):
        return type(opt).__name__
    return f"{type(opt).__name__}({', '.join(f'{name}={kind_of(each)}' for name, each in opt.opts.items())})"


def _sizes(groups: list[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _check(opts: Mapping[str, Any]) -> None:
    if not opts:
        raise ValueError("`opts` must be optimizers by name, as `Optimizers(D=..., G=...)`, got none.")
    owners: dict[Any, str] = {}
    for name, opt in opts.items():
        if not isinstance(opt, Optimizer):
            raise TypeError(f"`{name}` must be an optimizer, got {type(opt).__name__}.")
        for other, own in opts.items():
            if own is opt and other != name:
                raise ValueError(f"`{name}` must be another optimizer than `{other}`, got the same one.")
        for i, p in enumerate(p for group in opt.param_groups for p in group["params"]):
            if owners.setdefault(p, name) != name:
                raise ValueError(
                    f"`{name}` must hold parameters of its own, but its number {i}, of shape {tuple(p.shape)}, is in "
                    f"`{owners[p]}` as well; let one optimizer train it."
                )
