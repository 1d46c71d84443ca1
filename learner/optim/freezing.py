"""Which parameters of a model train and which are frozen, by the names of its layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from torch import Tensor, nn

from learner.interrogate.layers import find_layers, fits, named_layers
from learner.optim.names import NORMS, all_names, meant_by

Layer: TypeAlias = str | int | nn.Module | Tensor


def freeze(model: nn.Module, *layers: Layer, norms: bool = False) -> None:
    """Set `requires_grad` of all parameters in some layers to False, and leave the norms in them as they are.

    The norms of torch (batch, instance, layer, group, RMS) inside of the layers train on if they do, as in fast.ai, so
    that they follow the data that is new to the others; but those that are asked for by themselves are frozen.
    Train/eval modes are not touched: a batch norm that is frozen goes on counting its statistics unless it is in eval
    mode.

    An optimizer may hold what is frozen: it does not move, neither by momentum nor by weight decay.

    Args:
        model: the model; wrappers around it do not matter.
        layers: names of layers or parameters, globs of these (`*` stands for anything but a dot, `**` for anything),
            positions in `named_modules()`, modules, parameters. All of the model, its norms too, if none is given.
        norms: whether to freeze the norms in the layers as well.

    Raises:
        ValueError: if one of them is not in the model or has no parameters; names the nearest.

    Example:
        >>> model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), "head": nn.Linear(8, 2)})
        >>> freeze(model, "body")
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['body.1.weight', 'body.1.bias', 'head.weight', 'head.bias']
    """
    for p in parameters_in(model, layers, norms=norms).values():
        p.requires_grad = False  # a method would not do for a lazy one


def unfreeze(model: nn.Module, *layers: Layer) -> None:
    """Set `requires_grad` of all parameters in some layers to True, those of norms too.

    What the optimizer holds trains on at once, in the middle of a fit too. What it was made without is an error at the
    next pass, which says how to give it to the optimizer.

    Args:
        model: the model.
        layers: as for `freeze`; all of the model if none is given.

    Raises:
        ValueError: if one of them is not in the model or has no parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> freeze(model)
        >>> unfreeze(model, "1")
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['1.weight', '1.bias']
    """
    for p in parameters_in(model, layers, norms=True).values():
        if p.is_floating_point() or p.is_complex():  # others, as of quantized layers, cannot have a gradient
            p.requires_grad = True


def parameters_in(model: nn.Module, layers: Iterable[Layer], *, norms: bool) -> dict[str, nn.Parameter]:
    """Return the parameters in some layers by name, or all; those of norms only as `freeze` says.

    Raises:
        ValueError: if a layer is not in the model, or there is nothing of it to return.
    """
    names = all_names(model)
    of_norms = {place for place, module in named_layers(model).items() if isinstance(module, NORMS)}
    found: set[str] = set(names) if not layers else set()
    for want in layers:
        meant, place = _meant(model, want, names)
        asked = {name for name in meant if norms or name.rpartition(".")[0] not in of_norms or _is_asked(place, name)}
        if not asked:
            what = "norms alone, which stay as they are; do `norms=True`" if meant else "no parameters"
            raise ValueError(f"`layers` must hold parameters to freeze or unfreeze, but {want!r} holds {what}.")
        found |= asked
    return {name: p for name, p in names.items() if name in found}


def _meant(model: nn.Module, want: Layer, names: dict[str, nn.Parameter]) -> tuple[list[str], str]:
    """Return the names of the parameters that are meant, and the name or glob by which they were asked for."""
    if isinstance(want, str):
        return meant_by(want, names, "layers"), want
    if isinstance(want, Tensor):
        place = next((name for name, p in names.items() if p is want), None)
        if place is None:
            raise ValueError(
                f"`layers` must be in the model, got a parameter of shape {tuple(want.shape)} that is not."
            )
        return [place], place
    place = find_layers(model, [want])[want][0].name
    return [name for name in names if not place or name.startswith(f"{place}.")], place


def _is_asked(glob: str, name: str) -> bool:
    """Tell whether the parameter of a norm was asked for itself, or the norm, and not only a layer around them."""
    return fits(glob, name) or fits(glob, name.rpartition(".")[0])
