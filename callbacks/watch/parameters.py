"""Choose parameters of a model by name, by glob, or by the modules that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn

from learner.data.signature import nearest
from learner.interrogate.layers import Layer, find_layers, named_layers

Choice: TypeAlias = nn.Module | Tensor | str | int


def checked_choices(choices: Choice | Iterable[Choice] | None) -> list[Choice] | None:
    """Return one choice or several as a list, or None.

    Raises:
        TypeError: for a choice of another type, which is named.
    """
    if choices is None:
        return None
    given = [choices] if isinstance(choices, nn.Module | Tensor | str | int) else list(choices)
    for choice in given:
        if not isinstance(choice, nn.Module | Tensor | str | int) or isinstance(choice, bool):
            raise TypeError(f"`parameters` must hold parameters, modules, names, globs or positions, got {choice!r}.")
    return given


def chosen_parameters(
    model: nn.Module,
    choices: list[Choice] | None,
    param_filter: Callable[[nn.Parameter], object] | None = None,
) -> dict[str, nn.Parameter]:
    """Return parameters of a model by dotted name, in its order, each once and by the first of its names.

    Args:
        model: where they are; names of wrappers (`torch.compile`, data parallel) are left out.
        choices: parameters; their dotted names or globs of these, such as "encoder.**.weight"; modules, names, globs or
            positions of modules, for all that is in them; None for all.
        param_filter: a function of a parameter that says whether to keep it.

    Raises:
        ValueError: if a choice fits no parameter of the model, or none is kept.

    Example:
        >>> model = nn.ModuleDict({"body": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
        >>> list(chosen_parameters(model, ["head", "*.bias"]))
        ['body.bias', 'head.weight', 'head.bias']
    """
    places = named_layers(model).items()
    inside = {f"{place}.{key}".lstrip("."): p for place, m in places for key, p in m.named_parameters(recurse=False)}
    names = {p: name for name, p in reversed(inside.items())}
    wanted = set(inside.values()) if choices is None else set()
    for choice in choices or ():
        if not (found := names.keys() & _parameters_of(model, choice)):
            raise ValueError(
                f"`parameters` must be parameters of the learner's model, modules that have some, or names or globs of "
                f"these, got {_describe(choice)}{_hint(choice, inside)}; there is {', '.join(inside)}."
            )
        wanted |= found
    chosen = {name: p for name, p in inside.items() if names[p] == name and p in wanted}
    kept = {name: p for name, p in chosen.items() if param_filter is None or param_filter(p)}
    if not kept:
        raise ValueError(f"`parameters` and `param_filter` must leave something to watch, got none of {len(chosen)}.")
    return kept


def _parameters_of(model: nn.Module, choice: Choice) -> set[Tensor]:
    """Return the parameters that a choice names: itself, those in a module, or those whose names match."""
    if isinstance(choice, Tensor):
        return {choice}
    meant: set[Tensor] = {p for layer in _layers(model, choice) for p in layer.module.parameters()}
    if isinstance(choice, str):
        place, _, key = choice.rpartition(".")
        for layer in _layers(model, place or 0):
            meant |= {p for name, p in layer.module.named_parameters(recurse=False) if fnmatchcase(name, key)}
    return meant


def _layers(model: nn.Module, choice: nn.Module | str | int) -> list[Layer]:
    """Return the whole modules that a choice names; an empty list if it names none."""
    try:
        found = find_layers(model, [choice])[choice]
    except ValueError:  # a parameter's name, most often
        return []
    return [layer for layer in found if not layer.is_input and layer.part is None]


def _hint(choice: Choice, names: Iterable[str]) -> str:
    if not isinstance(choice, str):
        return ""
    return " (`*` stops at a dot, `**` does not)" if "*" in choice else nearest(choice, names)


def _describe(choice: Choice) -> str:
    return repr(choice) if isinstance(choice, str | int) else f"a {type(choice).__name__}"
