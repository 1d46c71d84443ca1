"""Find the layers of a model by what people call them: dotted names, globs, positions, the modules themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn

from learner.data.signature import nearest, unwrapped

_N_LISTED = 30  # names in an error; more are not read


class Layer(NamedTuple):
    """A place in a model to look at.

    Attributes:
        name: what it is called: the dotted name of the module, "" for the model, and the part, as in `lstm:0`.
        module: the module.
        is_input: whether it is what goes in, and not what comes out.
        part: one element, by number or key, of what goes in or comes out; all of it if None.
        is_certain: whether it was asked for by itself, and not as one of many by a glob.
    """

    name: str
    module: nn.Module
    is_input: bool = False
    part: int | str | None = None
    is_certain: bool = True


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return each module of a model by its dotted name, in the order of `named_modules()`; "" is the model.

    Wrappers (`torch.compile`, data parallel) are left out, of the model and of its parts, and so are their names.

    Example:
        >>> list(named_layers(nn.DataParallel(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))))
        ['', '0', '1']
    """
    return {name: module for name, module, is_again in _walk(model) if not is_again}


def find_layers(
    model: nn.Module, wanted: Iterable[Any], argument: str = "layers"
) -> dict[int | str | nn.Module, list[Layer]]:
    """Return the layers that are meant, by what they were asked for; several for a glob, else one.

    Args:
        model: the model to look in; wrappers around it or its parts do not matter.
        wanted: dotted names; globs, in which `*` stands for anything but a dot and `**` for anything; positions in
            `named_layers` (0 is the model); modules. A name may end in a part: `:in` is what goes in, `:0` or `:key`
            an element of a tuple or mapping.
        argument: what they are called in an error.

    Raises:
        ValueError: if there is no such layer; names the nearest.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.LSTM(2, 2))
        >>> [layer.name for layer in find_layers(model, ["?", "1:0"])["?"]]
        ['0', '1']
        >>> find_layers(model, ["1:in"])["1:in"][0].is_input
        True
    """
    walked = list(_walk(model))
    by_name = {name: module for name, module, _ in walked}
    listed = [name for name, _, is_again in walked if not is_again]
    names = {module: name for name, module, is_again in walked if not is_again}
    found = {}
    for want in wanted:
        if isinstance(want, nn.Module):
            inner = inside(want)
            layers = [Layer(names[inner], inner)] if inner in names else []
        elif isinstance(want, int) and not isinstance(want, bool):
            layers = [Layer(listed[want], by_name[listed[want]])] if 0 <= want < len(listed) else []
        elif isinstance(want, str):
            layers = _by_name(want, by_name, listed)
        else:
            layers = []
        if not layers:
            raise ValueError(
                f"`{argument}` must be names, globs, positions or modules of the model, got {_shown(want)}"
                f"{_hint(want, listed)}; there is {_listing(listed)}."
            )
        found[want] = layers
    return found


def places_by_name(model: nn.Module, layers: Iterable[Any]) -> dict[Any, list[Layer]]:
    """Return layers by what they were asked for, those of a glob by their names, each alone.

    Raises:
        TypeError: if `layers` is one layer, not several.
        ValueError: if there is no such layer.

    Example:
        >>> list(places_by_name(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), [0, "?"]))
        [0, '0', '1']
    """
    if layers is None or isinstance(layers, str | int | nn.Module):
        raise TypeError(f"`layers` must be a sequence of layers, got {layers!r}; pass ({layers!r},).")
    found = find_layers(model, layers)
    named = {want: places for want, places in found.items() if places[0].is_certain}
    return named | {place.name: [place] for places in found.values() for place in places if not place.is_certain}


def _walk(
    module: nn.Module, name: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module, bool]]:
    """Give each module by each of its names, and whether it had one before."""
    module, seen = inside(module), set() if seen is None else seen
    is_again = module in seen
    seen.add(module)
    yield name, module, is_again
    for child_name, child in module._modules.items():  # `named_children` gives one that has two names once
        if child is not None:
            yield from _walk(child, f"{name}.{child_name}" if name else child_name, seen)


def inside(module: nn.Module) -> nn.Module:
    """Return what a wrapper wraps; what has other children besides is more than a wrapper.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> inside(nn.DataParallel(layer)) is layer
        True
    """
    return unwrapped(module) if len(module._modules) == 1 else module


def _by_name(want: str, by_name: dict[str, nn.Module], listed: list[str]) -> list[Layer]:
    if want in by_name:
        return [Layer(want, by_name[want])]
    name, *parts = want.split(":")
    is_input = parts[:1] == ["in"]
    if len(parts) > 1 + is_input:
        return []
    key = parts[-1] if len(parts) > is_input else None
    part = int(key) if key is not None and key.isdecimal() else key
    tail = want[len(name) :]
    if name not in by_name:
        name = ".".join(piece for piece in name.split(".") if piece not in ("_orig_mod", "module"))
    if name in by_name:
        return [Layer(name + tail, by_name[name], is_input, part)]
    if not any(character in name for character in "*?["):
        return []
    fitting = [n for n in listed if fits(name, n)]
    return [Layer(n + tail, by_name[n], is_input, part, is_certain=False) for n in fitting]


def fits(glob: str, name: str) -> bool:
    """Tell whether a glob means a layer: `*` stands for anything but a dot, `**` for anything.

    Example:
        >>> fits("blocks.*", "blocks.0"), fits("blocks.*", "blocks.0.norm"), fits("**.norm", "blocks.0.norm")
        (True, False, True)
    """
    is_named = bool(name) or glob == "**"  # `*` is any layer, but not the model
    return is_named and re.fullmatch(_regex(glob), name) is not None


def _regex(glob: str) -> str:
    pieces = re.findall(r"\*\*\.?|\*|\?|\[!?[^\]]+\]|.", glob)
    wild = {"**.": r"(?:.*\.)?", "**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return "".join(
        wild[piece] if piece in wild else piece.replace("[!", "[^") if len(piece) > 1 else re.escape(piece)
        for piece in pieces
    )


def _hint(want: Any, listed: list[str]) -> str:
    if isinstance(want, list | tuple):
        return " (pass them one by one)"
    if not isinstance(want, str):
        return ""
    if want.count(":") > 1 + (":in" in want):
        return " (a name ends in one part, as `:in`, `:0` or `:in:0`)"
    if "*" in want and "**" not in want:
        return " (`*` stops at a dot, `**` does not)"
    return nearest(want.split(":")[0], listed)


def _shown(want: Any) -> str:
    return f"a {type(want).__name__} that it has not" if isinstance(want, nn.Module) else repr(want)


def _listing(listed: list[str]) -> str:
    shown = ", ".join(f"{i} {name or '(the model)'}" for i, name in enumerate(listed[:_N_LISTED]))
    more = len(listed) - _N_LISTED
    return shown + (f", and {more} more" if more > 0 else "")
