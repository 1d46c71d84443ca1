"""Parameters of a model by what people call them: their dotted names, globs of these, and the layers they are in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from learner.data.signature import nearest
from learner.interrogate.layers import fits, named_layers

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)  # the last: batch and instance norms
_N_LISTED = 30  # names in an error


def all_names(model: nn.Module, prefix: str = "") -> dict[str, nn.Parameter]:
    """Return parameters by each of their names, of which one that is tied has several; wrappers have no part in them.

    Example:
        >>> model = nn.ModuleDict({"embed": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
        >>> model["head"].weight = model["embed"].weight
        >>> list(all_names(model))
        ['embed.weight', 'head.weight']
    """
    return {
        ".".join(filter(None, (prefix, place, key))): p
        for place, module in named_layers(model).items()
        for key, p in module._parameters.items()
        if p is not None
    }


def first_names(names: Mapping[str, nn.Parameter]) -> dict[nn.Parameter, str]:
    """Return the first name of each parameter, in their order."""
    first: dict[nn.Parameter, str] = {}
    for name, p in names.items():
        first.setdefault(p, name)
    return first


def means(glob: str, name: str) -> bool:
    """Tell whether a glob means a parameter: it fits its name, or that of a layer that the parameter is in.

    Example:
        >>> [glob for glob in ("body", "body.*", "**.bias", "*.bias") if means(glob, "body.0.bias")]
        ['body', 'body.*', '**.bias']
    """
    return any(fits(glob, place) for place in _places(name))


def meant_by(glob: str, names: Iterable[str], argument: str) -> list[str]:
    """Return those names that a glob means.

    Raises:
        TypeError: if it is not a string.
        ValueError: if it means none; lists those there are.
    """
    if not isinstance(glob, str):
        raise TypeError(f"`{argument}` must hold names or globs of parameters and layers, got {glob!r}.")
    if found := [name for name in names if means(glob, name)]:
        return found
    listed = list(names)
    near = nearest(glob, [place for name in listed for place in _places(name)])
    hint = " (`*` stops at a dot, `**` does not)" if "*" in glob and "**" not in glob else near
    more = f", and {len(listed) - _N_LISTED} more" if len(listed) > _N_LISTED else ""
    raise ValueError(
        f"`{argument}` must hold names or globs of parameters of the model, or of layers that they are in, got "
        f"{glob!r}{hint}; there is {', '.join(listed[:_N_LISTED])}{more}."
    )


def _places(name: str) -> list[str]:
    """Return the name of a parameter and those of the layers that it is in."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
